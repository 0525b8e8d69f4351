"""Stage 4, `backbone`: a small text-to-image U-Net on (latent, label prompt) pairs.

It stands for the "pretrained T2I model" that the paper starts from (Stable Diffusion)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from sisrm.attention import is_segmentation_key
from sisrm.pipeline import SISRMPipeline
from sisrm.training.compact import clone_controlnet
from sisrm.training.conditions import encode_hr, prompts_from_classes
from sisrm.training.data import CropSettings
from sisrm.training.loop import Stage
from sisrm.training.randomness import random_normal, random_uniform


def diffusion_target(scheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the network is asked for: the noise of eq 9, or the velocity where the scheduler's configuration says so."""
    return (
        scheduler.get_velocity(latents, noise, timesteps)
        if scheduler.config.prediction_type == "v_prediction"
        else noise
    )


class BackboneStage(Stage):
    name = "backbone"

    def __init__(self, pipe: SISRMPipeline, crop: int = 256):
        super().__init__()
        self.pipe, self.crop = pipe, crop
        self.vae = pipe.vae.requires_grad_(False)
        self.unet, self.text_encoder = (
            pipe.unet.requires_grad_(True).train(),
            pipe.text_encoder.requires_grad_(True).train(),
        )
        for key, parameter in self.unet.named_parameters():
            parameter.requires_grad_(not is_segmentation_key(key))

    def crops(self) -> CropSettings:
        return CropSettings(crop=self.crop, scale=(0.5, 1.0))

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        latents = encode_hr(self.pipe, batch["hr"])
        noise = random_normal(latents.shape, generator, latents)
        timesteps = (1000 * random_uniform((len(latents),), generator)).long().to(latents.device)
        scheduler = self.pipe.scheduler
        text = self.pipe.encode_prompt(prompts_from_classes(batch["classes"], generator))
        prediction = self.unet(scheduler.add_noise(latents, noise, timesteps), timesteps, text, return_dict=False)[0]
        return F.mse_loss(prediction.float(), diffusion_target(scheduler, latents, noise, timesteps)), {}

    def save(self, folder: Path) -> None:
        self.unet.save_pretrained(folder / "unet")
        self.text_encoder.save_pretrained(folder / "text_encoder")
        clone_controlnet(self.unet).save_pretrained(
            folder / "controlnet"
        )  # s2.3: the controller starts as the encoder's clone
