"""The compact preset's autoencoder: AutoencoderTiny around a pixel-unshuffle, with a decoder that can also see the LR image.

A decoder that sees the LR image keeps what an 8x smaller latent loses (StableSR's controllable feature wrapping, CFW; the same idea in
Edge-SD-SR, 2412.06978). Here it receives the image encoder's LR features (eq 4): at LR resolution, which is the decoder's own second
level, and once more at its end, as a sub-pixel convolution (Shi et al. 2016), the shortest way from an LR pixel to the HR pixels over it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DecoderTiny, EncoderTiny
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class CompactAutoencoder(ModelMixin, ConfigMixin):
    """8x down, `latent_channels` channels, no KL term: AutoencoderTiny's encoder and decoder between pixel-unshuffle and -shuffle.

    Args:
        latent_channels: channels of the latents.
        width: channels of every level.
        num_encoder_blocks, num_decoder_blocks: residual blocks per level (the unshuffle makes three levels out of 8x).
        lr_feature_channels: channels of the LR features the decoder can see; 0 builds a plain autoencoder.
        scaling_factor: what latents are multiplied with before diffusion (1 / their standard deviation).
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 64,
        num_encoder_blocks: tuple[int, ...] = (1, 3, 3),
        num_decoder_blocks: tuple[int, ...] = (3, 3, 2),
        lr_feature_channels: int = 0,
        scaling_factor: float = 2.0,
    ):
        super().__init__()
        self.encoder = EncoderTiny(12, latent_channels, tuple(num_encoder_blocks), (width,) * 3, act_fn="relu")
        self.decoder = DecoderTiny(
            latent_channels,
            12,
            tuple(num_decoder_blocks),
            (width,) * 3,
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )
        # What each one overwrites is a convolution's or a sum's result, which nothing else reads: no copy, and no memory for one.
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True
        # Zero-initialised: before training the decoder is exactly the plain one, whatever LR features it is given.
        self.lr_fusion = nn.Conv2d(lr_feature_channels, width, 3, padding=1) if lr_feature_channels else None
        self.lr_detail = nn.Conv2d(lr_feature_channels, 3 * 4**2, 3, padding=1) if lr_feature_channels else None
        for layer in (self.lr_fusion, self.lr_detail):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @apply_forward_hook
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> AutoencoderTinyOutput | tuple[torch.Tensor]:
        """x: (B, 3, H, W) in [-1, 1], sides divisible by 8 -> latents (B, latent_channels, H / 8, W / 8)."""
        latents = self.encoder(F.pixel_unshuffle(x, 2))
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(
        self,
        x: torch.Tensor,
        lr_features: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """x: latents (B, C, h, w); lr_features: (B, lr_feature_channels, 2h, 2w) or None -> image (B, 3, 8h, 8w) around [-1, 1].

        `generator` is part of diffusers' signature for decoders; decoding is deterministic.
        """
        hidden = torch.tanh(x / 3) * 3  # AutoencoderTiny's soft clamp
        upsamplings = 0
        *layers, to_pixels = self.decoder.layers
        for layer in layers:
            hidden = layer(hidden)
            if isinstance(layer, nn.Upsample):
                upsamplings += 1
                if upsamplings == 1 and lr_features is not None and self.lr_fusion is not None:
                    hidden = hidden + self.lr_fusion(lr_features)
        # The last layer in float32: bfloat16 has fewer steps near white than a picture has grey levels, which bands skies.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = F.conv2d(hidden.float(), to_pixels.weight.float(), to_pixels.bias.float(), padding=1)
        sample = F.pixel_shuffle(hidden.mul(2).sub(1), 2)
        if lr_features is not None and self.lr_detail is not None:
            sample = sample + F.pixel_shuffle(self.lr_detail(lr_features).float(), 4)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode; sample as in `encode`."""
        return self.decode(self.encode(sample).latents, return_dict=return_dict)
