"""The app: the page, what answers it, and the endpoints, around one pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from sisrm.runtime import describe
from sisrm.ui.api import add_endpoints
from sisrm.ui.endpoints import new_folder
from sisrm.ui.events import Events
from sisrm.ui.finished import FinishedExamples
from sisrm.ui.handlers import Handlers
from sisrm.ui.page import lay_out
from sisrm.ui.seats import concurrency
from sisrm.ui.serving import App
from sisrm.ui.showcase import Showcase
from sisrm.ui.storage import KEEP_SECONDS
from sisrm.ui.texts import TEXTS, text

SHOWN_FIRST = "launchpad"
"""Name of the example that the first screen shows, if it is among those offered."""


def build_app(pipe, examples: Iterable[str | Path] = ()) -> App:
    """Build the app around a pipeline.

    Args:
        pipe: a `SISRMPipeline` that is ready to run.
        examples: image files to offer; one of them is shown finished on the first screen.

    Returns:
        The app; call `serve` on it.
    """
    facts = describe(pipe)
    told = ("preset", "device", "dtype", "attention_backend")
    handlers = Handlers(pipe, {key: facts[key] for key in told}, concurrency())
    with App(title="SISRM", analytics_enabled=False, delete_cache=(1800, KEEP_SECONDS)) as app:
        failed = getattr(pipe, "fallback", None)
        app.translations = {
            lang: {**TEXTS[lang], "runtime": _runtime_line(facts, lang, handlers.model.live)} for lang in TEXTS
        }
        if failed:
            for lang, words in app.translations.items():
                words["fallback"] = text("fallback", lang, running=facts["preset"], **failed)
            gr.Markdown(I18nData("fallback"), elem_id="fallback")
        paths = [str(path) for path in examples]
        finished = FinishedExamples(paths)
        if paths:
            first = next((path for path in paths if Path(path).stem == SHOWN_FIRST), paths[0])
            app.showcase = Showcase(handlers, Path(first), new_folder, finished)
        Events(handlers, lay_out(handlers, paths), app.showcase, finished).connect(app)
        add_endpoints(handlers)
        app.handlers = handlers
    return app


def _runtime_line(facts: dict[str, Any], lang: str, live: bool) -> str:
    trained = [text(f"part_{name}", lang) for name, learnt in facts["trained_parts"].items() if learnt]
    line = text(
        "runtime", lang, preset=facts["preset"] or "-", device=facts["device"], dtype=facts["dtype"],
        attention=facts["attention_backend"], weights=facts["weights"] or "-",
    )  # fmt: skip
    line += "" if live else text("zero_gpu", lang)
    return line + (text("trained", lang, parts=", ".join(trained)) if trained else text("untrained", lang))
