"""MFF (eq 10): y = F + M * G."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_pipe

from sisrm.errors import ParameterError
from sisrm.mff import MaskFeatureFusion


@pytest.fixture
def residuals():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, side, side, generator=generator) for side in (16, 8)), torch.randn(
        2, 3, 4, 4, generator=generator
    )


def test_ones_are_plain_controlnet_and_zeros_no_control(residuals):
    down, mid = residuals
    for value in (1.0, 0.0):
        masked, masked_mid = MaskFeatureFusion()(down, mid, torch.full((2, 1, 64, 64), value))
        assert all(torch.equal(a, b * value) for a, b in zip(masked, down))
        assert torch.equal(masked_mid, mid * value)


def test_mask_meets_every_resolution_where_it_lies(residuals):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1  # left half
    masked, masked_mid = MaskFeatureFusion()(*residuals, mask)
    for before, after in zip((*residuals[0], residuals[1]), (*masked, masked_mid)):
        half = before.shape[-1] // 2
        assert torch.equal(after[..., :half], before[..., :half])
        assert not after[..., half:].any()


def test_region_is_the_labels_classes_joined_with_the_users():
    class_map = torch.tensor([[2, 2, 4, 4], [2, 2, 9, 9]], dtype=torch.uint8)
    mff = MaskFeatureFusion()
    assert mff.region(class_map, [2, 9]).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    drawn = np.array([[False, True]])  # right half, at another size
    assert mff.region(class_map, [2], drawn).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert not mff.region(class_map, []).any()


@pytest.mark.parametrize("drawn", [np.zeros((2, 2, 3)), np.zeros((0, 4)), np.full((2, 2), np.nan)])
def test_unusable_regions_are_refused(drawn):
    with pytest.raises(ParameterError, match="region_mask"):
        MaskFeatureFusion().region(torch.zeros(4, 4, dtype=torch.uint8), [1], drawn)


def test_in_the_pipeline_ones_equal_no_mff_and_zeros_equal_no_controlnet():
    pipe = tiny_pipe()
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 16, generator=generator)
    condition, tokens = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 4, 16, generator=generator)
    pipe.prepare_timesteps(2, 0.5)
    step = pipe.scheduler.timesteps[-1]

    def run(mask, scale=1.0):
        with torch.no_grad():
            return pipe.denoise(latents, step, text, tokens, condition, mask, scale)

    everywhere, nowhere = torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    assert torch.equal(run(everywhere), run(None))
    assert torch.equal(run(nowhere), run(None, scale=0.0))
    assert not torch.allclose(run(everywhere), run(nowhere))
