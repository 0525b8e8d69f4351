"""What the model saw, to look at and to change: regions, the mask M, the label prompt, the legend, and a brush.

A visitor's edits stay in the browser until the next run, which takes them along as part of this component's value. The brush is a canvas
over the same picture: Gradio's ImageEditor would show the photo a second time, away from its regions, and has buttons without names.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from sisrm.errors import ParameterError
from sisrm.images import read_photo
from sisrm.labels import CLASS_NAMES
from sisrm.ui.html_part import html_part, served
from sisrm.ui.pictures import Views
from sisrm.ui.regions import read_region

_PNG = "data:image/png;base64,"
_MOST_BYTES = 512 * 1024


@dataclass(frozen=True)
class Edits:
    """What a visitor changed: labels put in, labels taken out, and the painted region as a data URL of a PNG."""

    added: tuple[str, ...] = ()
    muted: tuple[str, ...] = ()
    region: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the panel's script keeps them."""
        return {"added": list(self.added), "muted": list(self.muted), "region": self.region}


def semantic_panel(ink: Mapping[str, str], free_text: bool) -> gr.HTML:
    """The panel, empty and hidden until it gets the value of `seen`.

    Args:
        ink: the brush's colours, {"brush_add": "#rrggbb", "brush_protect": "#rrggbb"}.
        free_text: whether other words than the 150 class names may be added.
    """
    return html_part(
        "semantic_panel", "panel_", elem_id="semantics", names=json.dumps(CLASS_NAMES), ink=json.dumps(dict(ink)), free_text=free_text
    )  # fmt: skip


def seen(report: Mapping[str, Any], views: Views, source: str, edits: Edits | None = None) -> dict[str, Any]:
    """The panel's value.

    Args:
        report: of a job; its labels and regions are shown.
        views: the pictures.
        source: names the photo; edits are kept as long as it stays the same.
        edits: those that the job was done with.
    """
    return {
        "id": secrets.token_hex(8),
        "source": source,
        "labels": report["labels"],
        "regions": report["regions"],
        "photo": served(views.photo),
        "colours": served(views.regions),
        "classes": served(views.classes),
        "mask": None if views.mask is None else served(views.mask),
        "used": (edits or Edits()).as_json(),
    }


def edits_of(value: object, source: str) -> Edits:
    """The edits in the panel's value as the browser sent it, those of the last run where nothing was changed since; none where the panel is
    empty or shows another photo.

    Raises:
        ParameterError: what was sent is nothing that the panel sends.
    """
    if not isinstance(value, Mapping) or value.get("source") != source:
        return Edits()
    sent = value.get("edits", value.get("used"))
    if not isinstance(sent, Mapping):
        return Edits()
    names = [sent.get(key) or [] for key in ("added", "muted")]
    region = sent.get("region")
    for key, given in zip(("extra_labels", "muted_labels"), names):
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise ParameterError(key, given, "a list of names")
    if region is not None and (not isinstance(region, str) or not region.startswith(_PNG) or len(region) > _MOST_BYTES):
        raise ParameterError(
            "region", type(region).__name__, f"a PNG as a data URL of at most {_MOST_BYTES} characters"
        )
    return Edits(tuple(names[0]), tuple(names[1]), region)


def region_of(edits: Edits, folder: Path) -> np.ndarray | None:
    """The painted region as `Handlers.upscale` takes it; None where nothing is painted.

    Args:
        edits: of `edits_of`.
        folder: an existing folder that gets the picture's file.

    Raises:
        ParameterError: the data URL cannot be decoded.
        ImageError: what is in it cannot be used as an image.
    """
    if edits.region is None:
        return None
    try:
        data = base64.b64decode(edits.region[len(_PNG) :], validate=True)
    except (binascii.Error, ValueError):
        raise ParameterError("region", "a damaged data URL", "a PNG in base64") from None
    path = folder / "painted.png"
    path.write_bytes(data)
    return read_region(read_photo(path, source="region", min_side=1))
