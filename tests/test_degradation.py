"""The degradation model: known statistics of every step, and the whole model's shape, seeds and strength."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sisrm.errors import ParameterError
from sisrm.training.degradation import DEGRADATIONS, KERNEL_KINDS, RoundSettings, degrade, random_kernel
from sisrm.training.degradation_steps import (
    PHOTONS,
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


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo(seed: int = 0, side: int = 128) -> np.ndarray:
    """A picture with flat areas, edges and fine texture, (side, side, 3) uint8: coloured discs over soft noise."""
    generator = rng(seed)
    rows, columns = np.mgrid[:side, :side]
    image = ndimage.gaussian_filter(generator.random((side, side, 3)), (1, 1, 0)) * 0.6 + 0.2
    for _ in range(12):
        row, column, radius = generator.uniform(0, side, 3) * (1, 1, 0.2)
        image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = generator.random(3)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def moments(kernel: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) of a kernel read as a density over (x, y)."""
    axis = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    x, y = np.meshgrid(axis, axis)
    weights = kernel.astype(np.float64)
    return np.array(
        [[(weights * x * x).sum(), (weights * x * y).sum()], [(weights * x * y).sum(), (weights * y * y).sum()]]
    )


@pytest.mark.parametrize("kind", range(len(KERNEL_KINDS)))
def test_every_kind_of_random_kernel_is_centred_and_keeps_brightness(kind):
    settings = RoundSettings(sinc_probability=0.0, kernel_weights=tuple(float(i == kind) for i in range(6)))
    for seed in range(8):
        kernel = random_kernel(rng(seed), settings)
        assert kernel.shape[0] in settings.kernel_sizes
        assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
        assert kernel.min() >= 0
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
        turned = np.abs(kernel - np.rot90(kernel)).max()
        assert (turned > 1e-6) == ("anisotropic" in KERNEL_KINDS[kind])


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_gaussian_kernel_has_the_sigma_that_was_asked_for(sigma):
    covariance = moments(gaussian_kernel(41, sigma))
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), sigma, rtol=0.01)
    assert covariance[0, 1] == pytest.approx(0.0, abs=1e-4)


def test_anisotropic_kernel_has_both_sigmas_and_the_angle():
    angle = np.pi / 6
    values, vectors = np.linalg.eigh(moments(gaussian_kernel(41, 3.0, 1.2, angle)))
    np.testing.assert_allclose(np.sqrt(values), [1.2, 3.0], rtol=0.01)
    assert abs(vectors[:, 1] @ [np.cos(angle), np.sin(angle)]) == pytest.approx(1.0, abs=1e-3)


def test_exponents_shape_the_kernels():
    np.testing.assert_array_equal(generalized_kernel(21, 2.0, exponent=1.0), gaussian_kernel(21, 2.0))
    peaked, boxed = (generalized_kernel(21, 3.0, exponent=exponent) for exponent in (0.5, 4.0))
    assert peaked[10, 12] / peaked[10, 10] == pytest.approx(np.exp(-0.5 * 2 / 3), rel=1e-4)
    assert boxed[10, 12] / boxed[10, 10] == pytest.approx(np.exp(-0.5 * (2 / 3) ** 8), rel=1e-4)
    plateau = plateau_kernel(21, 3.0, exponent=2.0)
    assert plateau[10, 13] / plateau[10, 10] == pytest.approx(0.5, rel=1e-4)  # one sigma out: 1 / (1 + 1)
    assert plateau[10, 19] > gaussian_kernel(21, 3.0)[10, 19]  # long tails


def test_sinc_kernel_passes_below_its_cutoff_and_stops_above():
    cutoff = np.pi / 2
    kernel = sinc_kernel(21, cutoff)
    response = np.abs(np.fft.rfft2(kernel, s=(256, 256)))[0]
    frequency = np.linspace(0, np.pi, len(response))
    assert response[frequency < 0.75 * cutoff].min() > 0.85
    assert response[frequency > 1.25 * cutoff].max() < 0.15
    assert kernel.min() < 0  # the negative lobes are what makes the ringing
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)


