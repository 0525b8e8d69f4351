"""Coring: detail too faint to tell from a decoder's own texture is taken back, so that skies and walls stay calm.

A local Wiener gain on the detail, result minus enlarged LR image: gain = max(0, 1 - sigma^2 / local energy). Where detail is strong
the gain is one; where it is as weak as the texture that a small decoder leaves on flat areas it is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

WINDOW = 9  # pixels over which the detail's energy is measured: two periods of a grid of 4


def core_detail(result: torch.Tensor, reference: torch.Tensor, sigma: float) -> torch.Tensor:
    """result, reference: (B, 3, H, W) in [0, 1], the reference holding no detail; sigma: of the faint texture, in the same units.

    -> the result with faint detail taken back; 0 leaves it as it is.
    """
    detail = result - reference
    margin = (WINDOW // 2,) * 4
    energy = F.avg_pool2d(F.pad(detail.square().mean(1, keepdim=True), margin, mode="replicate"), WINDOW, stride=1)
    gain = (1 - sigma**2 / energy.clamp(min=1e-12)).clamp(min=0) if sigma else torch.ones_like(energy)
    return reference + gain * detail
