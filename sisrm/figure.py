"""The paper's figures 6 to 8: pictures side by side, a red and a blue box at the same place on each, and what is in them enlarged.

Everything here takes and gives PIL images. Boxes are in pixels of the picture they are used with; `Box.scaled` takes them to a
larger or smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sisrm.errors import ParameterError

RED, BLUE = "#e3001b", "#0a5cff"
BOX_COLORS = (RED, BLUE)
"""The paper's. Red has more light and blue less than usual, so that they differ in brightness too."""

PANEL = 512
"""Longest side of a picture in the figure, in pixels: the reference result is shown pixel for pixel."""

_MIN_BLOCK = (
    288  # narrower pictures stand in a block of this width, or two crops and a caption would not fit under them
)
_ASPECT = 4.5  # a figure wider than this many times its height is broken into rows
_FRAME, _GAP, _BLOCK_GAP, _MARGIN = 5, 10, 16, 20
_TITLE, _NOTE = 34, 24  # font sizes; five pictures on a page of A4 are printed at a fifth of their size
_CAPTION, _TITLE_LINE, _NOTE_LINE = 84, 40, 74  # height under the crops, and the two baselines in it
_INK, _NOTE_INK, _PAPER = "#111111", "#555555", "#ffffff"
_LARGEST_SIDE = 32  # of a box that was not asked for: a larger one would not be enlarged in its crop


@dataclass(frozen=True)
class Box:
    """A square: left and upper edge, and side, in whole pixels."""

    x: int
    y: int
    side: int

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, upper, right, lower, as PIL's crop takes them."""
        return self.x, self.y, self.x + self.side, self.y + self.side

    def scaled(self, factor: float) -> Box:
        """The same place in a picture `factor` times as large, to the nearest pixel."""
        return Box(round(self.x * factor), round(self.y * factor), max(1, round(self.side * factor)))

    def inside(self, size: tuple[int, int]) -> bool:
        """Whether it lies in a picture of this (width, height)."""
        _, _, right, lower = self.edges
        return self.side > 0 and self.x >= 0 and self.y >= 0 and right <= size[0] and lower <= size[1]


@dataclass(frozen=True)
class Panel:
    """One picture of a figure with its caption: a short title, and a note in small grey letters."""

    title: str
    image: Image.Image
    note: str = ""


@dataclass(frozen=True)
class Layout:
    """Where things stand in a figure, in its pixels. A block is a picture, its two crops and its caption."""

    columns: int
    rows: int
    shown: tuple[int, int]
    block: tuple[int, int]
    crop_side: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the figure."""
        return tuple(
            2 * _MARGIN + count * side + (count - 1) * gap
            for count, side, gap in zip((self.columns, self.rows), self.block, (_BLOCK_GAP, 2 * _BLOCK_GAP))
        )

    def block_at(self, index: int) -> tuple[int, int]:
        """Upper left corner of a block, counted from 0 by rows."""
        row, column = divmod(index, self.columns)
        return (
            _MARGIN + column * (self.block[0] + _BLOCK_GAP),
            _MARGIN + row * (self.block[1] + 2 * _BLOCK_GAP),
        )

    def picture_at(self, index: int) -> tuple[int, int]:
        """Upper left corner of a block's picture; a narrow one stands in the middle of its block."""
        x, y = self.block_at(index)
        return x + (self.block[0] - self.shown[0]) // 2, y

    def crop_at(self, index: int, which: int) -> tuple[int, int]:
        """Upper left corner of a block's red (0) or blue (1) crop, inside its frame."""
        x, y = self.block_at(index)
        right = self.block[0] - self.crop_side - 2 * _FRAME
        return x + which * right + _FRAME, y + self.shown[1] + _GAP + _FRAME


