"""Stage 3, `labels` and `sape`: what SAPE says about an image, and then saying the same about its degraded version (s2.2, fig 4).

`labels`: mask encoder and label generator learn which classes are present. `sape`: eq 6,
L_SAPE = L_r(f_y^mask, f_x^mask) + lambda L_l(f_y^logits, f_x^logits), a frozen extractor on I_HR (x) teaching the same extractor with LoRA
(r = 8) on I_LR (y); L_r is the mean squared error, L_l the cross-entropy.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sisrm.pipeline import SISRMPipeline
from sisrm.sape import segmenter_input
from sisrm.semantics import SEGMENTER_SIDE
from sisrm.training.conditions import presence_targets
from sisrm.training.data import CropSettings
from sisrm.training.loop import Stage

LORA_RANK = 8  # s3.2
SEGMENTER_LAYERS = r".*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2|linear_fuse|classifier)|decode_head\..*\.proj"
SAPE_LAYERS = r"mask_encoder\.[02]|label_generator"
DEGRADATION_MIX = (("camera", 0.4), ("light", 0.2), ("seesr", 0.3), ("heavy", 0.1))


def class_probabilities(segmenter: nn.Module, image: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] -> SegFormer's class probabilities (B, 150, h, w)."""
    return segmenter(segmenter_input(image, side)).logits.float().softmax(1)


def cross_entropy(logits: torch.Tensor, distribution: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against a distribution over classes; mean over the batch."""
    return -(distribution * logits.log_softmax(-1)).sum(-1).mean()


def scale_free_error(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L_r: the mean squared error of each sample over the variance of what was wanted of it; mean over the batch."""
    errors = (given - wanted).square().flatten(1).mean(1)
    return (errors / wanted.flatten(1).var(1).clamp(min=1e-6)).mean()


class LabelsStage(Stage):
    """Mask encoder and label generator, from labelled photos; the segmenter is frozen. Half of the batches are read degraded."""

    name = "labels"

    def __init__(self, pipe: SISRMPipeline, crop: int = 384, side: int = SEGMENTER_SIDE):
        super().__init__()
        self.segmenter = pipe.segmenter.requires_grad_(False).eval()
        self.sape, self.crop, self.side = pipe.sape.requires_grad_(True).train(), crop, side

    def crops(self) -> CropSettings:
        return CropSettings(crop=self.crop, scale=(0.7, 1.0), degradations=(("light", 1.0),))

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        image = batch["lr"] if torch.rand((), generator=generator) < 0.5 else batch["hr"]
        with torch.no_grad():
            probabilities = class_probabilities(self.segmenter, image, self.side)
        _, logits = self.sape(probabilities)
        targets = presence_targets(batch["classes"])
        best = logits.argmax(1, keepdim=True)
        return cross_entropy(logits.float(), targets), {
            "first_right": float((targets.gather(1, best) > 0).float().mean())
        }

    def save(self, folder: Path) -> None:
        self.sape.save_pretrained(folder / "sape")


class SapeStage(Stage):
    """Eq 6. Args: balance: lambda; rank: of LoRA on SegFormer's attention and decode head, on mask encoder and label generator;
    scale, degradations: of the crops, see `CropSettings`."""

    name = "sape"

    def __init__(
        self,
        pipe: SISRMPipeline,
        crop: int = 384,
        side: int = SEGMENTER_SIDE,
        balance: float = 0.1,
        rank: int = LORA_RANK,
        scale: tuple[float, float] = (0.7, 1.0),
        degradations: tuple[tuple[str, float], ...] = DEGRADATION_MIX,
    ):
        super().__init__()
        self.teacher_segmenter = copy.deepcopy(pipe.segmenter).requires_grad_(False).eval()
        self.teacher_sape = copy.deepcopy(pipe.sape).requires_grad_(False).eval()
        self.segmenter = with_lora(pipe.segmenter, SEGMENTER_LAYERS, rank)
        self.sape = with_lora(pipe.sape, SAPE_LAYERS, rank)
        self.crop, self.side, self.balance = crop, side, balance
        self.scale, self.degradations = scale, degradations

    def crops(self) -> CropSettings:
        return CropSettings(crop=self.crop, scale=self.scale, degradations=self.degradations)

    def checkpoint_gradients(self) -> None:
        segmenter = self.segmenter.get_base_model()
        segmenter.gradient_checkpointing_enable({"use_reentrant": False})
        # transformers asks each layer whether it is being trained; what is inside, which has dropout, stays as it is
        for layer in segmenter.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad():
            wanted_probabilities = class_probabilities(self.teacher_segmenter, batch["hr"], self.side)
            wanted_mask, wanted_logits = self.teacher_sape(wanted_probabilities)
        probabilities = class_probabilities(self.segmenter, batch["lr"], self.side)
        mask, logits = self.sape(probabilities)
        likeness = scale_free_error(mask.float(), wanted_mask.float())
        agreement = cross_entropy(logits.float(), wanted_logits.float().softmax(-1))
        same = (probabilities.argmax(1) == wanted_probabilities.argmax(1)).float().mean()
        return likeness + self.balance * agreement, {"mask": float(likeness.detach()), "same_class": float(same)}

    def save(self, folder: Path) -> None:
        """LoRA merged: what is published is a plain SegFormer and a plain SAPE."""
        for name, module in (("segmenter", self.segmenter), ("sape", self.sape)):
            copy.deepcopy(module).merge_and_unload().save_pretrained(folder / name)


def with_lora(module: nn.Module, targets: str, rank: int) -> nn.Module:
    """The module with LoRA on every layer whose name matches `targets`; all else frozen."""
    return get_peft_model(module, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
