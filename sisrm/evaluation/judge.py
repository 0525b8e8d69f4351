"""Every metric of results against one reference image."""

from __future__ import annotations

import torch
from PIL import Image

from sisrm.evaluation import metrics
from sisrm.evaluation.perceptual import PerceptualMetrics
from sisrm.evaluation.report import METRICS
from sisrm.evaluation.teacher import Teacher, class_agreement, feature_distance, teacher_input


class Judge:
    """Every metric of results against one reference; the reference's own teacher features are computed once.

    PSNR-Y, SSIM-Y and the gradient energy are always there.

    Args:
        reference: PIL RGB.
        teacher: adds the teacher metrics; None leaves them out.
        perceptual: adds the metrics that it has loaded; None leaves them out.
    """

    def __init__(
        self, reference: Image.Image, teacher: Teacher | None = None, perceptual: PerceptualMetrics | None = None
    ):
        self.reference = metrics.to_tensor(reference)
        self.teacher, self.perceptual = teacher, perceptual
        self.teacher_reference = None if teacher is None else self._features(self.reference)

    @torch.no_grad()
    def __call__(self, result: Image.Image) -> dict[str, float]:
        """Metrics of one result by the names of `report.METRICS`, in that order.

        Args:
            result: PIL RGB of the reference's size.
        """
        image = metrics.to_tensor(result)
        values = {
            "psnr_y": metrics.psnr_y(image, self.reference).item(),
            "ssim_y": metrics.ssim_y(image, self.reference).item(),
            "gradient_energy": metrics.relative_gradient_energy(image, self.reference).item(),
        }
        if self.perceptual is not None:
            values |= self.perceptual(image, self.reference)
        if self.teacher is not None:
            logits, features = self._features(image)
            values["teacher_distance"] = feature_distance(features, self.teacher_reference[1]).item()
            values["teacher_agreement"] = class_agreement(logits, self.teacher_reference[0]).item()
        return {name: values[name] for name in METRICS if name in values}

    @torch.no_grad()
    def _features(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.teacher(teacher_input(image.float()))
