"""The sizes of a run: LR image, latents at half of its sides, result at four times."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SCALE = 4  # the paper's and the only factor: x4 per side
LATENT_SCALE = SCALE / 8  # latents are eight times smaller than the result, in both presets


def enlarge(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w), bicubic, in [0, 1]."""
    return F.interpolate(image, scale_factor=SCALE, mode="bicubic").clamp(0, 1)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last row and column until both sides of (B, C, h, w) are multiples of `multiple`."""
    bottom, right = (math.ceil(side / multiple) * multiple - side for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom), mode="replicate")
