"""What is shown of results that are there already: the first screen's example, an earlier result, another format."""

from __future__ import annotations

import re
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
        with errors_for_people(lang):
            return self.beside(replace(entry, panel={**entry.panel, "restored": True}), lang, format)

    def as_format(self, request: gr.Request, last, report, format) -> dict:
        """The latest result in another format."""
        path = next((entry.download for entry in reversed(last or []) if entry.report == report), None)
        if path is None and self.showcase is not None:
            done = self.showcase.result()
            path = done.result if done is not None and done.report == report else None
        if path is None:
            return {self.page.download: gr.skip()}
        with errors_for_people(language_of(request)):
            return {self.page.download: str(converted(Path(path), format))}

    def photo_of(self, last, source: object) -> dict | None:
        """The photo that a result on this page was made of, as an upload; None where there is no such result."""
        for entry in reversed(last or []):
            if entry.panel["source"] == source:
                return _as_upload(entry.small, entry.download)
        if self.showcase is not None and source == self.showcase.source and (done := self.showcase.result()) is not None:
            return _as_upload(done.small, self.showcase.photo)
        return None

    def beside(self, entry: Shown, lang: str, format: str, line: str = "made") -> dict:
        """What is shown around the viewer. The panel goes on showing the whole photo while a sample of it is looked at."""
        page = self.page
        query = to_query(self.handlers.check(entry.report["settings"]), self.handlers.defaults)
        return {
            page.made: panels.made(entry.report, lang, "sample_made" if entry.sample else line),
            page.download: str(converted(Path(entry.download), format)),
            page.both: str(export(Path(entry.before), Path(entry.download), format="jpeg")),
            page.link: f"?{query}",
            page.details: entry.report,
            **({} if entry.sample else {page.panel: entry.panel}),
            **{area: gr.update(visible=True) for area in page.hidden_at_first},
        }


def _as_upload(path: str | Path, called: str | Path) -> dict:
    """As Gradio sends a file that was uploaded."""
    return {"path": str(path), "orig_name": re.sub(r"-\dx$", "", Path(called).stem) + ".png"}
