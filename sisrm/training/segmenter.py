"""Stage 2, `segmenter`: SegFormer on labelled photos, optionally taught by a pretrained network.

Hard labels alone, from a random start, are the slow road. With a teacher the loss also asks for its soft labels (Hinton et al.) and for
its features, each of SegFormer's four stages seen through a linear map (FitNets). The student sees crops of the photo, smaller, softer,
compressed and in other light than the teacher does: at inference it gets small damaged images. In half of the batches a part of each crop
is another crop's (CutMix, Yun et al. 2019), the answers with it: photos are few, and what a region is must not rest on one photo's rest.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SegformerForSemanticSegmentation

from sisrm.sape import IMAGE_MEAN, IMAGE_STD
from sisrm.training.data import UNSURE, CropSettings
from sisrm.training.loop import Stage
from sisrm.training.teacher_answers import TEACHER_FEATURES, TeacherAnswers


class SegmenterStage(Stage):
    """Args: teacher may be None (hard labels only); `crop` in pixels of the segmenter's input: photos of 512 are read at 200 to 400."""

    name = "segmenter"

    def __init__(
        self, segmenter: SegformerForSemanticSegmentation, teacher: TeacherAnswers | None = None, crop: int = 128
    ):
        super().__init__()
        self.segmenter, self.teacher, self.crop = segmenter.requires_grad_(True).train(), teacher, crop
        widths = segmenter.config.hidden_sizes
        self.to_teacher = nn.ModuleList(
            nn.Conv2d(width, channels, 1) for width, (_, channels) in zip(widths, TEACHER_FEATURES if teacher else ())
        )

    def crops(self) -> CropSettings:
        # the pipeline reads photos of 512 at 256: around that, from the whole photo to a third of its side
        return CropSettings(crop=self.crop, scale=(0.25, 0.75), compression=0.3)

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        image, classes = batch["hr"], batch["classes"]
        paste = random_rectangles(len(image), self.crop // 32, generator) if coin(generator) else None
        image = mix(image, paste)
        output = self.segmenter(self.student_view(image, generator), output_hidden_states=True)
        logits = output.logits.float()
        size = logits.shape[-2:]
        targets = mix(F.interpolate(classes[:, None].float(), size=size, mode="nearest-exact"), paste)[:, 0].long()
        hard = F.cross_entropy(logits, targets, ignore_index=UNSURE)
        known = targets != UNSURE
        figures = {
            "hard": float(hard.detach()),
            "agreement": float((logits.argmax(1) == targets)[known].float().mean()),
        }
        loss = hard
        if self.teacher is not None:
            sizes = [size, *(hidden.shape[-2:] for hidden in output.hidden_states)]
            answers = self.teacher.crops(batch["photo"], batch["view"], sizes)
            wanted, *features = (mix(answer, paste) for answer in answers)
            soft = -(wanted * logits.log_softmax(1)).sum(1).mean()
            alike = sum(
                1 - F.cosine_similarity(project(hidden), feature, dim=1).mean()
                for project, hidden, feature in zip(self.to_teacher, output.hidden_states, features)
            )
            loss = 0.5 * hard + soft + 0.5 * alike
            figures |= {"soft": float(soft.detach()), "features": float(alike.detach())}
        return loss, figures

    def student_view(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Normalised; brightness, contrast and gamma varied per photo; half of the batches pass through a smaller size."""
        count = len(image)
        brightness, contrast, gamma = (
            (torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low).to(image)
            for low, high in ((-0.1, 0.1), (0.7, 1.3), (0.75, 1.33))
        )
        view = ((image.clamp(0, 1) ** gamma - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
        if coin(generator):
            side = int(self.crop / (1 + 2 * torch.rand((), generator=generator)))
            small = F.interpolate(view, size=(side, side), mode="bilinear", antialias=True)
            small = small + 0.03 * torch.rand((), generator=generator) * torch.randn(
                small.shape, generator=generator
            ).to(small)
            view = F.interpolate(small, size=image.shape[-2:], mode="bicubic").clamp(0, 1)
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        return (view - mean) / std

    def save(self, folder: Path) -> None:
        self.segmenter.save_pretrained(folder / "segmenter")


def coin(generator: torch.Generator) -> bool:
    """True half of the time."""
    return float(torch.rand((), generator=generator)) < 0.5


def random_rectangles(count: int, cells: int, generator: torch.Generator) -> torch.Tensor:
    """Masks (count, 1, cells, cells), 1 in a random rectangle of a quarter to all but a quarter of each side.

    A cell is one token of SegFormer's coarsest stage, so that every feature map is cut along its own tokens.
    """
    masks = torch.zeros(count, 1, cells, cells)
    least, most = max(1, cells // 4), max(1, cells - cells // 4)
    for mask in masks:
        height, width = torch.randint(least, most + 1, (2,), generator=generator).tolist()
        top = int(torch.randint(cells - height + 1, (), generator=generator))
        left = int(torch.randint(cells - width + 1, (), generator=generator))
        mask[:, top : top + height, left : left + width] = 1
    return masks


def mix(x: torch.Tensor, paste: torch.Tensor | None) -> torch.Tensor:
    """(B, C, h, w) with the cells of `paste` taken from the batch's previous entry; None: as it is."""
    if paste is None:
        return x
    return torch.where(
        F.interpolate(paste.to(x.device), size=x.shape[-2:], mode="nearest-exact") > 0.5, x.roll(1, 0), x
    )