def choose_boxes(image: Image.Image, side: int | None = None) -> tuple[Box, Box]:
    """The two square windows with the most detail, away from the border and from each other: first the most detailed one, then
    the next one that leaves at least half a side free between them.

    Detail is the sum of how much each pixel's brightness departs from its neighbours' mean: fine texture counts, soft shading does
    not. Departures are not squared, or a single hard edge would outweigh any texture. The same picture always gives the same boxes.

    Args:
        image: at least 16 x 16. Give the LR image, not a result, to see the same places whatever made the results.
        side: of the boxes in pixels, at most a fifth of sqrt(width * height) and half the shorter side; None: that, and at most 32.

    Raises:
        ParameterError: the image is too small, or the side too large for it.
    """
    short = min(image.size)
    if short < 16:
        raise ParameterError("image", "{} x {} pixels".format(*image.size), "at least 16 x 16 pixels")
    # Then a second box always finds room beside the first one, along the longer side.
    largest = min(short // 2, math.isqrt(image.width * image.height) // 5)
    side = min(largest, _LARGEST_SIDE) if side is None else side
    if not 1 <= side <= largest:
        raise ParameterError("side", side, f"whole pixels from 1 to {largest}, for an image of this size")
    detail = _window_sums(_detail(image), side)
    margin = short // 16
    rows, columns = (np.arange(count) for count in detail.shape)
    inner = (rows >= margin) & (rows < len(rows) - margin)
    inner = inner[:, None] & (columns >= margin) & (columns < len(columns) - margin)
    first = _best(np.where(inner, detail, -1), side)
    reach = side + side // 2
    near = (abs(rows - first.y) < reach)[:, None] & (abs(columns - first.x) < reach)
    return first, _best(np.where(inner & ~near, detail, -1), side)


def crop_of(image: Image.Image, box: Box) -> Image.Image:
    """The pixels in a box, unchanged.

    Raises:
        ParameterError: the box does not lie in the image.
    """
    if not box.inside(image.size):
        raise ParameterError("box", box, "a square inside {} x {} pixels".format(*image.size))
    return image.crop(box.edges)


def draw_boxes(image: Image.Image, boxes: Sequence[Box], colors: Sequence[str] = BOX_COLORS) -> Image.Image:
    """A copy of the image with the outlines of boxes; what is in them stays untouched.

    Each outline has a thin white line around it, so that it shows on any photo and to any eye.

    Args:
        image: mode RGB. boxes: in its pixels. colors: one for each box.

    Raises:
        ParameterError: a box does not lie in the image.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(image.size) / 128))
    halo = max(1, line // 3)
    for box, color in zip(boxes, colors, strict=True):
        if not box.inside(image.size):
            raise ParameterError("box", box, "a square inside {} x {} pixels".format(*image.size))
        left, upper, right, lower = box.edges
        for width, ink in ((line + halo, _PAPER), (line, color)):
            pen.rectangle((left - width, upper - width, right + width - 1, lower + width - 1), outline=ink, width=width)
    return drawn


def layout_of(count: int, size: tuple[int, int]) -> Layout:
    """How `count` pictures of one (width, height) stand in a figure: in one row, or in several where that would get too wide."""
    width, height = size
    longest = max(size)
    # Small pictures grow by a whole factor and large ones shrink; between half and all of PANEL they are shown as they are.
    factor = PANEL // longest if longest <= PANEL else PANEL / longest
    shown = max(1, round(width * factor)), max(1, round(height * factor))
    block_width = max(shown[0], _MIN_BLOCK)
    crop_side = (block_width - _GAP) // 2 - 2 * _FRAME
    block = block_width, shown[1] + _GAP + crop_side + 2 * _FRAME + _CAPTION
    rows = 1
    while math.ceil(count / rows) * block[0] > _ASPECT * rows * block[1]:
        rows += 1
    columns = math.ceil(count / rows)
    return Layout(columns, math.ceil(count / columns), shown, block, crop_side)


def draw_figure(panels: Sequence[Panel], boxes: Sequence[Box]) -> Image.Image:
    """The figure: every picture with the red and the blue box, under it what is in them, enlarged (bicubic), and its caption.

    Crops are cut from the pictures at full size, also where the pictures themselves are shown smaller. White background.

    Args:
        panels: at least one; pictures of one size, mode RGB. boxes: the red one and the blue one, in pixels of the pictures.

    Returns:
        PIL RGB image, of the size that `layout_of` gives.

    Raises:
        ParameterError: no panel, pictures of different sizes, not two boxes, or a box that does not lie in the pictures.
    """
    sizes = {panel.image.size for panel in panels}
    if len(sizes) != 1:
        raise ParameterError("panels", sorted(sizes), "pictures of one size, at least one")
    if len(boxes) != len(BOX_COLORS):
        raise ParameterError("boxes", boxes, "two boxes, the red one and the blue one")
    (size,) = sizes
    layout = layout_of(len(panels), size)
    figure = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(figure)
    shown_boxes = [_fitted(box.scaled(layout.shown[0] / size[0]), layout.shown) for box in boxes]
    for index, panel in enumerate(panels):
        shown = panel.image.resize(layout.shown, Image.Resampling.BICUBIC)
        figure.paste(draw_boxes(shown, shown_boxes), layout.picture_at(index))
        for which, (box, color) in enumerate(zip(boxes, BOX_COLORS)):
            x, y = layout.crop_at(index, which)
            end = layout.crop_side + _FRAME - 1
            pen.rectangle((x - _FRAME, y - _FRAME, x + end, y + end), fill=color)
            side = (layout.crop_side, layout.crop_side)
            figure.paste(crop_of(panel.image, box).resize(side, Image.Resampling.BICUBIC), (x, y))
        x, y = layout.block_at(index)
        middle, y = x + layout.block[0] // 2, y + layout.block[1] - _CAPTION
        pen.text((middle, y + _TITLE_LINE), panel.title, _INK, ImageFont.load_default(_TITLE), anchor="ms")
        pen.text((middle, y + _NOTE_LINE), panel.note, _NOTE_INK, ImageFont.load_default(_NOTE), anchor="ms")
    return figure


def _fitted(box: Box, size: tuple[int, int]) -> Box:
    """A box whose rounding went a pixel over the edge of (width, height), moved back into it."""
    side = min(box.side, *size)
    return Box(min(box.x, size[0] - side), min(box.y, size[1] - side), side)


def _detail(image: Image.Image) -> np.ndarray:
    """(H, W) integers: how much the brightness of each pixel differs from what its four neighbours let expect; 0 at the border."""
    grey = np.asarray(image.convert("L"), np.int64)
    detail = np.zeros_like(grey)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    detail[1:-1, 1:-1] = abs(4 * grey[1:-1, 1:-1] - neighbours)
    return detail


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """(H, W) -> (H - side + 1, W - side + 1): the sum over each square window, by its upper left corner."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]


def _best(scores: np.ndarray, side: int) -> Box:
    """The window with the highest score; of equal ones the uppermost, then the leftmost."""
    y, x = divmod(int(scores.argmax()), scores.shape[1])
    return Box(x, y, side)
