"""Picture files that the page shows of what the model saw: the photo, its regions in colour, their classes, and the mask M."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sisrm.drawing import draw_overlay
from sisrm.images import write_png

LONGEST_SIDE = 1024
"""Of these pictures, which are for looking at only."""

_POINTED_AT = 512  # longest side of the picture of classes: finer than a finger points
_VEIL = (12, 18, 28, 190)  # over what M leaves out
_EDGE = (255, 255, 255, 255)


@dataclass(frozen=True)
class Views:
    """PNG files of one size and shape, but for `classes`, which may be smaller.

    Attributes:
        photo: the picture itself.
        regions: the colour of every region, with borders; laid over the photo at any opacity.
        classes: grey values 0..149, the class of each pixel.
        mask: dark where M is 0, clear where it is 1, with a line between; None where no mask was made.
    """

    photo: Path
    regions: Path
    classes: Path
    mask: Path | None = None


def write_views(image: Image.Image, class_map: np.ndarray, folder: Path, mask: np.ndarray | None = None) -> Views:
    """Write the pictures, none with a longer side than LONGEST_SIDE.

    Args:
        image: the photo or the result, any size.
        class_map: (H, W) integers 0..149.
        folder: an existing folder.
        mask: (H, W) bool, M of eq 10; of the class map's size.
    """
    stride = -(-max(class_map.shape) // LONGEST_SIDE)
    shown = class_map[::stride, ::stride]
    size = shown.shape[1], shown.shape[0]
    photo = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    coarse = shown[:: -(-max(shown.shape) // _POINTED_AT), :: -(-max(shown.shape) // _POINTED_AT)]
    return Views(
        photo=write_png(photo.convert("RGB"), folder / "photo.png"),
        regions=write_png(draw_overlay(photo, shown, 1.0), folder / "colours.png"),
        classes=_save(Image.fromarray(np.ascontiguousarray(coarse, np.uint8)), folder / "classes.png"),
        mask=None if mask is None else _save(draw_mask(mask[::stride, ::stride]), folder / "mask.png"),
    )


def draw_mask(mask: np.ndarray) -> Image.Image:
    """A layer to lay over the photo: a dark veil where M is 0, nothing where it is 1, a white line along the border.

    Args:
        mask: (H, W) bool.

    Returns:
        PIL RGBA image of size (W, H).
    """
    inside = Image.fromarray(mask.astype(np.uint8) * 255)
    edge = mask & (np.asarray(inside.filter(ImageFilter.MinFilter(5))) == 0)
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[~mask] = _VEIL
    layer[edge] = _EDGE
    return Image.fromarray(layer)


def _save(image: Image.Image, path: Path) -> Path:
    image.save(path, compress_level=1)
    return path
