"""What a finished job looks like on the page: the values of the viewer, the panel and the lines around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sisrm.ui import panels
from sisrm.ui.handlers import Upscaled
from sisrm.ui.semantic_panel import Edits, seen
from sisrm.ui.texts import text
from sisrm.ui.viewer import LAST_RESULTS, Step, pair


@dataclass(frozen=True)
class Shown:
    """One result of a visitor's session, with all that is shown beside it.

    `viewer` is the viewer's value, which has its `id`. A `sample` is a patch of a photo; the next one takes its place.
    """

    viewer: dict[str, Any]
    panel: dict[str, Any]
    report: Mapping[str, Any]
    download: str
    before: str
    small: str

    @property
    def sample(self) -> bool:
        """Whether it is a patch of a photo."""
        return self.viewer["passing"]


def shown(
    done: Upscaled, source: str, lang: str, edits: Edits | None = None, example: bool = False, sample: bool = False
) -> Shown:
    """A finished job as the page shows it.

    Args:
        done: the job's result.
        source: names the photo.
        lang: "en" or "zh".
        edits: what the visitor had changed in the panel.
        example: whether it is the first screen's. sample: whether it is a patch of the photo.
    """
    steps = [Step(f"{share:g}T", path) for share, path in sorted(done.states.items(), reverse=True)]
    title = panels.title(done.report, lang)
    if sample:
        title = text("sample_title", lang, title=title)
    return Shown(
        viewer=pair(done.before, done.result, source, done.small, done.boxes, steps, title, example, passing=sample),
        panel=seen(done.report, done.views, source, edits),
        report=done.report,
        download=str(done.result),
        before=str(done.before),
        small=str(done.small),
    )


def remember(results: list[Shown], latest: Shown) -> list[Shown]:
    """The session's last results, the latest at the end."""
    return [*(entry for entry in results if not entry.sample), latest][-LAST_RESULTS:]


def again(results: list[Shown], identifier: object) -> Shown | None:
    """The result with this id, if it is among the last ones."""
    return next((entry for entry in results if entry.viewer["id"] == identifier), None)
