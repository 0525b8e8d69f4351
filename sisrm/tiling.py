"""Tiles: pictures of any size in the memory of a small one. The paper says nothing of them; its images are 128 x 128.

A large picture is covered by overlapping tiles of one size. At every denoising step the predictions of all tiles are blended into one for
the whole picture (MultiDiffusion, 2302.08113), which then takes the step: tiles can never drift apart. A picture that fits into one tile
is that tile, and nothing is blended. Everything here counts in LR pixels; `scale` is the resolution of a tensor against that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from sisrm.errors import OutOfMemory
from sisrm.memory import is_out_of_memory, release_memory
from sisrm.tile_batches import Batching, room_on

OVERLAP = 32
"""LR pixels that neighbouring tiles share, at least (less the rounding to the networks' strides)."""

CONTEXT = 16
"""LR pixels around a tile that image encoder and decoder read beside it: what they see beyond changes less than half a grey level."""

SMALLEST_TILE, LARGEST_TILE = 64, 1024
"""Sides in LR pixels that can be asked for; the smallest is also where making tiles smaller ends."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Axis:
    """Tiles of one size along rows or columns. length: of the picture; size: of a tile; starts: of the tiles; all LR pixels."""

    length: int
    size: int
    starts: tuple[int, ...]

    @classmethod
    def cover(cls, length: int, size: int, multiple: int) -> Axis:
        """As few tiles of at most `size` as cover `length` with overlap, no larger than they need to be; multiples of `multiple`."""
        if length <= size:
            return cls(length, length, (0,))
        count = math.ceil((length - OVERLAP) / (size - OVERLAP))
        size = min(size, math.ceil((length + (count - 1) * OVERLAP) / count / multiple) * multiple)
        gap = (length - size) / (count - 1)
        return cls(length, size, tuple(round(index * gap / multiple) * multiple for index in range(count)))

    def weights(self, scale: float) -> torch.Tensor:
        """(tiles, length * scale): how much each tile counts at each place; smooth, and 1 in sum."""
        places = (torch.arange(round(self.length * scale), dtype=torch.float64) + 0.5) / scale
        rows = []
        for index, start in enumerate(self.starts):
            end = start + self.size
            inside = ((places > start) & (places < end)).double()
            if index:
                inside *= _smooth_step((places - start) / (self.starts[index - 1] + self.size - start))
            if index + 1 < len(self.starts):
                inside *= _smooth_step((end - places) / (end - self.starts[index + 1]))
            rows.append(inside)
        weights = torch.stack(rows)
        return (weights / weights.sum(0)).float()


@dataclass(frozen=True, eq=False)
class Tile:
    """A rectangle of the picture, in LR pixels; `row` and `column` count tiles."""

    row: int
    column: int
    top: int
    left: int
    height: int
    width: int

    def of(self, whole: torch.Tensor, scale: float = 1) -> torch.Tensor:
        """The tile's part of (..., H * scale, W * scale); a view."""
        (top, bottom), (left, right) = self.span(scale)
        return whole[..., top:bottom, left:right]

    def span(self, scale: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) at a resolution."""
        return tuple(
            (round(start * scale), round((start + length) * scale))
            for start, length in ((self.top, self.height), (self.left, self.width))
        )


class Tiles:
    """The tiles of one picture, and the way to work on them, one after the other or a few at once, in little memory.

    Args:
        height, width: of the picture, multiples of `multiple`.
        size: largest side of a tile; multiples of `multiple` are used.
        multiple: what the networks' strides ask for.
        stop: called before every tile or batch of tiles; raises where the run is to end.
        device: that works on them; on a GPU `blend` has several at once.
    """

    def __init__(
        self,
        height: int,
        width: int,
        size: int,
        multiple: int,
        stop: Callable[[], None] = lambda: None,
        device: torch.device | None = None,
    ):
        self.height, self.width, self.multiple, self.stop = height, width, multiple, stop
        self.size, self.shrunk = size, False
        self.batching = Batching(partial(room_on, device or torch.device("cpu")))
        self._lay()

    def _lay(self) -> None:
        size = self.size // self.multiple * self.multiple
        self.rows, self.columns = (Axis.cover(length, size, self.multiple) for length in (self.height, self.width))
        self._weights: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}
        self.list = [
            Tile(row, column, top, left, self.rows.size, self.columns.size)
            for row, top in enumerate(self.rows.starts)
            for column, left in enumerate(self.columns.starts)
        ]

    def __len__(self) -> int:
        return len(self.list)

    def run(
        self, start: Callable[[], T], work: Callable[[T, Tile], None], done: Callable[[int, int], None] | None = None
    ) -> T:
        """Work on every tile, one after the other. Where one does not fit into memory all is begun again with smaller tiles, down to
        SMALLEST_TILE.

        Args:
            start: makes what `work` adds its tiles to.
            done: called after every tile with (tiles done, tiles).
        Raises:
            OutOfMemory: not even the smallest tile fits.
        """
        return self._run(start, lambda whole, group: work(whole, *group), done, Batching(lambda: False))

    def _run(
        self,
        start: Callable[[], T],
        work: Callable[[T, list[Tile]], None],
        done: Callable[[int, int], None] | None,
        batching: Batching,
    ) -> T:
        """`run` in batches. Where one does not fit all is begun again with smaller batches first, and then with smaller tiles."""
        while True:
            try:
                whole, count = start(), 0
                while count < len(self.list):
                    self.stop()
                    group = self.list[count : count + batching.size]
                    work(whole, group)
                    count += len(group)
                    if done is not None:
                        done(count, len(self.list))
                    if len(self.list) > 1:  # asking a GPU for its room takes as long as a scheduler's step
                        batching.grow()
                return whole
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                whole = None
            # Outside of the handler, whose error keeps the frames and with them the tensors that did not fit.
            release_memory()
            if not batching.shrink():
                self._shrink()

    def _shrink(self) -> None:
        if self.size <= SMALLEST_TILE:
            raise OutOfMemory(
                f"there is not enough memory for {self.width} x {self.height} pixels, even in tiles of {SMALLEST_TILE}; "
                "a smaller picture may fit"
            )
        self.size, self.shrunk = max(SMALLEST_TILE, min(self.size, max(self.rows.size, self.columns.size)) // 2), True
        self._lay()

    def blend(
        self, make: Callable[[list[Tile]], torch.Tensor], done: Callable[[int, int], None] | None = None
    ) -> torch.Tensor:
        """One tensor for the whole picture out of `make`'s for its tiles, in their resolution; for one tile its own.

        make: n tiles -> (n * B, C, h, w), a batch of the picture's B for the first tile, for the second, and so on.
        """

        def work(blend: Blend, group: list[Tile]) -> None:
            for tile, part in zip(group, make(group).chunk(len(group))):
                blend.add(tile, part)

        return self._run(lambda: Blend(self), work, done, self.batching).whole

    def weight(self, tile: Tile, scale: float) -> torch.Tensor:
        """(h, w) at a resolution: how much the tile counts. Over all tiles it is 1 in sum at every place."""
        rows, columns = self._weights_at(scale)
        (top, bottom), (left, right) = tile.span(scale)
        return rows[tile.row, top:bottom, None] * columns[tile.column, None, left:right]

    def share(self, tile: Tile, scale: float) -> torch.Tensor:
        """(h, w): how much the tile counts against those before it, in the order of `list`; 1 where it is the first."""
        rows, columns = self._weights_at(scale)
        (top, bottom), (left, right) = tile.span(scale)
        mine = self.weight(tile, scale)
        row, above = rows[tile.row, top:bottom, None], rows[: tile.row, top:bottom].sum(0)[:, None]
        before = above + row * columns[: tile.column, left:right].sum(0)[None]
        return torch.where(before > 0, mine / (mine + before).clamp(min=1e-12), torch.ones_like(mine))

    def _weights_at(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        if scale not in self._weights:
            self._weights[scale] = self.rows.weights(scale), self.columns.weights(scale)
        return self._weights[scale]

    def wide(self, tile: Tile) -> Tile:
        """The tile with CONTEXT around it, as far as the picture goes."""
        context = math.ceil(CONTEXT / self.multiple) * self.multiple
        top, left = max(0, tile.top - context), max(0, tile.left - context)
        bottom = min(self.height, tile.top + tile.height + context)
        right = min(self.width, tile.left + tile.width + context)
        return Tile(tile.row, tile.column, top, left, bottom - top, right - left)

    def narrow(self, part: torch.Tensor, tile: Tile, scale: float = 1) -> torch.Tensor:
        """The tile's own part of what was made for `wide(tile)`; a view."""
        wide = self.wide(tile)
        inner = Tile(tile.row, tile.column, tile.top - wide.top, tile.left - wide.left, tile.height, tile.width)
        return inner.of(part, scale)


class Blend:
    """The weighted sum of the tiles' tensors, (B, C, h, w) each, at any one resolution, in their type."""

    def __init__(self, tiles: Tiles):
        self.tiles = tiles
        self.whole: torch.Tensor | None = None

    def add(self, tile: Tile, part: torch.Tensor) -> None:
        if len(self.tiles) == 1:
            self.whole = part
            return
        scale = part.shape[-1] / tile.width
        if self.whole is None:
            size = round(self.tiles.height * scale), round(self.tiles.width * scale)
            self.whole = part.new_zeros(*part.shape[:2], *size)
        tile.of(self.whole, scale).add_(part * self.tiles.weight(tile, scale).to(part))


class Canvas:
    """The finished picture, filled tile by tile, so that floats exist for one tile alone.

    Args:
        tiles: of the picture. count: pictures of the batch.
        size: (H, W) of the result, which may lack the padding of the tiles.
        scale: result pixels per LR pixel.
        output_type: "pil": 8 bits from the start; "np" or "pt": float32.
    """

    def __init__(self, tiles: Tiles, count: int, size: tuple[int, int], scale: int, output_type: str):
        self.tiles, self.size, self.scale, self.output_type = tiles, size, scale, output_type
        if output_type == "pil":
            self.pictures = [Image.new("RGB", (size[1], size[0])) for _ in range(count)]
        else:
            self.whole = torch.empty(count, 3, *size)

    def put(self, tile: Tile, part: torch.Tensor) -> None:
        """part: (B, 3, h, w) in [0, 1] for the tile, blended with the tiles before it; what lies beyond the result is cut off."""
        (top, _), (left, _) = tile.span(self.scale)
        part = part[..., : self.size[0] - top, : self.size[1] - left]
        if len(self.tiles) == 1 and self.output_type == "pil":  # nothing to blend with; a GPU sends a quarter of the bytes
            pixels = part.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
            self.pictures = [Image.fromarray(picture.numpy()) for picture in pixels]
            return
        part = part.cpu()
        share = self.tiles.share(tile, self.scale)[: part.shape[-2], : part.shape[-1]]
        if self.output_type != "pil":
            place = self.whole[..., top : top + part.shape[-2], left : left + part.shape[-1]]
            # Untouched memory may hold NaN, which no weight of 0 would remove.
            place.copy_(torch.where(share == 1, part, place + share * (part - place)))
            return
        for picture, pixels in zip(self.pictures, part):
            box = (left, top, left + pixels.shape[-1], top + pixels.shape[-2])
            before = torch.from_numpy(np.array(picture.crop(box))).permute(2, 0, 1) / 255
            mixed = torch.lerp(before, pixels, share).mul(255).round().to(torch.uint8)
            picture.paste(Image.fromarray(mixed.permute(1, 2, 0).numpy()), box)

    def result(self, device: torch.device):
        """PIL list, float array (B, H, W, 3) or tensor (B, 3, H, W) on `device`, in [0, 1]."""
        if self.output_type == "pil":
            return self.pictures
        return self.whole.to(device) if self.output_type == "pt" else self.whole.permute(0, 2, 3, 1).numpy()


def _smooth_step(share: torch.Tensor) -> torch.Tensor:
    """0 to 1 with no kink at the ends; share(x) + share(1 - x) = 1."""
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)
