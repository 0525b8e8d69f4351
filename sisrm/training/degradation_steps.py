"""The steps of the degradation model, one by one: blur kernels, blur, resize, noise, JPEG.

Each is a plain function of its arguments (and of the `numpy.random.Generator` where it draws noise), so that its
statistics can be checked. Formulas are those of Real-ESRGAN (Wang et al., ICCV-W 2021), section 3. An image is a
plane-first float32 array (3, h, w) in [0, 1]; a kernel is (size, size) float32 with sum 1.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import fft
from scipy.special import j1

from sisrm.errors import ParameterError

RESIZE_MODES = ("area", "bilinear", "bicubic")
# Photons that a white pixel stands for in the Poisson noise. Real-ESRGAN counts the image's distinct levels and takes
# the next power of two, which is 256 for nearly every 8-bit photo.
PHOTONS = 256.0
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)[:, None, None]


def _mahalanobis(size: int, sigma_x: float, sigma_y: float | None, angle: float) -> np.ndarray:
    """Squared distance from the centre in units of a Gaussian turned by `angle` (radians), (size, size)."""
    sigma_y = sigma_x if sigma_y is None else sigma_y
    if size < 1 or size % 2 == 0:
        raise ParameterError("size", size, "a positive odd number of pixels")
    if min(sigma_x, sigma_y) <= 0:
        raise ParameterError("sigma", (sigma_x, sigma_y), "numbers above 0")
    axis = np.arange(size) - size // 2
    along = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    across = np.cos(angle) * axis[:, None] - np.sin(angle) * axis[None, :]
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _normalized(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)


def generalized_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, exponent: float = 1.0
) -> np.ndarray:
    """exp(-d^(2 exponent) / 2), d the distance in sigmas: peaked below exponent 1, Gaussian at 1, box-like above."""
    return _normalized(np.exp(-0.5 * _mahalanobis(size, sigma_x, sigma_y, angle) ** exponent))


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0) -> np.ndarray:
    """Gaussian of standard deviation `sigma_x` along `angle` (radians) and `sigma_y` (default: the same) across."""
    return generalized_kernel(size, sigma_x, sigma_y, angle, exponent=1.0)


def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, exponent: float = 1.0
) -> np.ndarray:
    """1 / (1 + d^(2 exponent)): a flat top and long tails, as an out-of-focus lens makes them."""
    return _normalized(1.0 / (1.0 + _mahalanobis(size, sigma_x, sigma_y, angle) ** exponent))


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Circular ideal low-pass cut at `cutoff` radians per pixel (0, pi], Real-ESRGAN eq 6: w J1(w r) / (2 pi r)."""
    if not 0 < cutoff <= np.pi:
        raise ParameterError("cutoff", cutoff, "radians per pixel above 0, at most pi")
    radius = np.sqrt(_mahalanobis(size, 1.0, 1.0, 0.0))
    radius[size // 2, size // 2] = 1.0
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalized(kernel)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve every plane with `kernel` (odd sides), mirrored at the borders, through the Fourier domain."""
    (height, width), radius = image.shape[1:], kernel.shape[0] // 2
    padded = np.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode="reflect")
    # The mirrored margin is as wide as the kernel's radius, so what wraps around falls outside the part we keep.
    shape = [fft.next_fast_len(side, real=True) for side in padded.shape[1:]]
    spectrum = fft.rfft2(padded, s=shape) * fft.rfft2(kernel, s=shape)
    start = 2 * radius
    return fft.irfft2(spectrum, s=shape)[:, start : start + height, start : start + width]


def resize(image: np.ndarray, size: tuple[int, int], mode: str, antialias: bool = False) -> np.ndarray:
    """Resize to `size` (height, width) by one of `RESIZE_MODES`; area is an average and takes no `antialias`."""
    if mode not in RESIZE_MODES:
        raise ParameterError("mode", mode, f"one of {', '.join(RESIZE_MODES)}")
    if image.shape[1:] == tuple(size):
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image))[None]
    if mode == "area":
        return F.interpolate(planes, size=size, mode="area")[0].numpy()
    return F.interpolate(planes, size=size, mode=mode, antialias=antialias, align_corners=False)[0].numpy()


def add_gaussian_noise(
    image: np.ndarray, sigma: float, generator: np.random.Generator, grey: bool = False
) -> np.ndarray:
    """Add normal noise of standard deviation `sigma` (in 1/255), one value for all channels if `grey`; not clipped."""
    shape = (1, *image.shape[1:]) if grey else image.shape
    return image + generator.standard_normal(shape, dtype=np.float32) * np.float32(sigma / 255.0)


def add_poisson_noise(
    image: np.ndarray, scale: float, generator: np.random.Generator, grey: bool = False
) -> np.ndarray:
    """Add `scale` times the shot noise of `PHOTONS` photons at white: variance scale^2 * value / PHOTONS; not clipped.

    With `grey` the noise of the luma goes to all channels.
    """
    signal = (image * LUMA).sum(axis=0, keepdims=True) if grey else image
    signal = np.clip(signal, 0.0, 1.0)
    noise = generator.poisson(signal * PHOTONS).astype(np.float32) / np.float32(PHOTONS) - signal
    return image + noise * np.float32(scale)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress as JPEG of `quality` 1 to 100 with 4:2:0 chroma and read it back."""
    if not 1 <= quality <= 100:
        raise ParameterError("quality", quality, "a whole number from 1 to 100")
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="JPEG", quality=int(quality), subsampling="4:2:0")
    return to_planes(np.asarray(Image.open(buffer)))


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3), uint8 or float32 in [0, 1] -> (3, h, w) float32 in [0, 1]."""
    scale = np.float32(1 / 255 if pixels.dtype == np.uint8 else 1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) * scale


def to_bytes(image: np.ndarray) -> np.ndarray:
    """(3, h, w) float32, clipped to [0, 1] and rounded -> (h, w, 3) uint8."""
    return np.ascontiguousarray((np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0))
