"""The colours, the overlay and the legend of a class map."""

import numpy as np
import pytest
from PIL import Image

from sisrm.drawing import area_shares, class_colors, color_distance, draw_overlay, legend, seen_colors
from sisrm.errors import ParameterError
from sisrm.labels import CLASS_NAMES, index_of


def test_every_class_has_its_own_colour_and_keeps_it():
    colors = class_colors()
    assert colors.shape == (150, 3) and colors.dtype == np.uint8
    assert len({tuple(color) for color in colors}) == 150
    colors[0] = 0
    assert class_colors()[0].any(), "changing the returned array must not change the colours"
    # Results that people keep are only comparable with later ones if the colours never change.
    assert bytes(class_colors()[index_of("sky")]).hex() == "8ecdf5"


@pytest.mark.parametrize(("count", "smallest"), [(30, 0.07), (150, 0.04)])
def test_colours_are_told_apart_also_by_colour_blind_eyes(count, smallest):
    seen = seen_colors(class_colors()[:count])
    for index in range(count):
        distance = color_distance(seen, seen[:, index : index + 1])
        distance[index] = np.inf
        other = int(distance.argmin())
        assert distance[other] > smallest, f"{CLASS_NAMES[index]} looks like {CLASS_NAMES[other]}"


def test_simulated_vision_loses_red_against_green_and_keeps_blue_against_yellow():
    seen = seen_colors(np.array([[160, 30, 30], [60, 80, 20], [30, 60, 200], [230, 210, 40]], np.uint8))
    red_green = np.linalg.norm(seen[:, 0] - seen[:, 1], axis=-1)
    blue_yellow = np.linalg.norm(seen[:, 2] - seen[:, 3], axis=-1)
    assert (red_green[1:] < 0.6 * red_green[0]).all()
    assert (blue_yellow[1:] > 0.7 * blue_yellow[0]).all()


def test_shares_are_sorted_and_add_up():
    class_map = np.full((10, 10), 4, np.uint8)
    class_map[:, :3] = 2
    class_map[0, 0] = 149
    shares = area_shares(class_map)
    assert shares == [(4, 0.7), (2, 0.29), (149, 0.01)]
    entries = legend(class_map)
    assert [(entry.index, entry.share) for entry in entries] == shares
    assert [entry.name for entry in entries] == [CLASS_NAMES[4], CLASS_NAMES[2], CLASS_NAMES[149]]
    assert entries[1].color == "#8ecdf5"


def test_overlay_mixes_photo_and_colours_by_the_opacity():
    photo = Image.new("RGB", (32, 24), (100, 50, 20))
    class_map = np.full((24, 32), 2, np.int64)
    assert np.array_equal(np.asarray(draw_overlay(photo, class_map, opacity=0.0)), np.asarray(photo))
    assert (np.asarray(draw_overlay(photo, class_map, opacity=1.0)) == class_colors()[2]).all()
    half = np.asarray(draw_overlay(photo, class_map, opacity=0.5), int)
    assert np.abs(half - (np.array([100, 50, 20]) + class_colors()[2]) / 2).max() <= 1


def test_overlay_has_the_class_maps_size_and_a_border_where_the_class_changes():
    photo = Image.new("RGB", (16, 16), (0, 0, 0))
    class_map = np.zeros((64, 64), np.uint8)
    class_map[:, 32:] = 6
    overlay = draw_overlay(photo, class_map, opacity=0.5)
    assert overlay.size == (64, 64)
    row = np.asarray(overlay, int)[20].sum(axis=1)
    assert row[31] > row[:31].max() + 100 and row[31] > row[32:].max() + 100


def test_only_colours_the_chosen_classes():
    photo = Image.new("RGB", (64, 64), (10, 20, 30))
    class_map = np.zeros((64, 64), np.uint8)
    class_map[:, 32:] = 6
    overlay = np.asarray(draw_overlay(photo, class_map, only=[6]))
    assert (overlay[:, :31] == (10, 20, 30)).all()
    assert (overlay[:, 32:] != (10, 20, 30)).all()
    assert np.array_equal(np.asarray(draw_overlay(photo, class_map, only=[])), np.asarray(photo))


@pytest.mark.parametrize(
    "class_map",
    [np.zeros((4, 4)), np.zeros(4, int), np.zeros((0, 4), int), np.full((4, 4), 150), np.full((4, 4), -1)],
)
def test_what_is_no_class_map_is_refused(class_map):
    with pytest.raises(ParameterError, match="class_map"):
        legend(class_map)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_outside_its_range_is_refused(opacity):
    with pytest.raises(ParameterError, match="opacity"):
        draw_overlay(Image.new("RGB", (4, 4)), np.zeros((4, 4), int), opacity=opacity)
