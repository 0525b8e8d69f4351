"""The one-click ablation: the same photo, seed and settings with each of the method's modules taken out, close-ups side by side."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sisrm.figure import BOX_COLORS, crop_of
from sisrm.images import Photo
from sisrm.ui.card import data_url
from sisrm.ui.crops import SIDE, preview
from sisrm.ui.handlers import Handlers, Upscaled
from sisrm.ui.progress import Watch
from sisrm.ui.settings import Settings
from sisrm.ui.texts import text

VARIANTS = {"full": None, "without_mff": "mff", "without_sca": "sca", "without_sape": "sape"}
"""Name of a variant -> the setting that it switches off."""

_TILE = 192


@dataclass(frozen=True)
class Variant:
    """A variant's result and its mean absolute difference from the full model's, in levels of 0..255."""

    name: str
    done: Upscaled
    difference: float


def without(settings: Settings, name: str) -> Settings:
    """The settings of a variant; everything is on in "full"."""
    every = replace(settings, mff=True, sca=True, sape=True)
    return every if VARIANTS[name] is None else replace(every, **{VARIANTS[name]: False})


def run_variant(handlers: Handlers, photo: Photo, settings: Settings, folder: Path, watch: Watch, region) -> Upscaled:
    """One variant. Of a photo that is larger than a patch, the patch in its middle, so that four runs take as long as one."""
    if max(photo.size) <= SIDE:
        return handlers.upscale(photo, settings, folder, watch=watch, region=region)
    return preview(handlers, photo, settings, (0.5, 0.5), folder, watch=watch, region=region)


def compare(name: str, done: Upscaled, full: Upscaled) -> Variant:
    """A variant beside the full model."""
    pictures = [np.asarray(Image.open(entry.result).convert("RGB"), np.float32) for entry in (done, full)]
    return Variant(name, done, float(np.abs(pictures[0] - pictures[1]).mean()))


def grid(variants: list[Variant], lang: str) -> str:
    """HTML: a column for each variant, with what is in the red and the blue box, and how much it differs from the full model."""
    columns = []
    for variant in variants:
        title = text(variant.name, lang)
        said = text("differs", lang, levels=f"{variant.difference:.2f}") if variant.name != "full" else ""
        with Image.open(variant.done.result) as result, Image.open(variant.done.small) as small:
            factor = result.width / small.width
            crops = [crop_of(result.convert("RGB"), box.scaled(factor)) for box in variant.done.boxes]
        pictures = "".join(
            f'<img src="{data_url(crop.resize((_TILE, _TILE), Image.Resampling.BICUBIC), _TILE)}" alt="{html.escape(title)}" '
            f'style="border-color:{color}">'
            for crop, color in zip(crops, BOX_COLORS)
        )
        columns.append(
            f"<figure>{pictures}<figcaption><b>{html.escape(title)}</b> {html.escape(said)}</figcaption></figure>"
        )
    return f'<div class="variants">{"".join(columns)}</div>'
