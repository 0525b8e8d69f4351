"""How the app is launched: its limits, and the checks that a request passes before Gradio looks at it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from sisrm.ui.api import FEWEST_VALUES
from sisrm.ui.endpoints import UNFINISHED, errors_for_people
from sisrm.ui.guard import MAX_UPLOAD_BYTES, Guard, blocked_paths, check_inputs, folders_of_files
from sisrm.ui.handlers import Handlers
from sisrm.ui.health import health_route
from sisrm.ui.showcase import Showcase
from sisrm.ui.storage import Storage, max_bytes
from sisrm.ui.theme import CSS, theme

MAX_WAITING = 32
"""Most jobs that wait for their turn; whoever asks for one more is told that the queue is full."""

MAX_SESSIONS = 100
"""Visitors and scripts whose state (the last results) is remembered, the latest ones; of each Gradio keeps a fifth of a megabyte, and by
default of ten thousand."""

PROJECT = Path(__file__).resolve().parent.parent.parent


def mcp_works() -> bool:
    """Whether the package `mcp` is there, in a version that Gradio's MCP server works with."""
    try:
        return version("mcp").split(".")[0] == "1"
    except PackageNotFoundError:
        return False


class App(gr.Blocks):
    """The app; `serve` starts it with the settings it is meant to run with."""

    translations: dict[str, dict[str, str]]
    handlers: Handlers
    showcase: Showcase | None = None
    storage: Storage

    def get_api_info(self, all_endpoints: bool = False, page: str | None = None) -> Any:
        """Gradio's description of the endpoints, with the undocumented ones in it.

        /segment is registered as undocumented, because a client may leave out `api_name` only where exactly one endpoint is public; it
        is documented all the same.
        """
        return super().get_api_info(all_endpoints=True, page=page)

    async def preprocess_data(self, block_fn, inputs, state, explicit_call: bool = False):
        """Gradio's, after a look at the values: it would fetch a web address that is given as a file, for any parameter. Values that an
        older script does not send yet take their defaults."""
        if not explicit_call:
            count = len(block_fn.inputs)
            with errors_for_people():
                fewest = FEWEST_VALUES.get(block_fn.api_name, count)
                check_inputs(inputs, count, Path(gr.utils.get_upload_folder()), fewest)
            inputs = [*inputs, *(component.value for component in block_fn.inputs[len(inputs) :])]
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)

    def waiting(self) -> int:
        """How many jobs wait in the queue."""
        return sum(len(queue.queue) for queue in self._queue.event_queue_per_concurrency_id.values())

    def needed(self) -> set[str]:
        """The names of the folders that stay whatever their age: of the uploads that jobs wait with or work on, of the results that are
        being made, and of what belongs to the page itself, its examples."""
        events = list(self._queue.event_ids_to_events.values())
        waiting = {name for event in events if event.data is not None for name in folders_of_files(event.data.data)}
        own = {Path(path).parent.name for block in self.blocks.values() for path in getattr(block, "keep_in_cache", ())}
        return waiting | own | UNFINISHED

    def serve(self, **options: Any):
        """Queue and launch; returns what `gr.Blocks.launch` returns.

        Args:
            options: of `gr.Blocks.launch`, taking the place of the app's own.
        """
        languages = {**self.translations, "zh-CN": self.translations["zh"], "zh-TW": self.translations["zh"]}
        self.queue(max_size=MAX_WAITING, api_open=False)
        self.storage = Storage(Path(gr.utils.get_upload_folder()), max_bytes(), needed=self.needed)
        self.storage.start()
        mcp = mcp_works()
        health = health_route(self.handlers.facts.get("preset"), self.waiting, lambda: self.handlers.busy)
        if self.showcase is not None:
            self.showcase.start()
        settings = {
            "theme": theme(), "css": CSS, "i18n": gr.I18n(**languages), "footer_links": ["api", "settings"],
            "share": False, "show_error": False, "enable_monitoring": False, "run_history": False, "ssr_mode": False,
            "strict_cors": True, "max_file_size": MAX_UPLOAD_BYTES, "state_session_capacity": MAX_SESSIONS,
            "app_kwargs": {"middleware": [Middleware(Guard, storage=self.storage, mcp=mcp)], "routes": [health]}, "mcp_server": mcp,
            "blocked_paths": blocked_paths(PROJECT, Path(gr.utils.get_upload_folder())),
        }  # fmt: skip
        return self.launch(**{**settings, **options})
