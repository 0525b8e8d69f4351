"""Stage 6, `finishing`: perceptual sharpness, through the decoder, on the pipeline's own sampled latents.

A decoder that has only seen clean latents does not know the sampler's errors; here it sees them (Edge-SD-SR, 2412.06978). The sampler
runs as at inference, colour correction included; its last step, the decoder, the image encoder and the decoder's LR features learn from
the picture: L1, texture (`texture.py`), the teacher's features, and a discriminator (Ledig et al. 2017; Wang et al. 2021).
Eq 9 and the latent estimate stay in the loss, so that the U-Net goes on being a diffusion model.

Left to itself the decoder draws the picture from the LR features alone, and what labels, E_m and MFF do to the latents is not seen. So
some images are decoded without those features, which leaves the latents to carry the picture, and some batches from the true latents,
which are worth listening to.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sisrm.color import wavelet_fix
from sisrm.evaluation.teacher import Teacher, feature_distance, teacher_input
from sisrm.image_encoder import ImageEncoding
from sisrm.pipeline import SISRMPipeline
from sisrm.resize import SCALE, enlarge
from sisrm.training.autoencoder import gradient_l1
from sisrm.training.conditions import Semantics, encode_hr, read_semantics
from sisrm.training.data import CropSettings
from sisrm.training.discriminator import PatchDiscriminator
from sisrm.training.it2ic import condition_on, draw_timesteps, it2ic_losses
from sisrm.training.loop import Figures, Stage
from sisrm.training.randomness import random_normal, random_uniform
from sisrm.training.texture import energy_l1, grid_l1, soften, spectrum_l1

STEPS = {1: 0.35, 2: 0.35, 4: 0.2, 8: 0.1}
"""Number of denoising steps -> share of the batches that take so many."""
SHALLOW_MAPS = 8  # of the teacher's 18: stem and blocks down to an eighth of the size


class FinishingStage(Stage):
    """Args: weights of the losses; 0 switches a loss off. blind_share: share of images decoded without LR features. truth_share: share
    of batches decoded from the true latents. deep_share: share of batches whose teacher features are compared to the last map. warmup:
    batches in which the discriminator learns without a say, and over as many more its weight rises to the full. train_unet: False leaves
    U-Net and ControlNet as they are, without eq 9, at half the cost. softness: sigma in pixels of the blur of what is aimed at, 0 for none;
    0.7 gives the training photos the spectrum of RealSR's originals (see `soften`)."""

    name = "finishing"

    def __init__(
        self,
        pipe: SISRMPipeline,
        teacher: Teacher | None,
        crop: int = 192,
        pixel_weight: float = 1.0,
        gradient_weight: float = 0.5,
        energy_weight: float = 0.5,
        grid_weight: float = 30.0,
        spectrum_weight: float = 0.2,
        diffusion_weight: float = 0.2,
        estimate_weight: float = 0.2,
        feature_weight: float = 1.0,
        adversarial_weight: float = 0.01,
        warmup: int = 200,
        dropout: float = 0.1,
        blind_share: float = 0.1,
        truth_share: float = 0.05,
        deep_share: float = 0.5,
        train_unet: bool = True,
        softness: float = 0.7,
    ):
        super().__init__()
        self.pipe, self.teacher, self.crop, self.dropout, self.warmup = pipe, teacher, crop, dropout, warmup
        self.pixel_weight, self.gradient_weight = pixel_weight, gradient_weight
        self.energy_weight, self.grid_weight, self.spectrum_weight = energy_weight, grid_weight, spectrum_weight
        self.diffusion_weight, self.estimate_weight = diffusion_weight, estimate_weight
        self.feature_weight, self.adversarial_weight = feature_weight, adversarial_weight
        self.blind_share, self.truth_share, self.deep_share = blind_share, truth_share, deep_share
        self.roles = ("generator", "discriminator") if adversarial_weight else ("generator",)
        self.text_encoder = pipe.text_encoder.requires_grad_(False)
        self.segmenter, self.sape = pipe.segmenter.requires_grad_(False).eval(), pipe.sape.requires_grad_(False)
        self.vae = pipe.vae.requires_grad_(True).train()
        self.vae.encoder.requires_grad_(False)
        self.image_encoder = pipe.image_encoder.requires_grad_(True).train()
        self.train_unet, self.softness = train_unet, softness
        self.controlnet, self.unet = (
            pipe.controlnet.requires_grad_(train_unet).train(),
            pipe.unet.requires_grad_(train_unet).train(),
        )
        self.discriminator = PatchDiscriminator() if adversarial_weight else None
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self._judged: tuple[torch.Tensor, ...] = ()

    def crops(self) -> CropSettings:
        # camera-like damage more often than in eq 9's stage: sharpening it is what this stage is for
        mix = (("camera", 0.35), ("light", 0.2), ("seesr", 0.3), ("heavy", 0.15))
        return CropSettings(crop=self.crop, scale=(0.6, 1.0), degradations=mix)

    def role_parameters(self, role: str) -> list[nn.Parameter]:
        if role == "discriminator":
            return list(self.discriminator.parameters())
        decoder = (self.vae.decoder, self.vae.lr_fusion, self.vae.lr_detail)
        modules = (*decoder, self.image_encoder, self.controlnet, self.unet)
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def role_rate(self, role: str) -> float:
        # a critic slower than what it judges is fooled rather than satisfied (two time-scale rule, Heusel et al. 2017)
        return 4.0 if role == "discriminator" else 1.0

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, Figures]:
        if role == "discriminator":
            fake, real, enlarged = self._judged
            verdict, truth = self.discriminator(fake, enlarged).float(), self.discriminator(real, enlarged).float()
            return F.relu(1 + verdict).mean() + F.relu(1 - truth).mean(), {"margin": (truth - verdict).detach().mean()}
        lr = batch["lr"]
        encoding = self.pipe.encode_image(lr)
        semantics = read_semantics(self.pipe, lr)
        result = self.restore(batch["hr"], encoding, semantics, generator)
        hr = soften(batch["hr"], self.softness)
        enlarged = F.interpolate(lr, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
        self._judged = (result.detach(), hr, enlarged)
        pixels, edges = F.l1_loss(result, hr), gradient_l1(result, hr)
        # Windows and strides that always meet the picture at the same pixels leave their grid in it.
        down, right = (int(torch.randint(8, (), generator=generator)) for _ in range(2))
        seen, true = result[..., down:, right:], hr[..., down:, right:]
        figures = {"pixels": pixels.detach()}
        loss = self.pixel_weight * pixels + self.gradient_weight * edges + self.energy_weight * energy_l1(seen, true)
        grid = grid_l1(result, hr)
        loss = loss + self.grid_weight * grid
        figures["grid"] = grid.detach()
        if self.spectrum_weight:
            spectrum = spectrum_l1(seen, true)
            loss = loss + self.spectrum_weight * spectrum
            figures["spectrum"] = spectrum.detach()
        if self.teacher is not None and self.feature_weight:
            # the deep maps cost most and say least about texture
            depth = None if self.chance(self.deep_share, generator) else SHALLOW_MAPS
            with torch.no_grad():
                wanted = self.teacher.features(teacher_input(true), depth)
            distance = feature_distance(self.teacher.features(teacher_input(seen), depth), wanted).mean()
            loss = loss + self.feature_weight * distance
            figures["features"] = distance.detach()
        if self.adversarial_weight:
            realness = self.discriminator(result, enlarged).float().mean()
            ramp = (self.batches / max(1, self.warmup) - 1).clamp(0, 1)
            loss = loss - self.adversarial_weight * ramp * realness
            figures["realness"] = realness.detach()
        if not self.train_unet:
            estimate = F.l1_loss(encoding.latents, encode_hr(self.pipe, batch["hr"]))
            loss = loss + self.estimate_weight * estimate
            figures["estimate"] = estimate.detach()
        elif self.diffusion_weight or self.estimate_weight:
            # trained through the picture alone, U-Net and image encoder forget what latents are
            timesteps = draw_timesteps(len(lr), self.pipe, generator)
            diffusion, estimate = it2ic_losses(
                self.pipe, batch, timesteps, generator, self.dropout, encoding, semantics
            )
            loss = loss + self.diffusion_weight * diffusion + self.estimate_weight * estimate
            figures |= {"diffusion": diffusion.detach(), "estimate": estimate.detach()}
        with torch.no_grad():
            energy = (
                sum(result.float().diff(dim=axis).abs().mean() / hr.diff(dim=axis).abs().mean() for axis in (2, 3)) / 2
            )
            self.batches += 1
        return loss, figures | {"energy": energy}

    def restore(
        self, hr: torch.Tensor, encoding: ImageEncoding, semantics: Semantics, generator: torch.Generator
    ) -> torch.Tensor:
        """LR crops as the pipeline restores them -> (B, 3, 4h, 4w) around [0, 1]; gradients in the decoder and, where the U-Net is
        trained, in the last step.

        hr: (B, 3, 4h, 4w), for the batches that are decoded from the true latents. encoding, semantics: of the LR crops.
        """
        pipe = self.pipe
        if self.chance(self.truth_share, generator):
            latents = encode_hr(pipe, hr)
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.train_unet):
                latents = self.sample(encoding, semantics, generator)
        seeing = random_uniform((len(hr), 1, 1, 1), generator).to(hr.device) >= self.blind_share
        decoded = pipe.decode_latents(latents, replace(encoding, features=encoding.features * seeing))
        return wavelet_fix(decoded, enlarge(encoding.lr_image), levels=pipe.config.color_fix_levels)

    def sample(self, encoding: ImageEncoding, semantics: Semantics, generator: torch.Generator) -> torch.Tensor:
        """Latents from the sampler, in one of `STEPS` steps: what the decoder has never seen it draws badly."""
        pipe = self.pipe
        tokens, prompts, mask = condition_on(pipe, semantics, generator, self.dropout)
        text = pipe.encode_prompt(prompts)
        drawn = torch.multinomial(torch.tensor(list(STEPS.values())), 1, generator=generator)
        timesteps = pipe.prepare_timesteps(list(STEPS)[int(drawn)], pipe.defaults["start_strength"])
        noise = random_normal(encoding.latents.shape, generator, encoding.latents)
        latents = pipe.scheduler.add_noise(encoding.latents, noise, timesteps[:1].expand(len(noise)))
        for index, timestep in enumerate(timesteps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index == len(timesteps) - 1):
                prediction = pipe.denoise(latents, timestep, text, tokens, encoding.condition, mask)
                latents = pipe.scheduler.step(prediction, timestep, latents).prev_sample
        return latents

    @staticmethod
    def chance(share: float, generator: torch.Generator) -> bool:
        """True in `share` of the calls."""
        return float(torch.rand((), generator=generator)) < share

    def save(self, folder: Path) -> None:
        for name in ("vae", "image_encoder", "controlnet", "unet"):
            getattr(self, name).save_pretrained(folder / name)
