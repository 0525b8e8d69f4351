"""Drawing a class map so that a person can read it: colours, an overlay on the photo, and what a legend needs.

The 150 classes need colours that are told apart, also with the red-green weaknesses that one man in twelve has, and that
stay the same from photo to photo. A few everyday classes keep a colour close to the thing itself; every other colour is
taken, in the order of the classes (which ADE20K sorts by frequency), as the one furthest from all colours before it, the
distance being measured in Oklab for normal, protan and deutan vision. The overlay has thin borders between regions, because
no 150 colours can all be told apart, and it takes the photo's own colour away beneath them, because sand under the colour of
walls and grass under it would be two colours that no legend shows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageFilter

from sisrm.errors import ParameterError
from sisrm.labels import CLASS_NAMES, index_of

_ANCHORS = {
    "wall": "#c9b79c",
    "building": "#b5651d",
    "sky": "#8ecdf5",
    "floor": "#9d6fb8",
    "tree": "#0b7a3b",
    "road": "#5d6470",
    "grass": "#a6d84f",
    "person": "#e3325f",
    "earth": "#6b4a1e",
    "mountain": "#7a8f3a",
    "plant": "#35c08a",
    "car": "#1f4fd8",
    "water": "#12a3b4",
    "flower": "#f57fd0",
}
"""Colours of things that most photos show, near to what they look like."""

_VISION_WEIGHTS = (1.0, 0.7, 0.7)
"""How much a difference counts as seen with normal, protan and deutan vision."""

# Severity 1.0 of Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency"
# (2009), on linear RGB.
_PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
_DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
# Björn Ottosson, "A perceptual color space for image processing" (2020).
_RGB_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LMS_TO_OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


_FINEST = 1024
"""Long side up to which one pixel is the unit of lines and outlines. Larger class maps hold no finer detail (the pipeline
enlarges them from this size), so their lines are drawn wider and their outlines smoother in proportion."""

_LINE, _CASING = 1.3, 1.0
"""Width of a border's bright core, and of the dark casing on each side of it, in units."""

_SMOOTHING = 1.5
"""Standard deviation of the Gaussian that smooths the regions' outlines, in units."""


@dataclass(frozen=True)
class LegendEntry:
    """One class of a class map.

    Attributes:
        index: class index, 0..149.
        name: its display name.
        color: its colour, "#rrggbb".
        share: the part of the picture that it covers, 0..1.
    """

    index: int
    name: str
    color: str
    share: float


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    """(150, 3) uint8, read-only."""
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _to_oklab(_to_linear(candidates))[:, 0]
    # Colours that still show as a colour when laid over dark and bright photos at half opacity.
    candidates = candidates[(lightness > 0.25) & (lightness < 0.95)]
    seen = seen_colors(candidates)
    palette = np.zeros((len(CLASS_NAMES), 3), np.uint8)
    distance = np.full(len(candidates), np.inf)

    def place(index: int, color: np.ndarray) -> None:
        palette[index] = color
        np.minimum(distance, color_distance(seen, seen_colors(color[None])), out=distance)

    anchors = {index_of(name): color for name, color in _ANCHORS.items()}
    for index, color in anchors.items():
        place(index, np.frombuffer(bytes.fromhex(color[1:]), np.uint8))
    for index in range(len(CLASS_NAMES)):
        if index not in anchors:
            place(index, candidates[int(distance.argmax())])
    palette.setflags(write=False)
    return palette


def class_colors() -> np.ndarray:
    """The colour of every class: always the same, distinct, chosen with colour-blind viewers in mind.

    Returns:
        (150, 3) uint8, sRGB; row n belongs to class n.
    """
    return _palette().copy()


def seen_colors(colors: np.ndarray) -> np.ndarray:
    """How colours look to three kinds of eyes.

    Args:
        colors: (N, 3) uint8, sRGB.

    Returns:
        (3, N, 3) Oklab, for normal, protan and deutan vision.
    """
    linear = _to_linear(np.asarray(colors, np.uint8))
    simulated = (linear, (linear @ _PROTAN.T).clip(0, 1), (linear @ _DEUTAN.T).clip(0, 1))
    return np.stack([_to_oklab(values) for values in simulated])


