"""The class map: the likeliest class of every pixel of the result, from class probabilities at a fraction of its size.

Interpolating the probabilities and then choosing leaves no stair steps on the borders, but few of the 150 classes can win anywhere.
Those that provably cannot are left out first, which takes a small part of the time and changes no pixel.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

LONG_SIDE = 1024  # class probabilities are interpolated up to this long side; beyond it the class map is enlarged

TOGETHER = 50  # planes that a GPU holds at once: 200 MB at the largest size


def class_map_of(probabilities: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, classes, h, w) -> (B, *size) uint8, the class with the largest interpolated probability; the first of equals."""
    shrink = min(1.0, LONG_SIDE / max(size))
    inner = [max(1, round(side * shrink)) for side in size]
    # A GPU interpolates all classes in less time than it takes to ask it which ones can win.
    likeliest = _argmax_of_all if probabilities.device.type == "cuda" else _argmax_of_winners
    maps = torch.cat([likeliest(entry[None], inner) for entry in probabilities])
    return F.interpolate(maps, size=size, mode="nearest-exact")[:, 0]


def possible_winners(probabilities: torch.Tensor) -> torch.Tensor:
    """(1, classes, h, w) -> ascending indices of the classes that can be the likeliest somewhere between the h x w points.

    Between four neighbouring points interpolated values are weighted means of the four. So no class is above the largest of its
    own four values there, and the likeliest is not below the mean of the four winners at whichever corner that mean is least.
    """
    winners = probabilities.argmax(1, keepdim=True)
    around = [
        F.pad(probabilities, (0, 1, 0, 1), mode="replicate"),
        F.pad(winners.float(), (0, 1, 0, 1), mode="replicate"),
    ]
    values, names = ([_shifted(entry, row, column) for row in (0, 1) for column in (0, 1)] for entry in around)
    names = [name.long() for name in names]
    least = torch.stack([sum(value.gather(1, name) for name in names) / 4 for value in values]).amin(0)
    # Rounding in the interpolation must not decide, so what comes close is kept as well.
    least = least * (1 - 1e-4)
    able = (probabilities.amax((0, 2, 3)) >= least.amin()).nonzero()[:, 0]
    largest = F.max_pool2d(around[0][:, able], 2, stride=1)
    return able[(largest >= least).flatten(2).any(2)[0]]


def largest_classes(class_map: np.ndarray, count: int) -> list[int]:
    """The `count` classes that cover most of a class map, largest first."""
    classes, pixels = np.unique(class_map, return_counts=True)
    return classes[np.argsort(-pixels, kind="stable")][:count].tolist()


def _shifted(padded: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """(B, C, h + 1, w + 1) -> (B, C, h, w), the values `row` below and `column` to the right."""
    return padded[..., row : padded.shape[-2] - 1 + row, column : padded.shape[-1] - 1 + column]


def _argmax_of_all(probabilities: torch.Tensor, size: list[int]) -> torch.Tensor:
    """As `_argmax_of_winners`, with no value looked at on the way; some classes at a time, for their planes' memory."""
    best = chosen = None
    for first in range(0, probabilities.shape[1], TOGETHER):
        planes = F.interpolate(probabilities[:, first : first + TOGETHER], size=size, mode="bilinear")
        values, indices = planes.max(1, keepdim=True)
        if best is None:
            best, chosen = values, indices
            continue
        better = values > best
        best, chosen = torch.where(better, values, best), torch.where(better, indices + first, chosen)
    return chosen.to(torch.uint8)


def _argmax_of_winners(probabilities: torch.Tensor, size: list[int]) -> torch.Tensor:
    """(1, classes, h, w) -> (1, 1, *size) uint8. One class at a time: an argmax over planes that lie apart is ten times slower."""
    first, *others = possible_winners(probabilities).tolist()

    def plane(index: int) -> torch.Tensor:
        return F.interpolate(probabilities[:, index : index + 1], size=size, mode="bilinear")

    best = plane(first)
    chosen = torch.full_like(best, first, dtype=torch.uint8)
    for index in others:
        rival = plane(index)
        chosen.masked_fill_(rival > best, index)
        torch.maximum(best, rival, out=best)
    return chosen
