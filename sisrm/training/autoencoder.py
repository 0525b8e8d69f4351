"""Stage 1, `autoencoder`: the compact latent space, on sharp photos. Loss: L1 on pixels plus L1 on their gradients."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from sisrm.autoencoder import CompactAutoencoder
from sisrm.training.data import CropSettings
from sisrm.training.loop import Stage
from sisrm.training.randomness import random_normal


def gradient_l1(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical forward differences; a, b: (B, C, H, W)."""
    return sum(F.l1_loss(a.diff(dim=axis), b.diff(dim=axis)) for axis in (2, 3))


class AutoencoderStage(Stage):
    name = "autoencoder"

    def __init__(self, vae: CompactAutoencoder, crop: int = 128):
        super().__init__()
        self.vae, self.crop = vae.requires_grad_(True), crop

    def crops(self) -> CropSettings:
        return CropSettings(crop=self.crop, scale=(0.5, 1.0))

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        image = batch["hr"] * 2 - 1
        latents = self.vae.encode(image).latents
        # a little noise keeps the decoder smooth around the latents that diffusion will hand it
        noise = random_normal(latents.shape, generator, latents).to(latents) * 0.02
        restored = self.vae.decode(latents + noise).sample
        pixels, edges = F.l1_loss(restored, image), gradient_l1(restored, image)
        return pixels + 0.5 * edges, {"psnr": -10 * float(F.mse_loss(restored.float(), image).detach().div(4).log10())}

    def save(self, folder: Path) -> None:
        self.vae.save_pretrained(folder / "vae")
