"""`labels --head-only`: the label generator (eq 2) fitted to its optimum on a fixed E_m.

The generator is linear in the pooled E_m, so once every photo's pooled E_m is known its best weights are a convex problem that takes
seconds, where a training loop would read the photos again and again. E_m itself stays: IT2IC has learnt to read it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from sisrm.pipeline import SISRMPipeline
from sisrm.semantics import SEGMENTER_SIDE
from sisrm.training.conditions import presence_targets
from sisrm.training.data import Crops, CropSettings, Photos
from sisrm.training.sape import class_probabilities, cross_entropy

logger = logging.getLogger(__name__)


def refit(
    source: Path, target: Path, photos: Photos, crop: int, seed: int = 0, passes: int = 1, decay: float = 1e-3
) -> float:
    """Fit the label generator of the pipeline in `source`, write it to `target`/sape; -> cross-entropy reached."""
    pipe = SISRMPipeline.from_pretrained(str(source), use_safetensors=True, local_files_only=True, dtype=torch.float32)
    pooled, targets = pooled_embeddings(pipe, photos, crop, seed, passes)
    weight, bias, loss = fit_linear(pooled, targets, decay)
    with torch.no_grad():
        pipe.sape.label_generator.weight.copy_(weight)
        pipe.sape.label_generator.bias.copy_(bias)
    pipe.sape.save_pretrained(target / "sape")
    return loss


@torch.no_grad()
def pooled_embeddings(
    pipe: SISRMPipeline, photos: Photos, crop: int, seed: int, passes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled E_m (N, C) and presence targets (N, 150) of one crop per photo and pass, each read once sharp and once degraded."""
    mix = (("camera", 0.4), ("light", 0.3), ("seesr", 0.3))
    crops = Crops(
        photos, CropSettings(crop=crop, scale=(0.7, 1.0), degradations=mix), seed, length=passes * len(photos)
    )
    pooled, targets = [], []
    for batch in DataLoader(crops, batch_size=8, num_workers=1):
        for image in (batch["hr"], batch["lr"]):
            with torch.autocast("cpu", torch.bfloat16):
                probabilities = class_probabilities(pipe.segmenter, image, SEGMENTER_SIDE)
            pooled.append(pipe.sape.encode_mask(probabilities.float()).mean(dim=(2, 3)))
            targets.append(presence_targets(batch["classes"]))
    known = torch.cat(targets).sum(1) > 0
    return torch.cat(pooled)[known], torch.cat(targets)[known]


def fit_linear(inputs: torch.Tensor, targets: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Weights (K, C), bias (K,) of least cross-entropy to the target distributions, with a little weight decay; -> and that loss.

    Solved on standardised inputs, which L-BFGS needs, and folded back.
    """
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-8)
    standard = (inputs - mean) / deviation
    weight = torch.zeros(targets.shape[1], inputs.shape[1], requires_grad=True)
    bias = targets.mean(0).clamp(min=1e-6).log().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(standard @ weight.T + bias, targets) + decay * weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    folded = (weight / deviation).detach()
    shifted = (bias - folded @ mean).detach()
    return folded, shifted, float(cross_entropy(inputs @ folded.T + shifted, targets))
