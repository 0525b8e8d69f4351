"""What a visitor chooses without a run: a preset, a point on the photo, settings from a result that is dropped in or from a link."""

from __future__ import annotations

import gradio as gr

from sisrm.ui.card import note
from sisrm.ui.controls import PRESETS
from sisrm.ui.endpoints import errors_for_people, language_of, uploads
from sisrm.ui.handlers import Handlers
from sisrm.ui.links import from_query
from sisrm.ui.page import Page
from sisrm.ui.results import restore
from sisrm.ui.semantic_panel import Edits
from sisrm.ui.settings import Choice, Settings, presets
from sisrm.ui.texts import text
from sisrm.ui.uploads import open_upload


class Choosing:
    """The page's answers that set controls. Each takes the request (or the event) first."""

    def __init__(self, handlers: Handlers, page: Page):
        self.handlers, self.page = handlers, page

    def preset(self, request: gr.Request, name) -> list:
        """A preset's values."""
        with errors_for_people(language_of(request)):
            return list(presets(self.handlers.defaults)[Choice(PRESETS).check("preset", name)].values())

    def point_at(self, event: gr.SelectData, request: gr.Request, image) -> dict:
        """Where the next sample is taken."""
        lang = language_of(request)
        with errors_for_people(lang):
            width, height = open_upload(image, uploads()).size
            x, y = (min(1.0, max(0.0, at / side)) for at, side in zip(event.index, (width, height)))
        return {
            self.page.point: [x, y],
            self.page.live: note(text("pointed", lang, x=round(100 * x), y=round(100 * y))),
        }

    def settings_of(self, request: gr.Request, image) -> dict:
        """The settings of a result that was dropped in."""
        path = image.get("path") if isinstance(image, dict) else None
        if path is None:
            return {self.page.live: gr.skip()}
        with errors_for_people(language_of(request)):
            kept = restore(path, self.handlers.defaults, self.handlers.pipe.config.free_text)
        if kept is None:
            return {self.page.live: gr.skip()}
        return {**self._set(kept), self.page.live: note(text("restored", language_of(request)))}

    def settings_of_link(self, request: gr.Request) -> dict:
        """The settings of a share link, and the presets in the visitor's language."""
        lang, preset = language_of(request), self.page.controls.preset
        named = {preset: gr.update(choices=[(text(name, lang), name) for name in presets(self.handlers.defaults)])}
        with errors_for_people(lang):
            query = from_query(request.query_params, self.handlers.defaults, self.handlers.pipe.config.free_text)
        return named if query is None else {**named, **self._set(query)}

    def _set(self, settings: Settings) -> dict:
        carried = Edits(settings.extra_labels, settings.muted_labels)
        return {**self.page.controls.updates(settings), self.page.carried: carried.as_json()}

    def another_photo(self) -> dict:
        """The point and the comparison of modules belong to a photo."""
        return {self.page.point: None, self.page.variants: ""}
