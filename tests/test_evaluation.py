"""Evaluation: metrics and the teacher against hand-computed values and scikit-image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sisrm.errors import ParameterError, WeightsError
from sisrm.evaluation import metrics
from sisrm.evaluation.judge import Judge
from sisrm.evaluation.teacher import Teacher, class_agreement, feature_distance, load_teacher, teacher_input


def textured(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (4 + seed)), np.cos(y / 5), np.sin((x + y) / 7)], -1) * 70 + 128
    return Image.fromarray((waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))


# Metrics


def test_luma_of_known_colours():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]], dtype=torch.float64)
    y = metrics.luma(colours.view(5, 3, 1, 1)).flatten() * 255
    expected = torch.tensor([16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966], dtype=torch.float64)
    assert torch.allclose(y, expected, atol=1e-9)


def test_luma_equals_scikit_image():
    image = textured(3)
    assert np.allclose(
        metrics.luma(metrics.to_tensor(image))[0, 0] * 255, rgb2ycbcr(np.asarray(image))[..., 0], atol=1e-9
    )


def test_psnr_by_hand():
    # Grey 100 against grey 110 differs by 10 * 219 / 255 on Y.
    a = metrics.to_tensor(Image.new("RGB", (20, 20), (100, 100, 100)))
    b = metrics.to_tensor(Image.new("RGB", (20, 20), (110, 110, 110)))
    expected = 20 * math.log10(255 / (10 * 219 / 255))
    assert metrics.psnr_y(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert metrics.psnr_y(a, a).item() == metrics.PSNR_CEILING


def test_ssim_by_hand():
    # Flat images have no contrast: what is left of the formula is the comparison of means.
    a, b = (metrics.to_tensor(Image.new("RGB", (20, 20), (grey,) * 3)) for grey in (100, 110))
    y_a, y_b = ((16 + grey * 219 / 255) / 255 for grey in (100, 110))
    expected = (2 * y_a * y_b + 0.01**2) / (y_a**2 + y_b**2 + 0.01**2)
    assert expected < 0.9981 and metrics.ssim_y(a, b).item() == pytest.approx(expected, abs=1e-9)


def test_gradient_energy_by_hand():
    # Columns alternate between black and white: every horizontal step is 219 / 255, every vertical one 0.
    stripes = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    stripes[..., ::2] = 1
    assert metrics.gradient_energy(stripes).item() == pytest.approx(219 / 255)
    assert metrics.relative_gradient_energy(stripes * 0.5, stripes).item() == pytest.approx(0.5)
    assert metrics.gradient_energy(torch.full((1, 3, 4, 6), 0.3)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_psnr_and_ssim_equal_scikit_image(seed):
    reference = textured(seed)
    result = reference.resize((16, 12)).resize(reference.size, Image.Resampling.BICUBIC)
    a, b = metrics.to_tensor(result), metrics.to_tensor(reference)
    y_a, y_b = metrics.luma(a)[0, 0].numpy(), metrics.luma(b)[0, 0].numpy()
    assert metrics.psnr_y(a, b).item() == pytest.approx(peak_signal_noise_ratio(y_b, y_a, data_range=1), abs=1e-4)
    ssim = structural_similarity(y_b, y_a, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert 0.05 < ssim < 0.999
    assert metrics.ssim_y(a, b).item() == pytest.approx(ssim, abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr_y, metrics.ssim_y, metrics.relative_gradient_energy])
def test_metrics_of_a_batch_are_those_of_its_images(metric):
    a = torch.cat([metrics.to_tensor(textured(seed)) for seed in (0, 1)])
    b = torch.cat([metrics.to_tensor(textured(seed)) for seed in (2, 3)])
    singles = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert torch.allclose(metric(a, b), singles) and singles[0] != singles[1]
    with pytest.raises(ParameterError, match="shape"):
        metric(a, b[..., :-1])


def test_a_judge_measures_what_is_always_there():
    reference, result = textured(0), textured(1)
    values = Judge(reference)(result)
    a, b = metrics.to_tensor(result), metrics.to_tensor(reference)
    assert values == {
        "psnr_y": metrics.psnr_y(a, b).item(),
        "ssim_y": metrics.ssim_y(a, b).item(),
        "gradient_energy": metrics.relative_gradient_energy(a, b).item(),
    }


# Teacher


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """Random weights of the real architecture, half precision as they are published."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file({name: weight.half().contiguous() for name, weight in Teacher().state_dict().items()}, path)
    return path


@torch.no_grad()
def test_teacher_shapes_and_sizes(teacher_file):
    teacher = load_teacher(teacher_file.parent)
    assert sum(weight.numel() for weight in teacher.parameters()) == 2_286_855
    assert not any(weight.requires_grad for weight in teacher.parameters())
    inputs = teacher_input(torch.rand(1, 3, 128, 66))
    assert inputs.shape == (1, 3, 129, 65) and inputs.min() >= -1 and inputs.max() <= 1
    assert teacher_input(torch.rand(1, 3, 512, 512)).shape == (1, 3, 513, 513)
    logits, features = teacher(inputs)
    assert logits.shape == (1, 151, 33, 17)
    assert len(features) == 18 and features[0].shape == (1, 32, 65, 33) and features[-1].shape == (1, 320, 17, 9)


def test_feature_distance_by_hand():
    a = [torch.tensor([[3.0, 0.0]]).view(1, 2, 1, 1), torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)]
    b = [torch.tensor([[0.0, 5.0]]).view(1, 2, 1, 1), torch.tensor([[-2.0, 0.0]]).view(1, 2, 1, 1)]
    # Unit vectors at a right angle differ by 2, opposite ones by 4; length does not matter.
    assert feature_distance(a, b).item() == pytest.approx((2 + 4) / 2)
    assert feature_distance(a, [9 * a[0], 2 * a[1]]).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ParameterError):
        feature_distance(a, b[:1])


def test_feature_distance_averages_pixels():
    a, b = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    a[0, 0], b[0, 0, 0, 0], b[0, 1, 0, 1] = 1, 1, 1  # equal in the first pixel, at a right angle in the second
    assert feature_distance([a], [b]).item() == pytest.approx(1.0)


def test_class_agreement_leaves_out_not_sure():
    result, reference = torch.zeros(1, 151, 1, 4), torch.zeros(1, 151, 1, 4)
    result[0, 7], reference[0, 7] = 1, 1
    reference[0, 9, 0, 0] = 5
    result[0, 0] = 100  # "not sure" wins everywhere and is not counted
    assert class_agreement(result, reference).item() == pytest.approx(0.75)


def test_feature_distance_trains(teacher_file):
    teacher = load_teacher(teacher_file)
    image = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = teacher(teacher_input(torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(1))))[1]
    feature_distance(teacher(teacher_input(image))[1], target).sum().backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().max() > 0


def test_missing_or_wrong_teacher_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"teacher\.safetensors"):
        load_teacher(tmp_path)
    (tmp_path / "teacher.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not a readable"):
        load_teacher(tmp_path)
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "teacher.safetensors")
    with pytest.raises(WeightsError, match="not the weights"):
        load_teacher(tmp_path)
