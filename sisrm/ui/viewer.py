"""The before/after viewer: two pictures of one size under a dividing line, with zoom and pan by buttons, keys, mouse and fingers.

Below it close-ups of a red and a blue box, what the picture was on the way, and the last results to switch between.

Gradio's own ImageSlider zooms with the wheel only, says so nowhere, and its line cannot be moved from the keyboard.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sisrm.figure import Box
from sisrm.ui.html_part import html_part, served

LAST_RESULTS = 4
"""That can be switched between; the browser keeps them."""


@dataclass(frozen=True)
class Step:
    """What the picture was on the way: its name, such as "0.5T", and its file, of the result's size."""

    name: str
    picture: Path


def viewer() -> gr.HTML:
    """An empty viewer; give it the value of `pair` to show two pictures.

    When a visitor switches to an earlier result it triggers `select` with that result's `id`.
    """
    return html_part("viewer", "viewer_", elem_id="viewer", last=LAST_RESULTS)


def pair(
    before: Path,
    after: Path,
    source: str = "",
    small: Path | None = None,
    boxes: Sequence[Box] = (),
    steps: Sequence[Step] = (),
    title: str = "",
    example: bool = False,
    passing: bool = False,
) -> dict[str, Any]:
    """The viewer's value.

    Args:
        before: the photo enlarged by bicubic interpolation.
        after: the result, of the same size.
        source: names the photo; boxes that a visitor has moved stay as long as it is the same.
        small: the photo itself; boxes are in its pixels.
        boxes: the red one and the blue one; none: no close-ups.
        steps: earlier states of the result.
        title: a few words that tell this result from the others.
        example: whether it goes away when the visitor's first result comes. passing: whether it does when any other comes.
    """
    return {
        "id": secrets.token_hex(8),
        "title": title,
        "example": example,
        "passing": passing,
        "source": source,
        "before": served(before),
        "after": served(after),
        "small": None if small is None else served(small),
        "boxes": [[box.x, box.y, box.side] for box in boxes],
        "steps": [{"name": step.name, "file": served(step.picture)} for step in steps],
    }
