"""Colour correction: the diffusion result keeps its detail and takes its colours from the low-resolution input.

Diffusion models drift in hue and brightness. StableSR and SeeSR correct that after decoding, either by taking the low
frequencies of the input (wavelet) or by matching each channel's mean and standard deviation (AdaIN). The paper does not
say what it does; both are offered, written here from those ideas. Everything is linear in the difference between the
two images, so strength 0 is an exact identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from sisrm.errors import ParameterError

WAVELET_LEVELS = 5
"""Levels of the a-trous decomposition: what is coarser than about 32 pixels counts as colour, the rest as detail."""


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
    low = reference.float() - result.float()
    for level in range(levels):
        low = _smooth(low, dilation=2**level)
    return (result.float() + strength * low).clamp(0, 1).to(result.dtype)


def adain_fix(result: torch.Tensor, reference: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Give every channel of `result` the mean and the standard deviation of the same channel of `reference`.

    Args:
        result: (B, C, H, W) in [0, 1], the decoded image.
        reference: (B, C, H, W) in [0, 1], the input resized to the same size.
        strength: 0 (nothing happens, exactly) to 1 (full statistics of the reference).

    Returns:
        (B, C, H, W) in [0, 1], dtype and device of `result`.

    Raises:
        ParameterError: shapes differ, or `strength` is out of range.
    """
    _check(result, reference, strength)
    if strength == 0:
        return result
    content, style = result.float(), reference.float()
    content_mean, content_std = _statistics(content)
    style_mean, style_std = _statistics(style)
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
    # The same small constant on both sides keeps identical images identical and flat ones finite.
    std = (image.var((2, 3), keepdim=True, unbiased=False) + 1e-6).sqrt()
    return mean, std


def _check(result: torch.Tensor, reference: torch.Tensor, strength: float) -> None:
    if result.ndim != 4 or result.shape != reference.shape:
        raise ParameterError(
            "reference", tuple(reference.shape), f"the shape of result, {tuple(result.shape)}, as BCHW"
        )
    if not math.isfinite(strength) or not 0 <= strength <= 1:
        raise ParameterError("color_fix_strength", strength, "a number from 0 to 1")
