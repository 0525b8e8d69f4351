"""The trainable image encoder of the LR image (s2.3, eq 4: E_i = F_conv(I_LR)), compact form.

It works at LR resolution, where four times enlarging has not yet multiplied the cost, and gives four things: features for the decoder,
an estimate of the HR latents that denoising starts from, the ControlNet's condition, and the LR image without its noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from sisrm.color import low_frequencies


@dataclass
class ImageEncoding:
    """features: (B, width, h, w) at LR size; latents: (B, latent_channels, h / 2, w / 2), estimate of the HR latents, not scaled;
    condition: (B, latent_channels + condition_channels, h / 2, w / 2), what the ControlNet's conditioning embedding reads;
    lr_image: (B, 3, h, w) around [0, 1], the LR image without its noise, in its own colours: low frequencies of the result come from it."""

    features: torch.Tensor
    latents: torch.Tensor
    condition: torch.Tensor
    lr_image: torch.Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an activation, no normalisation (EDSR's block: norms hurt restoration)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.activation = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.activation(self.conv1(x)))


class ImageEncoder(ModelMixin, ConfigMixin):
    """LR image -> HR latent estimate, decoder features and ControlNet condition.

    Args:
        latent_channels: channels of the autoencoder's latents.
        width: channels at LR resolution. depth: residual blocks there.
        latent_width, latent_depth: the same at latent resolution (half of LR: x4 enlarging, 8x smaller latents).
        condition_channels: free channels handed to the ControlNet beside the latent estimate.
        color_levels: levels of the a-trous wavelet transform beyond which frequencies of the LR image are its colours, and stay; 0: none.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 64,
        depth: int = 6,
        latent_width: int = 128,
        latent_depth: int = 4,
        condition_channels: int = 16,
        color_levels: int = 2,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.down = nn.Conv2d(width, latent_width, 2, stride=2)
        self.latent_blocks = nn.Sequential(*(ResidualBlock(latent_width) for _ in range(latent_depth)))
        self.to_latents = nn.Conv2d(latent_width, latent_channels, 3, padding=1)
        self.to_lr_image = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.to_lr_image.weight)  # until it is trained the LR image stays as it is
        nn.init.zeros_(self.to_lr_image.bias)
        self.to_condition = nn.Conv2d(latent_width, condition_channels, 3, padding=1)

    def forward(self, lr_image: torch.Tensor) -> ImageEncoding:
        """lr_image: (B, 3, h, w) in [0, 1], h and w even."""
        shallow = self.conv_in(lr_image * 2 - 1)
        features = shallow + self.blocks(shallow)
        hidden = self.latent_blocks(self.down(features))
        latents = self.to_latents(hidden)
        condition = torch.cat([latents, self.to_condition(hidden)], dim=1)
        return ImageEncoding(features, latents, condition, lr_image + self.denoise(features))

    def denoise(self, features: torch.Tensor) -> torch.Tensor:
        """What is added to the LR image, (B, 3, h, w): its noise's opposite, without the frequencies that are colours."""
        change = self.to_lr_image(features)
        if not self.config.color_levels:
            return change
        # Trained on the picture alone it learns to shift saturated colours, which few training photos have.
        return change - low_frequencies(change, self.config.color_levels)
