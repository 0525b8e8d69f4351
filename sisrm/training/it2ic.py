"""Stage 5, `it2ic`: controller, image encoder and SCA (s2.3, eq 9), with random MFF regions and the image encoder's own estimate.

    L = E ||eps - eps_theta(Z_t, Z_l, t, P_t, P_m)||^2   (eq 9; velocity instead of eps where the scheduler says so)

Trained are the image encoder, the ControlNet and SCA, as in the paper; a small backbone may train too (`train_unet`). Added to eq 9: the
image encoder also estimates the HR latents (sampling starts from that estimate), and every condition is left out some of the time, so
that guidance, MFF and the ablation's switches all work on a network that has seen them.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from sisrm.attention import is_segmentation_key
from sisrm.class_map import largest_classes
from sisrm.image_encoder import ImageEncoding
from sisrm.pipeline import SISRMPipeline
from sisrm.resize import enlarge
from sisrm.sape import choose_labels, prompt_of
from sisrm.training.backbone import diffusion_target
from sisrm.training.conditions import Semantics, encode_hr, random_region, read_semantics
from sisrm.training.data import CropSettings
from sisrm.training.loop import Stage
from sisrm.training.randomness import generators_of, random_normal, random_uniform
from sisrm.training.sape import DEGRADATION_MIX


class It2icStage(Stage):
    """Args: estimate_weight: of the L1 between estimated and true latents; low_share: share of samples with timesteps in the lower
    part of the schedule, where sampling from an estimate takes place; low_limit: where that part ends (share of T); scale,
    degradations: of the crops, see `CropSettings`.

    A pipeline without an image encoder component has the ControlNet's conditioning embedding in its place (eq 4): it reads the enlarged
    LR image, trains with the ControlNet, and there is no estimate to learn."""

    name = "it2ic"

    def __init__(
        self,
        pipe: SISRMPipeline,
        crop: int = 256,
        train_unet: bool = True,
        estimate_weight: float = 1.0,
        low_share: float = 0.7,
        low_limit: float = 0.4,
        dropout: float = 0.1,
        scale: tuple[float, float] = (0.5, 1.0),
        degradations: tuple[tuple[str, float], ...] = DEGRADATION_MIX,
    ):
        super().__init__()
        self.scale, self.degradations = scale, degradations
        self.pipe, self.crop, self.dropout = pipe, crop, dropout
        self.estimate_weight, self.low_share, self.low_limit = estimate_weight, low_share, low_limit
        self.vae, self.text_encoder = pipe.vae.requires_grad_(False), pipe.text_encoder.requires_grad_(False)
        self.segmenter, self.sape = pipe.segmenter.requires_grad_(False).eval(), pipe.sape.requires_grad_(False)
        self.sape.token_projection.requires_grad_(True)
        self.sape.token_position.requires_grad_(True)
        self.image_encoder = pipe.image_encoder
        if self.image_encoder is not None:
            self.image_encoder.requires_grad_(True).train()
        self.controlnet = pipe.controlnet.requires_grad_(True).train()
        self.unet = pipe.unet.train()
        for key, parameter in self.unet.named_parameters():
            parameter.requires_grad_(train_unet or is_segmentation_key(key))

    def crops(self) -> CropSettings:
        return CropSettings(crop=self.crop, scale=self.scale, degradations=self.degradations)

    def checkpoint_gradients(self) -> None:
        self.unet.enable_gradient_checkpointing()
        self.controlnet.enable_gradient_checkpointing()

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        timesteps = draw_timesteps(len(batch["hr"]), self.pipe, generator, self.low_share, self.low_limit)
        diffusion, restoration = it2ic_losses(self.pipe, batch, timesteps, generator, self.dropout)
        figures = {"diffusion": float(diffusion.detach())}
        if self.image_encoder is not None:
            figures["estimate"] = float(restoration.detach())
        return diffusion + self.estimate_weight * restoration, figures

    def save(self, folder: Path) -> None:
        for name in ("unet", "controlnet", "image_encoder", "sape"):
            if getattr(self, name) is not None:
                getattr(self, name).save_pretrained(folder / name)


def it2ic_losses(
    pipe: SISRMPipeline,
    batch: dict,
    timesteps: torch.Tensor,
    generator: torch.Generator,
    dropout: float,
    encoding: ImageEncoding | None = None,
    semantics: Semantics | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(eq 9 on a batch of pairs, L1 of the image encoder's latent estimate; 0 where there is no such component).

    encoding, semantics: of the batch's LR crops, where they have been computed already.
    """
    hr, lr = batch["hr"], batch["lr"]
    latents = encode_hr(pipe, hr)
    tokens, prompt, mask = condition_on(pipe, semantics or read_semantics(pipe, lr), generator, dropout)
    if encoding is None and pipe.image_encoder is not None:
        encoding = pipe.encode_image(lr)
    condition = enlarge(lr) if encoding is None else encoding.condition
    noise = random_normal(latents.shape, generator, latents)
    timesteps = timesteps.to(latents.device)
    noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
    prediction = pipe.denoise(noisy, timesteps, pipe.encode_prompt(prompt), tokens, condition, mask)
    diffusion = F.mse_loss(prediction, diffusion_target(pipe.scheduler, latents, noise, timesteps))
    return diffusion, diffusion.new_zeros(()) if encoding is None else F.l1_loss(encoding.latents, latents)


def draw_timesteps(
    count: int, pipe: SISRMPipeline, generator: torch.Generator, low_share: float = 0.7, low_limit: float = 0.4
) -> torch.Tensor:
    """Random timesteps, mostly from the lower part of the schedule, where sampling from an estimate takes place."""
    total = pipe.scheduler.config.num_train_timesteps
    low = random_uniform((count,), generator) < low_share
    return (random_uniform((count,), generator) * total * low.float().mul(low_limit - 1).add(1)).long()


def condition_on(pipe: SISRMPipeline, semantics: Semantics, generator: torch.Generator, dropout: float):
    """(segmentation tokens or None, prompts, M or None) for LR crops whose semantics were read, as the pipeline's switches leave them.

    With probability `dropout` each: no SAPE (neither tokens nor prompts, M from the largest classes), no SCA (no tokens), and no prompt,
    image by image. M is the region that inference would take in half of the batches, else a random one or absent (M = 1 everywhere).
    """

    def chance(source: torch.Generator) -> bool:
        return float(torch.rand((), generator=source)) < dropout

    mask_embedding, distribution, class_map = semantics
    count, device = len(class_map), class_map.device
    without_sape, without_sca = chance(generator), chance(generator)
    prompts, regions = [], []
    for own, scores, classes in zip(generators_of(generator, count), distribution, class_map):
        top_k = int(torch.randint(1, 9, (), generator=own))
        labels = [] if without_sape else choose_labels(scores, top_k, pipe.config.label_floor)
        indices = largest_classes(classes.cpu().numpy(), top_k) if without_sape else [label.index for label in labels]
        prompts.append("" if chance(own) else prompt_of(labels))
        regions.append(pipe.mff.region(classes, indices))
    tokens = None if without_sape or without_sca else pipe.sape.tokens(mask_embedding)
    kind = int(torch.randint(4, (), generator=generator))
    if kind == 0:
        return tokens, prompts, None
    if kind == 1:
        return tokens, prompts, random_region(class_map.shape[-2:], count, generator).to(device)
    return tokens, prompts, torch.stack(regions)[:, None]
