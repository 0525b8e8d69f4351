"""Colour correction: exact identity at strength 0, the reference's colours at strength 1, detail untouched."""

import pytest
import torch

from sisrm.color import adain_fix, wavelet_fix
from sisrm.errors import ParameterError

FIXES = [wavelet_fix, adain_fix]


def images(seed: int = 0, size: int = 96, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A result with fine texture and a smooth reference of other colours, both well inside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.3, 0.6, size).expand(batch, 3, size, size)
    texture = 0.05 * torch.rand(batch, 3, size, size, generator=generator)
    tint = torch.tensor([0.05, -0.05, 0.1]).view(1, 3, 1, 1)
    return ramp + texture, ramp.transpose(2, 3) + tint


@pytest.mark.parametrize("fix", FIXES)
def test_strength_zero_is_the_identity(fix):
    result, reference = images()
    assert torch.equal(fix(result, reference, 0.0), result)


@pytest.mark.parametrize("fix", FIXES)
def test_an_image_corrected_by_itself_stays(fix):
    result, _ = images()
    assert torch.allclose(fix(result, result, 1.0), result, atol=1e-6)


@pytest.mark.parametrize("fix", FIXES)
def test_full_strength_takes_the_mean_colour_of_the_reference(fix):
    result, reference = images()
    fixed = fix(result, reference, 1.0)
    assert (result.mean((2, 3)) - reference.mean((2, 3))).abs().max() > 0.04
    assert torch.allclose(fixed.mean((2, 3)), reference.mean((2, 3)), atol=2e-3)


@pytest.mark.parametrize("fix", FIXES)
def test_half_strength_lies_half_way(fix):
    result, reference = images()
    expected = (result + fix(result, reference, 1.0)) / 2
    assert torch.allclose(fix(result, reference, 0.5), expected, atol=1e-6)


@pytest.mark.parametrize("fix", FIXES)
def test_batch_equals_single_images(fix):
    result, reference = images()
    singles = torch.cat([fix(result[i : i + 1], reference[i : i + 1]) for i in range(2)])
    assert torch.allclose(fix(result, reference), singles, atol=1e-6)


@pytest.mark.parametrize("fix", FIXES)
def test_result_stays_in_range_and_keeps_its_type(fix):
    dark, bright = torch.zeros(1, 3, 40, 56, dtype=torch.bfloat16), torch.ones(1, 3, 40, 56, dtype=torch.bfloat16)
    dark[..., ::2] = 1.0
    fixed = fix(dark, bright, 1.0)
    assert fixed.dtype == torch.bfloat16 and fixed.shape == dark.shape
    assert torch.isfinite(fixed).all() and fixed.min() >= 0 and fixed.max() <= 1


def test_wavelet_keeps_fine_detail_and_moves_colour():
    result, reference = images()
    fixed = wavelet_fix(result, reference)
    change = fixed - result
    assert change.abs().mean() > 0.03
    assert change.diff(n=2, dim=3).abs().mean() < 0.02 * result.diff(n=2, dim=3).abs().mean()


def test_wavelet_impulse_answers_with_the_binomial_kernel():
    result = torch.zeros(1, 1, 9, 9)
    reference = torch.zeros(1, 1, 9, 9)
    reference[..., 4, 4] = 1.0
    kernel = torch.tensor([0.25, 0.5, 0.25])
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = torch.outer(kernel, kernel)
    assert torch.allclose(wavelet_fix(result, reference, levels=1)[0, 0], expected, atol=1e-7)


def test_adain_matches_mean_and_deviation():
    result, reference = images()
    fixed = adain_fix(result, reference)
    assert torch.allclose(fixed.std((2, 3)), reference.std((2, 3)), atol=2e-3)


@pytest.mark.parametrize("fix", FIXES)
@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), float("inf")])
def test_strength_out_of_range_is_named(fix, strength):
    result, reference = images()
    with pytest.raises(ParameterError, match="color_fix_strength"):
        fix(result, reference, strength)


@pytest.mark.parametrize("fix", FIXES)
def test_unequal_shapes_are_refused(fix):
    result, reference = images()
    with pytest.raises(ParameterError, match="shape"):
        fix(result, reference[..., :-1])


def test_levels_below_one_are_refused():
    result, reference = images()
    with pytest.raises(ParameterError, match="levels"):
        wavelet_fix(result, reference, levels=0)
