"""One patch of a photo, enlarged as a sample before a long job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sisrm.images import Photo
from sisrm.ui.handlers import Handlers, Upscaled, labels_as_json
from sisrm.ui.progress import Watch
from sisrm.ui.settings import Limit, Settings

SIDE = 128
"""Pixels of the photo that a side of the patch has, where the photo is that large; what the paper's images have."""

CENTRE = Limit(0, 1, 0.01)
"""Of the patch, as a share of the photo's width or height."""


def box_around(size: tuple[int, int], at: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the patch around a point, moved so that it lies in the photo.

    Args:
        size: of the photo, pixels.
        at: (x, y), 0..1 each.
    """
    starts = [min(max(0, round(share * side) - SIDE // 2), max(0, side - SIDE)) for side, share in zip(size, at)]
    ends = [min(side, start + SIDE) for side, start in zip(size, starts)]
    return (*starts, *ends)


def preview(
    handlers: Handlers,
    photo: Photo,
    settings: Settings,
    at: tuple[float, float],
    folder: Path,
    name: str = "preview.png",
    watch: Watch | None = None,
    region: np.ndarray | None = None,
) -> Upscaled:
    """Enlarge the patch around a point.

    The label prompt is the whole photo's, as it would be in the full job; what is seen in the patch (class map, E_m) is its own, as for a
    tile. The start noise is another part of the seed's, so details fall differently.

    Args:
        at: (x, y), 0..1 each: where the middle of the patch is wanted.
        region: for the whole photo. Everything else as in `Handlers.upscale`.

    Returns:
        As `Handlers.upscale`; the report also has "crop": left, top, width and height in pixels of the photo.
    """
    left, top, right, bottom = box = box_around(photo.size, at)
    alpha = None if photo.alpha is None else photo.alpha.crop(box)
    patch = replace(photo, image=photo.image.crop(box), alpha=alpha)
    more = {
        "settings": settings.as_json(),
        "crop": {"left": left, "top": top, "width": right - left, "height": bottom - top},
    }
    own = settings
    if settings.sape:
        labels = handlers.labels_of(photo, settings, watch)
        more["labels"] = labels_as_json(labels)
        own = replace(settings, labels=tuple(label.name for label in labels), extra_labels=())
        if not labels:  # all of the photo's are muted; the patch must not bring others in
            seen = handlers.labels_of(patch, replace(own, muted_labels=()), watch)
            own = replace(own, muted_labels=tuple(label.name for label in seen))
    if region is not None:
        region = _part(region, photo.size, box)
    return handlers.upscale(patch, own, folder, name, watch, region, more=more)


def _part(region: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """The box's part of a mask of any size that lies over the whole photo; nearest neighbour."""
    left, top, right, bottom = box
    columns, rows = (
        ((np.arange(start, end) + 0.5) * length / side).astype(int)
        for start, end, length, side in zip((left, top), (right, bottom), region.shape[::-1], size)
    )
    return region[np.ix_(rows, columns)]
