"""The generator of Real-ESRGAN x4plus, RRDB, from its published description.

ESRGAN (Wang et al. 2018, 1809.00219, section 3.1): residual-in-residual dense blocks without normalisation, residuals scaled by 0.2;
Real-ESRGAN (Wang et al. 2021, 2107.10833) keeps it for x4: 64 channels, growth 32, 23 blocks, two nearest-neighbour enlargements.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each reading the block's input and what all convolutions before it gave."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width + index * growth, growth if index < 4 else width, 3, padding=1) for index in range(5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for conv in self.convs[:4]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2, inplace=True))
        return x + RESIDUAL_SCALE * self.convs[4](torch.cat(seen, 1))


class ResidualInResidual(nn.Module):
    """Three dense blocks inside one more residual."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


class RRDB(nn.Module):
    """(B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w)."""

    def __init__(self, width: int = 64, growth: int = 32, blocks: int = 23):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidual(width, growth) for _ in range(blocks)))
        self.after_body = nn.Conv2d(width, width, 3, padding=1)
        self.enlarging = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.high = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        shallow = self.first(image)
        hidden = shallow + self.after_body(self.body(shallow))
        for conv in self.enlarging:
            hidden = F.leaky_relu(conv(F.interpolate(hidden, scale_factor=2, mode="nearest")), 0.2, inplace=True)
        return self.last(F.leaky_relu(self.high(hidden), 0.2, inplace=True))