def test_blur_is_a_mirrored_convolution():
    image = to_planes(photo())[:, :40, :57]
    kernel = rng().random((9, 9)).astype(np.float32)  # asymmetric, so that a correlation would differ
    kernel /= kernel.sum()
    expected = np.stack([ndimage.convolve(plane, kernel, mode="mirror") for plane in image])
    np.testing.assert_allclose(blur(image, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("antialias", [False, True])
def test_resize_keeps_a_slope_in_place(mode, antialias):
    slope = np.broadcast_to((np.arange(64, dtype=np.float32) + 0.5) / 64, (3, 64, 64))
    for side in (32, 80):
        result = resize(slope, (48, side), mode, antialias)
        assert result.shape == (3, 48, side)
        expected = (np.arange(side) + 0.5) / side
        error = np.abs(result[:, :, 5:-5] - expected[5:-5]).max()
        # Enlarging by area repeats pixels, so it may be half a source pixel off; nothing may be shifted.
        assert error < (1.0 if mode == "area" and side > 64 else 0.1) / 64


def test_antialias_removes_what_the_small_image_cannot_hold():
    stripes = np.broadcast_to((np.arange(64) % 2).astype(np.float32), (3, 64, 64))
    for mode in ("bilinear", "bicubic"):
        assert resize(stripes, (21, 21), mode, antialias=True).std() < 0.5 * resize(stripes, (21, 21), mode).std()


@pytest.mark.parametrize("sigma", [4.0, 25.0])
def test_gaussian_noise_has_its_standard_deviation(sigma):
    image = np.full((3, 128, 128), 0.5, np.float32)
    noise = add_gaussian_noise(image, sigma, rng()) - image
    assert noise.std() * 255 == pytest.approx(sigma, rel=0.02)
    assert abs(noise.mean()) * 255 < 0.05 * sigma
    assert abs(np.corrcoef(noise.reshape(3, -1))[0, 1]) < 0.05


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_poisson_noise_variance_is_proportional_to_the_mean(scale):
    levels = np.array([0.1, 0.2, 0.4, 0.8], np.float32)
    image = np.broadcast_to(levels[None, :, None], (3, 4, 20000))
    noise = add_poisson_noise(image, scale, rng()) - image
    np.testing.assert_allclose(noise.var(axis=(0, 2)), scale**2 * levels / PHOTONS, rtol=0.04)
    np.testing.assert_allclose(noise.mean(axis=(0, 2)), 0.0, atol=0.002)


@pytest.mark.parametrize("add", [add_gaussian_noise, add_poisson_noise])
def test_grey_noise_is_equal_in_the_three_channels(add):
    image = to_planes(photo())
    noise = add(image, 1.5, rng(), grey=True) - image
    assert noise.std() > 0.004
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)
    np.testing.assert_allclose(noise[0], noise[2], atol=1e-6)
    coloured = add(image, 1.5, rng()) - image
    assert np.abs(coloured[0] - coloured[1]).mean() > 0.003


def test_jpeg_loses_more_and_leaves_less_to_store_at_lower_quality():
    image = to_planes(photo())
    qualities = (10, 30, 60, 80, 95)
    errors = [np.mean((jpeg(image, quality) - image) ** 2) for quality in qualities]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 3
    sizes = []
    for quality in qualities:
        buffer = io.BytesIO()
        Image.fromarray(to_bytes(jpeg(image, quality))).save(buffer, format="PNG")
        sizes.append(buffer.tell())
    assert sizes[0] < sizes[1] < sizes[-1]


def test_bytes_and_planes_are_inverse():
    pixels = photo()
    np.testing.assert_array_equal(to_bytes(to_planes(pixels)), pixels)
    np.testing.assert_array_equal(to_bytes(np.full((3, 2, 2), 1.7, np.float32)), 255)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_same_seed_same_bytes_and_other_seed_other_bytes(name):
    image = photo(side=96)[:, :80]
    results = [degrade(image, rng(seed), DEGRADATIONS[name]) for seed in (7, 7, 8)]
    assert results[0].shape == (24, 20, 3) and results[0].dtype == np.uint8
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_float_and_byte_photos_give_the_same_result():
    image = photo()
    as_float = image.astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(degrade(image, rng()), degrade(as_float, rng()))


def test_default_is_seesr_and_other_scales_work():
    image = photo()
    np.testing.assert_array_equal(degrade(image, rng()), degrade(image, rng(), DEGRADATIONS["seesr"]))
    assert degrade(image, rng(), scale=2).shape == (64, 64, 3)
    assert degrade(image[:16, :16], rng()).shape == (4, 4, 3)


def test_settings_are_ordered_by_damage_and_keep_the_brightness():
    loss, shift = {}, {}
    for name, settings in DEGRADATIONS.items():
        errors, means = [], []
        for seed in range(40):
            image = photo(seed % 8)
            result = Image.fromarray(degrade(image, rng(seed), settings)).resize((128, 128), Image.Resampling.BICUBIC)
            difference = np.asarray(result, np.float32) - image
            errors.append(-10 * np.log10(np.mean(difference**2) / 255**2))
            means.append(difference.mean())
        loss[name], shift[name] = np.mean(errors), abs(np.mean(means))
    assert loss["light"] > loss["seesr"] + 1.0 > loss["heavy"] + 1.0
    assert max(shift.values()) < 3.0


def test_probabilities_of_zero_leave_only_the_resize():
    quiet = RoundSettings(blur_probability=0, resize_weights=(0, 0, 1), noise_probability=0, jpeg_probability=0)
    settings = replace(DEGRADATIONS["light"], last=quiet)
    image = np.kron(rng().integers(0, 256, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    wanted = {Image.Resampling.BOX: 0, Image.Resampling.BILINEAR: 0, Image.Resampling.BICUBIC: 0}
    for seed in range(30):
        result = degrade(image, rng(seed), settings).astype(int)
        for method in wanted:
            other = np.asarray(Image.fromarray(image).resize((16, 16), method)).astype(int)
            wanted[method] += np.abs(result - other).max() <= 1
    assert sum(wanted.values()) == 30 and min(wanted.values()) >= 4  # each of the three filters is drawn


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((62, 64, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float64", "not divisible"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ParameterError, match="image"):
        degrade(image, rng())


def test_impossible_steps_are_refused():
    with pytest.raises(ParameterError, match="size"):
        gaussian_kernel(8, 1.0)
    with pytest.raises(ParameterError, match="sigma"):
        gaussian_kernel(9, 1.0, 0.0)
    with pytest.raises(ParameterError, match="cutoff"):
        sinc_kernel(9, 4.0)
    with pytest.raises(ParameterError, match="quality"):
        jpeg(to_planes(photo()), 0)
    with pytest.raises(ParameterError, match="mode"):
        resize(to_planes(photo()), (8, 8), "nearest")
