"""The region that a visitor paints: where local control is added, and where the picture is protected from it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sisrm.images import Photo

ADD_COLOR, PROTECT_COLOR = "#2f6fed", "#ff8c1a"
"""Brush colours, blue and orange: told apart with every kind of colour vision."""

_CLEAR = 64
"""How far blue and red must lie apart for a pixel to be of one brush; less is a mixture at a stroke's edge, or no stroke."""


def read_region(painted: Photo) -> np.ndarray:
    """A painted picture -> the pipeline's `region_mask`.

    Args:
        painted: strokes in ADD_COLOR (or any blue) and PROTECT_COLOR (or any red or orange); what is transparent or of another colour is
            not painted. Any size; it is laid over the whole photo.

    Returns:
        (h, w) int8: 1 add to M, -1 take out of M, 0 as it is.
    """
    pixels = np.asarray(painted.image, np.int16)
    lean = pixels[..., 2] - pixels[..., 0]
    region = (lean > _CLEAR).astype(np.int8) - (lean < -_CLEAR).astype(np.int8)
    if painted.alpha is not None:
        region[np.asarray(painted.alpha) < 128] = 0
    return region


def shares(region: np.ndarray) -> dict[str, float]:
    """Which part of the picture is painted: {"add": 0..1, "protect": 0..1}."""
    return {name: round(float((region == value).mean()), 4) for name, value in (("add", 1), ("protect", -1))}


def paint(region: np.ndarray) -> Image.Image:
    """The picture that `read_region` reads as `region`: RGBA, transparent where nothing is painted."""
    colors = {1: ADD_COLOR, -1: PROTECT_COLOR}
    pixels = np.zeros((*region.shape, 4), np.uint8)
    for value, color in colors.items():
        pixels[region == value] = (*bytes.fromhex(color[1:]), 255)
    return Image.fromarray(pixels)
