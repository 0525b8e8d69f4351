"""The class map: the same pixels as interpolating every class, for a fraction of the work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sisrm.class_map import LONG_SIDE, _argmax_of_all, class_map_of, largest_classes, possible_winners
from sisrm.sape import segmenter_input


def every_class(probabilities: torch.Tensor, size) -> torch.Tensor:
    """The definition: all classes interpolated, then the likeliest."""
    return F.interpolate(probabilities, size=size, mode="bilinear").argmax(1).to(torch.uint8)


def smooth_probabilities(seed: int, sharpness: float, size=(12, 9), classes: int = 150) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, classes, 4, 3, generator=generator)
    return (F.interpolate(coarse, size=size, mode="bilinear") * sharpness).softmax(1)


@pytest.mark.parametrize("sharpness", [0.1, 1, 4, 20])
@pytest.mark.parametrize("size", [(96, 72), (50, 31), (7, 100), (5, 4)])
def test_no_pixel_differs_from_interpolating_every_class(sharpness, size):
    for seed in range(3):
        probabilities = smooth_probabilities(seed, sharpness)
        assert torch.equal(class_map_of(probabilities, size), every_class(probabilities, size))


@pytest.mark.parametrize("sharpness", [0.1, 4])
@pytest.mark.parametrize("classes", [150, 50, 51, 3])
def test_a_gpu_s_way_gives_the_same_pixels(sharpness, classes):
    for seed in range(3):
        probabilities = smooth_probabilities(seed, sharpness, classes=classes)[:1]
        assert torch.equal(_argmax_of_all(probabilities, [50, 31])[:, 0], every_class(probabilities, (50, 31)))
    equal = torch.full((1, classes, 2, 2), 1 / classes)
    assert (_argmax_of_all(equal, [2, 2]) == 0).all()


def test_a_class_that_wins_only_between_the_points_is_kept():
    probabilities = torch.zeros(1, 3, 1, 2)
    probabilities[0, :, 0, 0] = torch.tensor([0.5, 0.45, 0.05])
    probabilities[0, :, 0, 1] = torch.tensor([0.05, 0.45, 0.5])
    assert possible_winners(probabilities).tolist() == [0, 1, 2]
    assert set(class_map_of(probabilities, (8, 16)).unique().tolist()) == {0, 1, 2}


def test_classes_out_of_reach_are_left_out():
    probabilities = torch.full((1, 150, 6, 6), 0.1 / 148)
    probabilities[:, 3], probabilities[:, 7] = 0.5, 0.4
    assert possible_winners(probabilities).tolist() == [3]
    probabilities[:, 7, :, 3:] = 0.6
    assert possible_winners(probabilities).tolist() == [3, 7]


def test_the_first_of_equals_is_chosen_and_one_point_is_enough():
    assert (class_map_of(torch.full((1, 150, 1, 1), 1 / 150), (16, 16)) == 0).all()


def test_beyond_the_long_side_the_map_is_enlarged():
    probabilities = smooth_probabilities(0, 4)[:1]
    size = (LONG_SIDE * 2, LONG_SIDE)
    inner = every_class(probabilities, (LONG_SIDE, LONG_SIDE // 2))
    assert torch.equal(class_map_of(probabilities, size), inner.repeat_interleave(2, 1).repeat_interleave(2, 2))


@torch.no_grad()
@pytest.mark.parametrize("name", ["astronaut", "launchpad"])
def test_photos_through_the_bundled_segmenter(compact_pipeline, name):
    image = Image.open(f"examples/{name}.png").convert("RGB").resize((160, 128))
    pixels = segmenter_input(compact_pipeline.prepare_lr_image(image), 256).to(compact_pipeline.segmenter.dtype)
    probabilities = compact_pipeline.segmenter(pixels).logits.float().softmax(1)
    size = (512, 640)
    assert len(possible_winners(probabilities)) <= 40
    assert torch.equal(class_map_of(probabilities, size), every_class(probabilities, size))


def test_largest_classes_come_by_area():
    class_map = np.array([[5, 5, 5], [2, 2, 9]], np.uint8)
    assert largest_classes(class_map, 2) == [5, 2]
