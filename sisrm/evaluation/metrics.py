"""Full-reference metrics on luma, the way the super-resolution field computes them.

Y is BT.601 in studio range, as MATLAB's rgb2ycbcr and the evaluation scripts of Real-ESRGAN and SeeSR compute it: white
is 235 and black is 16 of 255. PSNR and SSIM are computed on that Y without rounding and without cropping the border,
with 255 as the peak although Y spans only 219 of it. torchmetrics does the arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from sisrm.errors import ParameterError

PSNR_CEILING = 100.0
"""What PSNR reports for equal images, whose true value is infinite and would spoil every mean."""

_SSIM_BORDER = 5
_LUMA_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_LUMA_OFFSET = 16 / 255


def to_tensor(image: Image.Image) -> torch.Tensor:
    """PIL RGB image -> (1, 3, H, W) float64 in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].double() / 255


def luma(images: torch.Tensor) -> torch.Tensor:
    """RGB -> Y of ITU-R BT.601, studio range.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W) in [16/255, 235/255].
    """
    weights = images.new_tensor(_LUMA_WEIGHTS).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True) + _LUMA_OFFSET


def psnr_y(results: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio on Y, in dB.

    Args:
        results, references: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), at most PSNR_CEILING.

    Raises:
        ParameterError: the shapes differ.
    """
    _check(results, references)
    values = peak_signal_noise_ratio(
        luma(results), luma(references), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )  # fmt: skip
    return values.clamp(max=PSNR_CEILING)


def ssim_y(results: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Structural similarity on Y (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, whole windows only.

    Args:
        results, references: (B, 3, H, W) in [0, 1], at least 11 pixels per side.

    Returns:
        (B,), at most 1.

    Raises:
        ParameterError: the shapes differ.
    """
    _check(results, references)
    _, similarity = structural_similarity_index_measure(
        luma(results), luma(references), sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics also averages windows that reach over the border; the field leaves those out.
    inner = similarity[..., _SSIM_BORDER:-_SSIM_BORDER, _SSIM_BORDER:-_SSIM_BORDER]
    return inner.mean((1, 2, 3))


def gradient_energy(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute forward difference of Y, horizontal plus vertical: how much fine structure an image holds.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B,), 0 for a flat image.
    """
    y = luma(images)
    return y.diff(dim=3).abs().mean((1, 2, 3)) + y.diff(dim=2).abs().mean((1, 2, 3))


def relative_gradient_energy(results: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Gradient energy of the result divided by the reference's: below 1 is softer, above 1 is sharper or noisier.

    Args:
        results, references: (B, 3, H, W) in [0, 1].

    Returns:
        (B,); not a number where both images are flat.

    Raises:
        ParameterError: the shapes differ.
    """
    _check(results, references)
    return gradient_energy(results) / gradient_energy(references)


def _check(results: torch.Tensor, references: torch.Tensor) -> None:
    if results.shape != references.shape or results.ndim != 4 or results.shape[1] != 3:
        raise ParameterError(
            "results", tuple(results.shape), f"the references' shape, {tuple(references.shape)}, as B3HW"
        )
