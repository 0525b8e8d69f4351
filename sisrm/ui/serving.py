"""How the app is launched: its limits, and the checks that a request passes before Gradio looks at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from sisrm.ui.endpoints import errors_for_people
from sisrm.ui.guard import MAX_UPLOAD_BYTES, Guard, blocked_paths, check_inputs
from sisrm.ui.theme import CSS, theme

PROJECT = Path(__file__).resolve().parent.parent.parent


class App(gr.Blocks):
    """The app; `serve` starts it with the settings it is meant to run with."""

    translations: dict[str, dict[str, str]]

    def get_api_info(self, all_endpoints: bool = False, page: str | None = None) -> Any:
        """Gradio's description of the endpoints, with the undocumented ones in it.

        /segment is registered as undocumented, because a client may leave out `api_name` only where exactly one endpoint is public; it
        is documented all the same.
        """
        return super().get_api_info(all_endpoints=True, page=page)

    async def preprocess_data(self, block_fn, inputs, state, explicit_call: bool = False):
        """Gradio's, after a look at the values: it would fetch a web address that is given as a file, for any parameter."""
        if not explicit_call:
            with errors_for_people():
                check_inputs(inputs, len(block_fn.inputs), Path(gr.utils.get_upload_folder()))
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)

    def serve(self, **options: Any):
        """Queue and launch; returns what `gr.Blocks.launch` returns.

        Args:
            options: of `gr.Blocks.launch`, taking the place of the app's own.
        """
        languages = {**self.translations, "zh-CN": self.translations["zh"], "zh-TW": self.translations["zh"]}
        self.queue(max_size=32, api_open=False)
        settings = {
            "theme": theme(), "css": CSS, "i18n": gr.I18n(**languages), "footer_links": ["api", "settings"],
            "share": False, "show_error": False, "enable_monitoring": False, "run_history": False, "ssr_mode": False,
            "strict_cors": True, "max_file_size": MAX_UPLOAD_BYTES, "app_kwargs": {"middleware": [Middleware(Guard)]},
            "blocked_paths": blocked_paths(PROJECT, Path(gr.utils.get_upload_folder())),
        }  # fmt: skip
        return self.launch(**{**settings, **options})
