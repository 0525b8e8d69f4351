"""What the later stages share: prompts from class maps, SAPE's reading of LR crops, latents of HR crops, random regions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from sisrm.labels import CLASS_NAMES
from sisrm.pipeline import SISRMPipeline
from sisrm.sape import choose_labels, prompt_of, segmenter_input
from sisrm.semantics import SEGMENTER_SIDE
from sisrm.training.data import UNSURE
from sisrm.training.randomness import generators_of, random_uniform


class Semantics(NamedTuple):
    """mask_embedding: E_m. distribution: of the labels, (B, 150), on the CPU, where prompts are chosen. class_map: (B, 4h, 4w)."""

    mask_embedding: torch.Tensor
    distribution: torch.Tensor
    class_map: torch.Tensor


def class_shares(classes: torch.Tensor, num_classes: int = len(CLASS_NAMES)) -> torch.Tensor:
    """(B, H, W) class indices or UNSURE -> (B, num_classes) share of the known pixels; zeros where nothing is known."""
    flat = classes.flatten(1)
    known = flat != UNSURE
    counts = torch.zeros(len(flat), num_classes, device=flat.device)
    counts.scatter_add_(1, flat.where(known, 0), known.float())
    return counts / known.sum(1, keepdim=True).clamp(min=1)


def presence_targets(classes: torch.Tensor, smallest: float = 0.005) -> torch.Tensor:
    """Multi-label targets as a distribution: classes of at least `smallest` share, weighted by the root of their area."""
    shares = class_shares(classes)
    weights = shares.where(shares >= smallest, 0).sqrt()
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-6)


def prompts_from_classes(
    classes: torch.Tensor, generator: torch.Generator, dropout: float = 0.1, most: int = 8
) -> list[str]:
    """A label prompt per crop: its largest classes, a random number of them; sometimes none, so that guidance has a meaning."""
    prompts = []
    for own, weights in zip(generators_of(generator, len(classes)), presence_targets(classes.cpu())):
        count = int(torch.randint(1, most + 1, (), generator=own))
        dropped = float(torch.rand((), generator=own)) < dropout
        present = int((weights > 0).sum())
        prompts.append("" if dropped or not present else prompt_of(choose_labels(weights, min(count, present))))
    return prompts


def random_region(size: tuple[int, int], count: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth random regions M for training with MFF: (count, 1, *size), 0 or 1, covering a random share of the crop."""
    coarse = random_uniform((count, 1, 4, 4), generator)
    share = random_uniform((count, 1, 1, 1), generator)
    return (F.interpolate(coarse, size=size, mode="bicubic") < share).float()


@torch.no_grad()
def encode_hr(pipe: SISRMPipeline, hr: torch.Tensor) -> torch.Tensor:
    """HR crops in [0, 1] -> scaled latents, float32; of Stable Diffusion's distribution, which is narrow, the mean."""
    encoded = pipe.vae.encode(hr * 2 - 1)
    latents = encoded.latent_dist.mode() if isinstance(encoded, AutoencoderKLOutput) else encoded.latents
    return latents.float() * pipe.vae.config.scaling_factor


@torch.no_grad()
def read_semantics(pipe: SISRMPipeline, lr: torch.Tensor) -> Semantics:
    """SAPE on LR crops.

    A crop is read at the scale at which the pipeline reads the reference input of 128.
    """
    probabilities = (
        pipe.segmenter(segmenter_input(lr, round(min(lr.shape[-2:]) * SEGMENTER_SIDE / 128))).logits.float().softmax(1)
    )
    mask_embedding, logits = pipe.sape(probabilities)
    size = [4 * side for side in lr.shape[-2:]]
    # the likeliest class first, then enlarged: M is only needed at the residuals' resolutions, which are lower still
    class_map = F.interpolate(probabilities.argmax(1)[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    return Semantics(mask_embedding.float(), logits.float().softmax(1).cpu(), class_map)