def color_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weighted mean over the three kinds of eyes of the Oklab distances; 1.0 lies between black and white.

    Args:
        first: (3, N, 3), from `seen_colors`.
        second: (3, N, 3) or (3, 1, 3).

    Returns:
        (N,) float.
    """
    distances = np.linalg.norm(first - second, axis=-1)
    return np.average(distances, axis=0, weights=_VISION_WEIGHTS)


def area_shares(class_map: np.ndarray) -> list[tuple[int, float]]:
    """What part of the picture each class covers.

    Args:
        class_map: (H, W) integers 0..149.

    Returns:
        (class index, share in 0..1) of every class that occurs, largest share first; the shares add up to 1.

    Raises:
        ParameterError: not a class map.
    """
    class_map = _check(class_map)
    # Row by row: bincount makes eight bytes of every pixel.
    counts = sum(np.bincount(row, minlength=len(CLASS_NAMES)) for row in class_map)
    order = np.argsort(-counts, kind="stable")
    return [(int(index), float(counts[index] / class_map.size)) for index in order if counts[index]]


def legend(class_map: np.ndarray) -> list[LegendEntry]:
    """The legend of a class map: one entry per class that occurs, largest first.

    Args:
        class_map: (H, W) integers 0..149.

    Raises:
        ParameterError: not a class map.
    """
    colors = _palette()
    return [
        LegendEntry(index, CLASS_NAMES[index], f"#{bytes(colors[index]).hex()}", share)
        for index, share in area_shares(class_map)
    ]


def draw_overlay(
    image: Image.Image, class_map: np.ndarray, opacity: float = 0.5, only: Collection[int] | None = None
) -> Image.Image:
    """Lay the class colours over a photo, with thin borders between regions.

    Outlines are smoothed over one or two pixels (of 1024 on the long side, where there are more), so that they have no stair
    steps; regions finer than that are not drawn. Borders are a bright line in a dark casing: seen on every colour. What is
    under the colours loses its own, by twice the opacity.

    Args:
        image: the photo, any size; it is resized (bicubic) to the class map's size.
        class_map: (H, W) integers 0..149.
        opacity: of the colours; 0 shows the photo, 1 the colours. Borders are drawn from the first trace of colour on.
        only: class indices to colour and to border; the rest of the photo stays as it is. None colours every class.

    Returns:
        PIL RGB image of size (W, H).

    Raises:
        ParameterError: not a class map, or an opacity outside 0..1.
    """
    class_map = _check(class_map)
    if not 0.0 <= opacity <= 1.0:
        raise ParameterError("opacity", opacity, "a number from 0 to 1")
    height, width = class_map.shape
    photo = image.convert("RGB")
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    if opacity == 0.0:
        return photo
    shown = np.ones((height, width), bool) if only is None else np.isin(class_map, list(only))
    unit = max(1.0, max(height, width) / _FINEST)
    regions, distance = _outlines(np.where(shown, class_map.astype(np.int16), -1), _SMOOTHING * unit)
    pixels = np.asarray(photo, np.float32)
    luminance = np.asarray(photo.convert("L"), np.float32)[..., None]
    bare = pixels + min(1.0, 2 * opacity) * (luminance - pixels)
    tinted = bare + opacity * (_palette()[regions.clip(min=0)].astype(np.float32) - bare)
    result = np.where((regions >= 0)[..., None], tinted, pixels)
    near = distance < (_LINE / 2 + _CASING) * unit + 1
    casing = 0.5 * _line(distance[near], (_LINE + 2 * _CASING) * unit)[:, None]
    core = 0.9 * _line(distance[near], _LINE * unit)[:, None]
    result[near] = result[near] * (1 - casing) * (1 - core) + 255.0 * core
    return Image.fromarray(result.round().clip(0, 255).astype(np.uint8))


def _outlines(regions: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth the outlines of regions and tell how far each pixel is from the nearest one.

    The mask of every region is blurred by a Gaussian of `sigma` pixels and the strongest wins. Beside a straight edge between
    two regions the strongest exceeds the second by 2 Phi(d / sigma) - 1 at the distance d, which gives d in fractions of pixels.

    Args:
        regions: (H, W) int16.

    Returns:
        (H, W) int16, the regions with smooth outlines, and (H, W) float32, the distance in pixels, infinite from about 2.7 sigma on.
    """
    winner = np.full(regions.shape, regions.flat[0], np.int16)
    first, second = np.zeros(regions.shape, np.uint8), np.zeros(regions.shape, np.uint8)
    reach = int(np.ceil(4 * sigma))
    for region in np.unique(regions):
        mask = regions == region
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = tuple(slice(max(0, found[0] - reach), found[-1] + 1 + reach) for found in (rows, columns))
        blurred = Image.fromarray(mask[window].astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(sigma))
        share = np.asarray(blurred)
        higher = share > first[window]
        winner[window][higher] = region
        np.maximum(second[window], np.minimum(share, first[window]), out=second[window])
        np.maximum(first[window], share, out=first[window])
    # 254 and 255 of 255 are as far away as eight bits can tell
    steps = [sigma * NormalDist().inv_cdf(0.5 + lead / 510) for lead in range(254)]
    return winner, np.array([*steps, np.inf, np.inf], np.float32)[first - second]


def _line(distance: np.ndarray, width: float) -> np.ndarray:
    """How much of each pixel an antialiased line of `width` pixels covers, by the pixel's distance from the line's middle."""
    return (0.5 + width / 2 - distance).clip(0, 1)


def _check(class_map: np.ndarray) -> np.ndarray:
    class_map = np.asarray(class_map)
    accepted = f"a 2-D array of integers from 0 to {len(CLASS_NAMES) - 1}"
    if class_map.ndim != 2 or class_map.size == 0 or not np.issubdtype(class_map.dtype, np.integer):
        raise ParameterError("class_map", f"{class_map.dtype} array of shape {class_map.shape}", accepted)
    if class_map.min() < 0 or class_map.max() >= len(CLASS_NAMES):
        raise ParameterError("class_map", f"values {class_map.min()} to {class_map.max()}", accepted)
    return class_map


def _to_linear(colors: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> linear RGB in [0, 1]."""
    values = colors.astype(np.float64) / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _to_oklab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_OKLAB.T
