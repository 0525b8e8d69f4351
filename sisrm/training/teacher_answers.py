"""What the teacher says about whole photos, kept, so that a student's crops cost the student's work alone.

The teacher reads each photo once, whole and sharp: it sees more than the student's crop shows, and its answers are those that a crop at
reduced size would only blur. Crops of the answers follow the crops of the photos.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from sisrm.evaluation.teacher import Teacher, teacher_input
from sisrm.training.data import Photos, to_tensor

# Which of the teacher's 18 feature maps are kept: (index, channels), one for each of SegFormer's four stages, by stride and depth.
TEACHER_FEATURES = ((3, 24), (6, 32), (13, 96), (17, 320))
_STRIDES = (8, 8, 8, 16, 16)  # of class probabilities and features, as kept


class TeacherAnswers:
    """Class probabilities and features of photos, by photo.

    Args:
        keep: answers are kept for so many photos, about 2.5 MB for one of 512 x 512; those of further photos are made anew each time.
    """

    def __init__(self, teacher: Teacher, photos: Photos, keep: int = 4000):
        self.teacher, self.photos, self.keep = teacher, photos, keep
        self._kept: dict[int, list[torch.Tensor]] = {}

    @torch.no_grad()
    def of(self, photo: int) -> list[torch.Tensor]:
        """[class probabilities (150, h / 8, w / 8), four feature maps (C, h / s, w / s)] of one photo, bfloat16 on the CPU."""
        if photo in self._kept:
            return self._kept[photo]
        image = to_tensor(np.asarray(self.photos.read(photo)[1]))[None]
        device = next(self.teacher.parameters()).device
        logits, features = self.teacher(teacher_input(image.to(device)))
        # class 0 of the teacher is "not sure", which the student does not have
        maps = [logits.float()[:, 1:].softmax(1), *(features[index].float() for index, _ in TEACHER_FEATURES)]
        answers = [
            F.adaptive_avg_pool2d(entry, [max(1, round(side / stride)) for side in image.shape[-2:]])[0]
            .bfloat16()
            .cpu()
            for entry, stride in zip(maps, _STRIDES)
        ]
        if len(self._kept) < self.keep:
            self._kept[photo] = answers
        return answers

    def crops(self, photos: torch.Tensor, views: torch.Tensor, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        """The answers for a batch of crops.

        Args:
            photos: (B,) and views: (B, 4), as in samples of `Crops`.
            sizes: (h, w) wanted of the probabilities and of each of the four feature maps.
        Returns: five float32 tensors (B, C, h, w), on the device of `views`.
        """
        batch = [
            [cut(entry, view, size) for entry, size in zip(self.of(photo), sizes)]
            for photo, view in zip(photos.tolist(), views.tolist())
        ]
        return [torch.cat(entries).to(views.device) for entries in zip(*batch)]


def cut(answer: torch.Tensor, view: list[float], size: tuple[int, int]) -> torch.Tensor:
    """The part of (C, h, w) that `view` shows, to the nearest cell, resized: (1, C, *size), float32."""
    left, top, right, bottom = view
    mirrored = left > right
    (left, right), (height, width) = sorted((left, right)), answer.shape[-2:]
    rows, columns = cells(top, bottom, height), cells(left, right, width)
    part = F.interpolate(answer[None, :, rows, columns].float(), size=size, mode="bilinear", antialias=True)
    return part.flip(3) if mirrored else part


def cells(start: float, end: float, count: int) -> slice:
    """The cells, out of `count`, between two shares of a side; at least one."""
    first = min(round(start * count), count - 1)
    return slice(first, max(first + 1, round(end * count)))
