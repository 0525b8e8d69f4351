"""The finishing stage's critic: a small patch discriminator with spectral normalisation (as Real-ESRGAN's, without its U-Net)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Image and enlarged LR image -> realness per patch. It sees the LR image, so that "real" means real for this input."""

    def __init__(self, width: int = 32):
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            size = 4 if stride == 2 else 3
            return [spectral_norm(nn.Conv2d(inputs, outputs, size, stride, 1)), nn.LeakyReLU(0.2)]

        self.layers = nn.Sequential(
            *block(24, width * 2, 1),
            *block(width * 2, width * 2, 2),
            *block(width * 2, width * 4, 2),
            *block(width * 4, width * 4, 1),
            spectral_norm(nn.Conv2d(width * 4, 1, 3, padding=1)),
        )

    def forward(self, image: torch.Tensor, enlarged_lr: torch.Tensor) -> torch.Tensor:
        """Both (B, 3, H, W) in [0, 1], H and W divisible by 8 -> (B, 1, H / 8, W / 8), higher is more real."""
        pair = torch.cat([image, image - enlarged_lr], dim=1) * 2
        return self.layers(nn.functional.pixel_unshuffle(pair, 2))
