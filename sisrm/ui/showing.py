"""What is shown of results that are there already: the first screen's example, an earlier result, another format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr

from sisrm.ui import panels
from sisrm.ui.comparison import export
from sisrm.ui.endpoints import errors_for_people, language_of
from sisrm.ui.handlers import Handlers
from sisrm.ui.links import to_query
from sisrm.ui.page import Page
from sisrm.ui.results import converted
from sisrm.ui.showcase import Showcase
from sisrm.ui.shown import Shown, again, shown


class Showing:
    """The page's answers that need no run. Each takes the request (or the event) first."""

    def __init__(self, handlers: Handlers, page: Page, showcase: Showcase | None):
        self.handlers, self.page, self.showcase = handlers, page, showcase

    def example(self, request: gr.Request) -> dict:
        """The first screen's finished example."""
        done, lang = self.showcase.result(), language_of(request)
        if done is None:
            return {self.page.comparison: None}
        entry = shown(done, self.showcase.source, lang, example=True)
        return {self.page.comparison: entry.viewer, **self.beside(entry, lang, "png", "example")}

    def look_again(self, chosen: gr.EventData, request: gr.Request, last, format) -> dict:
        """Show what belongs to an earlier result."""
        entry, lang = again(last, chosen._data.get("id")), language_of(request)
        if entry is None:
            return {self.page.details: gr.skip()}
        return self.beside(replace(entry, panel={**entry.panel, "restored": True}), lang, format)

    def as_format(self, request: gr.Request, last, report, format) -> dict:
        """The latest result in another format."""
        if not last:
            return {self.page.download: gr.skip()}
        current = next((entry for entry in last if entry.report == report), last[-1])
        with errors_for_people(language_of(request)):
            return {self.page.download: str(converted(Path(current.download), format))}

    def beside(self, entry: Shown, lang: str, format: str, line: str = "made") -> dict:
        """What is shown around the viewer."""
        page = self.page
        query = to_query(self.handlers.check(entry.report["settings"]), self.handlers.defaults)
        return {
            page.made: panels.made(entry.report, lang, line),
            page.download: str(converted(Path(entry.download), format)),
            page.both: str(export(Path(entry.before), Path(entry.download), format="jpeg")),
            page.link: f"?{query}",
            page.panel: entry.panel,
            page.details: entry.report,
            **{area: gr.update(visible=True) for area in page.hidden_at_first},
        }
