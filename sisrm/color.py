"""Colour correction: the diffusion result keeps its detail and takes its colours from the low-resolution input.

Diffusion models drift in hue and brightness. StableSR and SeeSR correct that after decoding, either by taking the low
frequencies of the input (wavelet) or by matching each channel's mean and standard deviation (AdaIN). The paper does not
say what it does; both are offered, written here from those ideas. Everything is linear in the difference between the
two images, so strength 0 is an exact identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sisrm.errors import ParameterError

WAVELET_LEVELS = 5
"""Levels of the a-trous decomposition: what is coarser than about 32 pixels counts as colour, the rest as detail."""

_FLAT = 1e-6  # variance added on both sides: identical images stay identical, and flat ones finite


def wavelet_fix(
    result: torch.Tensor, reference: torch.Tensor, strength: float = 1.0, levels: int = WAVELET_LEVELS
) -> torch.Tensor:
    """Replace the low frequencies of `result` by those of `reference`.

    Low frequencies are what remains after `levels` passes of the a-trous wavelet transform (binomial kernel 1-2-1,
    holes of 1, 2, 4, ... pixels). The transform is linear, so one decomposition of the difference is enough.

    Args:
        result: (B, C, H, W) in [0, 1], the decoded image.
        reference: (B, C, H, W) in [0, 1], the input resized to the same size.
        strength: 0 (nothing happens, exactly) to 1 (low frequencies come from the reference alone).
        levels: 1 or more; each level doubles the size of what counts as low frequency.

    Returns:
        (B, C, H, W) in [0, 1], dtype and device of `result`.

    Raises:
        ParameterError: shapes differ, or `strength` or `levels` is out of range.
    """
    _check(result, reference, strength)
    if levels < 1:
        raise ParameterError("levels", levels, "an integer of at least 1")
    if strength == 0:
        return result
    low = low_frequencies(reference.float() - result.float(), levels)
    return (result.float() + strength * low).clamp(0, 1).to(result.dtype)


def low_frequencies(image: torch.Tensor, levels: int) -> torch.Tensor:
    """What is left of (B, C, H, W) after `levels` passes of the a-trous wavelet transform; 0 levels leave all of it."""
    for level in range(levels):
        image = _smooth(image, dilation=2**level)
    return image


@dataclass
class Statistics:
    """Mean and standard deviation of a result and its reference, gathered part by part."""

    sums: torch.Tensor | float = 0.0  # (4, B, C): of result, its square, reference, its square
    weight: float = 0.0

    def add(self, result: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor) -> None:
        """result, reference: (B, C, h, w); weight: (h, w), how much each pixel of the part counts."""
        values = torch.stack([result, result.square(), reference, reference.square()])
        self.sums = self.sums + (values * weight).double().sum((-2, -1))
        self.weight += float(weight.double().sum())

    def of_both(self) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """(mean, standard deviation) of result and of reference, each (B, C, 1, 1)."""
        mean, square, reference_mean, reference_square = (self.sums / self.weight)[..., None, None]
        return tuple(
            (first.float(), ((second - first.square()).clamp(min=0) + _FLAT).sqrt().float())
            for first, second in ((mean, square), (reference_mean, reference_square))
        )


def adain_fix(
    result: torch.Tensor, reference: torch.Tensor, strength: float = 1.0, statistics: Statistics | None = None
) -> torch.Tensor:
    """Give every channel of `result` the mean and the standard deviation of the same channel of `reference`.

    Args:
        result: (B, C, H, W) in [0, 1], the decoded image.
        reference: (B, C, H, W) in [0, 1], the input resized to the same size.
        strength: 0 (nothing happens, exactly) to 1 (full statistics of the reference).
        statistics: of the picture that these are parts of; None: their own.

    Returns:
        (B, C, H, W) in [0, 1], dtype and device of `result`.

    Raises:
        ParameterError: shapes differ, or `strength` is out of range.
    """
    _check(result, reference, strength)
    if strength == 0:
        return result
    content, style = result.float(), reference.float()
    both = (_statistics(content), _statistics(style)) if statistics is None else statistics.of_both()
    (content_mean, content_std), (style_mean, style_std) = both
    matched = (content - content_mean) * (style_std / content_std) + style_mean
    return torch.lerp(content, matched, float(strength)).clamp(0, 1).to(result.dtype)


def _smooth(image: torch.Tensor, dilation: int) -> torch.Tensor:
    """Separable 1-2-1 filter with holes over (B, C, H, W); borders repeat their last pixel."""
    across = F.pad(image, (dilation, dilation, 0, 0), mode="replicate")
    image = 0.5 * image + 0.25 * (across[..., : -2 * dilation] + across[..., 2 * dilation :])
    down = F.pad(image, (0, 0, dilation, dilation), mode="replicate")
    return 0.5 * image + 0.25 * (down[..., : -2 * dilation, :] + down[..., 2 * dilation :, :])


def _statistics(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per image and channel, (B, C, 1, 1) each; a flat channel gets a tiny deviation."""
    mean = image.mean((2, 3), keepdim=True)
    std = (image.var((2, 3), keepdim=True, unbiased=False) + _FLAT).sqrt()
    return mean, std


def _check(result: torch.Tensor, reference: torch.Tensor, strength: float) -> None:
    if result.ndim != 4 or result.shape != reference.shape:
        raise ParameterError(
            "reference", tuple(reference.shape), f"the shape of result, {tuple(result.shape)}, as BCHW"
        )
    if not math.isfinite(strength) or not 0 <= strength <= 1:
        raise ParameterError("color_fix_strength", strength, "a number from 0 to 1")
