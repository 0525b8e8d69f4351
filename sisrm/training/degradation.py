"""The degradation model: how a sharp photo becomes the small, damaged one that the network learns to undo.

Section 3.2 of the SISRM paper takes "Real-ESRGAN's degradation pipeline with SeeSR's settings". That is Real-ESRGAN's
second-order model (Wang et al., ICCV-W 2021, section 3): two rounds of blur, resize, noise and JPEG, and at the end
a sinc filter, which imitates ringing, and the resize to the low resolution, before or after the last JPEG.

`degrade` runs the whole model out of the steps in `degradation_steps`. It takes and gives uint8 HWC; inside, an image
is a plane-first float32 array (3, h, w) in [0, 1]. All randomness comes from the `numpy.random.Generator` that the
caller passes: same generator state and same settings, same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sisrm.errors import ParameterError
from sisrm.training.degradation_steps import (
    RESIZE_MODES,
    add_gaussian_noise,
    add_poisson_noise,
    blur,
    gaussian_kernel,
    generalized_kernel,
    jpeg,
    plateau_kernel,
    resize,
    sinc_kernel,
    to_bytes,
    to_planes,
)

KERNEL_KINDS = (
    "isotropic",
    "anisotropic",
    "generalized isotropic",
    "generalized anisotropic",
    "plateau isotropic",
    "plateau anisotropic",
)


@dataclass(frozen=True)
class RoundSettings:
    """One round of blur, resize, noise and JPEG. Probabilities are in [0, 1], ranges are (low, high), drawn uniformly.

    Attributes:
        blur_probability: odds that the round blurs at all.
        sinc_probability: odds that the blur is a sinc filter and not one of `KERNEL_KINDS`.
        kernel_weights: odds of each of `KERNEL_KINDS`.
        kernel_sizes: side lengths to choose from, odd, in pixels.
        sigma_range: standard deviation of the Gaussian kernels, in pixels of the image that the round receives.
        generalized_range, plateau_range: shape exponents; each side of 1 is drawn half the time.
        resize_weights: odds of (enlarge, shrink, keep).
        resize_range: smallest and largest factor; shrinking draws from (low, 1), enlarging from (1, high).
        noise_probability: odds that noise is added at all.
        gaussian_probability: odds that this noise is Gaussian and not Poisson.
        gaussian_range: standard deviation in 1/255.
        poisson_range: strength of the Poisson noise, 1 = the shot noise of 256 photons at white.
        grey_probability: odds that the noise is the same in all three channels.
        jpeg_probability: odds of a JPEG compression.
        jpeg_range: its quality, 1 to 95 (up to 100 is allowed), 4:2:0 chroma.
    """

    blur_probability: float = 1.0
    sinc_probability: float = 0.1
    kernel_weights: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sigma_range: tuple[float, float] = (0.2, 3.0)
    generalized_range: tuple[float, float] = (0.5, 4.0)
    plateau_range: tuple[float, float] = (1.0, 2.0)
    resize_weights: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: tuple[float, float] = (0.15, 1.5)
    noise_probability: float = 1.0
    gaussian_probability: float = 0.5
    gaussian_range: tuple[float, float] = (1.0, 30.0)
    poisson_range: tuple[float, float] = (0.05, 3.0)
    grey_probability: float = 0.4
    jpeg_probability: float = 1.0
    jpeg_range: tuple[float, float] = (30.0, 95.0)


@dataclass(frozen=True)
class DegradationSettings:
    """The whole model.

    Attributes:
        first: the round at the photo's own resolution; None leaves it out.
        last: the round whose resize goes to the low resolution (times its own factor).
        final_sinc_probability: odds of the last sinc filter, at the low resolution.
        final_sinc_range: its cutoff in radians per pixel.
        antialias: whether bilinear and bicubic shrinking average over the source pixels, as cameras and photo
            software do. Real-ESRGAN's do not, and their aliasing is part of what it teaches.
    """

    first: RoundSettings | None
    last: RoundSettings
    final_sinc_probability: float = 0.8
    final_sinc_range: tuple[float, float] = (np.pi / 3, np.pi)
    antialias: bool = False


# Values of cswry/SeeSR, utils_data/make_paired_data.py (they are Real-ESRGAN's for the x4 model).
_SEESR = DegradationSettings(
    first=RoundSettings(),
    last=RoundSettings(
        blur_probability=0.8,
        sigma_range=(0.2, 1.5),
        resize_weights=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        gaussian_range=(1.0, 25.0),
        poisson_range=(0.05, 2.5),
    ),
)
# A good small camera: soft lens, a sensor with little noise, sometimes a mild JPEG. One round only.
_LIGHT = DegradationSettings(
    first=None,
    last=RoundSettings(
        sinc_probability=0.0,
        kernel_weights=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
        kernel_sizes=(11,),
        sigma_range=(0.2, 1.6),
        resize_weights=(0.0, 0.0, 1.0),
        gaussian_probability=0.7,
        gaussian_range=(0.0, 4.0),
        poisson_range=(0.0, 0.35),
        jpeg_probability=0.5,
        jpeg_range=(70.0, 100.0),
    ),
    final_sinc_probability=0.0,
    antialias=True,
)
# A camera's own softness at full resolution: wide lens blur, hardly any noise, mostly no compression. Pairs taken with two focal
# lengths look like this; `light` is sharper and noisier.
_CAMERA = replace(
    _LIGHT,
    last=replace(
        _LIGHT.last,
        kernel_sizes=(15,),
        sigma_range=(0.8, 2.4),
        gaussian_range=(0.0, 2.0),
        poisson_range=(0.0, 0.1),
        jpeg_probability=0.25,
        jpeg_range=(80.0, 100.0),
    ),
)
# Old web pictures that were passed on many times: the upper half of SeeSR's ranges and a little more.
_HEAVY = replace(
    _SEESR,
    first=replace(
        _SEESR.first,
        sigma_range=(1.2, 4.0),
        resize_weights=(0.1, 0.85, 0.05),
        resize_range=(0.12, 1.3),
        gaussian_range=(12.0, 40.0),
        poisson_range=(1.0, 4.0),
        jpeg_range=(20.0, 60.0),
    ),
    last=replace(
        _SEESR.last,
        blur_probability=1.0,
        sigma_range=(0.6, 2.0),
        gaussian_range=(8.0, 30.0),
        poisson_range=(0.8, 3.0),
        jpeg_range=(20.0, 60.0),
    ),
)
DEGRADATIONS: dict[str, DegradationSettings] = {
    "light": _LIGHT,
    "camera": _CAMERA,
    "seesr": _SEESR,
    "heavy": _HEAVY,
}


def random_kernel(generator: np.random.Generator, settings: RoundSettings) -> np.ndarray:
    """Draw one blur kernel as `settings` describe."""
    size = int(generator.choice(settings.kernel_sizes))
    if generator.random() < settings.sinc_probability:
        # A short filter cannot cut low: its main lobe would not fit.
        return sinc_kernel(size, generator.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi))
    weights = np.asarray(settings.kernel_weights, dtype=float)
    kind = KERNEL_KINDS[generator.choice(len(KERNEL_KINDS), p=weights / weights.sum())]
    sigma_x = sigma_y = generator.uniform(*settings.sigma_range)
    angle = 0.0
    if "anisotropic" in kind:
        sigma_y, angle = generator.uniform(*settings.sigma_range), generator.uniform(-np.pi, np.pi)
    if "generalized" in kind:
        return generalized_kernel(
            size, sigma_x, sigma_y, angle, _random_exponent(generator, settings.generalized_range)
        )
    if "plateau" in kind:
        return plateau_kernel(size, sigma_x, sigma_y, angle, _random_exponent(generator, settings.plateau_range))
    return gaussian_kernel(size, sigma_x, sigma_y, angle)


def _random_exponent(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    low, high = limits
    return generator.uniform(low, 1.0) if generator.random() < 0.5 else generator.uniform(1.0, high)


def degrade(
    image: np.ndarray,
    generator: np.random.Generator,
    settings: DegradationSettings = DEGRADATIONS["seesr"],
    scale: int = 4,
) -> np.ndarray:
    """Make the low-resolution, damaged version of a sharp photo.

    Args:
        image: (H, W, 3) RGB, uint8 or float32 in [0, 1]; both sides divisible by `scale`.
        generator: the only source of randomness.
        settings: see `DEGRADATIONS`.
        scale: how many times smaller each side becomes.

    Returns:
        (H / scale, W / scale, 3) uint8.

    Raises:
        ParameterError: `image` has another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.float32):
        raise ParameterError("image", (image.shape, str(image.dtype)), "uint8 or float32 of shape (H, W, 3)")
    if image.shape[0] % scale or image.shape[1] % scale or 0 in image.shape:
        raise ParameterError("image", image.shape, f"sides divisible by {scale}")
    low_size = (image.shape[0] // scale, image.shape[1] // scale)
    planes = to_planes(image)
    if settings.first is not None:
        planes = _blur_resize_noise(planes, planes.shape[1:], generator, settings.first, settings.antialias)
        planes = _random_jpeg(planes, generator, settings.first)
    planes = _blur_resize_noise(planes, low_size, generator, settings.last, settings.antialias)
    if generator.random() < 0.5:
        planes = _finish(planes, low_size, generator, settings)
        planes = _random_jpeg(planes, generator, settings.last)
    else:
        planes = _random_jpeg(planes, generator, settings.last)
        planes = _finish(planes, low_size, generator, settings)
    return to_bytes(planes)


def _blur_resize_noise(
    image: np.ndarray, size: tuple[int, int], generator: np.random.Generator, settings: RoundSettings, antialias: bool
) -> np.ndarray:
    """Blur, resize to `size` times a random factor, add noise; clipped to [0, 1]."""
    if generator.random() < settings.blur_probability:
        image = blur(image, random_kernel(generator, settings))
    weights = np.asarray(settings.resize_weights, dtype=float)
    direction = generator.choice(3, p=weights / weights.sum())
    low, high = settings.resize_range
    factor = (generator.uniform(1.0, high), generator.uniform(low, 1.0), 1.0)[direction]
    target = (max(1, int(size[0] * factor)), max(1, int(size[1] * factor)))
    image = resize(image, target, RESIZE_MODES[generator.integers(3)], antialias)
    if generator.random() < settings.noise_probability:
        grey = bool(generator.random() < settings.grey_probability)
        if generator.random() < settings.gaussian_probability:
            image = add_gaussian_noise(image, generator.uniform(*settings.gaussian_range), generator, grey)
        else:
            image = add_poisson_noise(image, generator.uniform(*settings.poisson_range), generator, grey)
    return np.clip(image, 0.0, 1.0)


def _random_jpeg(image: np.ndarray, generator: np.random.Generator, settings: RoundSettings) -> np.ndarray:
    if generator.random() >= settings.jpeg_probability:
        return image
    return jpeg(image, int(round(generator.uniform(*settings.jpeg_range))))


def _finish(
    image: np.ndarray, size: tuple[int, int], generator: np.random.Generator, settings: DegradationSettings
) -> np.ndarray:
    """Resize to the low resolution, then ring: Real-ESRGAN keeps these two together, as apart they bend lines."""
    image = resize(image, size, RESIZE_MODES[generator.integers(3)], settings.antialias)
    if generator.random() < settings.final_sinc_probability:
        kernel_size = int(generator.choice(settings.last.kernel_sizes))
        image = blur(image, sinc_kernel(kernel_size, generator.uniform(*settings.final_sinc_range)))
    return image
