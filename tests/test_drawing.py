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


def test_overlay_mixes_the_grey_photo_and_colours_by_the_opacity():
    photo = Image.new("RGB", (32, 24), (100, 50, 20))
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 20
    class_map = np.full((24, 32), 2, np.int64)
    assert np.array_equal(np.asarray(draw_overlay(photo, class_map, opacity=0.0)), np.asarray(photo))
    assert (np.asarray(draw_overlay(photo, class_map, opacity=1.0)) == class_colors()[2]).all()
    half = np.asarray(draw_overlay(photo, class_map, opacity=0.5), int)
    assert np.abs(half - (grey + class_colors()[2]) / 2).max() <= 1
    # At a quarter, half of the photo's own colour is still there.
    quarter = np.asarray(draw_overlay(photo, class_map, opacity=0.25), int)
    bare = (np.array([100, 50, 20]) + grey) / 2
    assert np.abs(quarter - (0.75 * bare + 0.25 * class_colors()[2])).max() <= 1


def test_one_class_has_one_colour_on_photos_of_any_hue():
    class_map = np.zeros((8, 8), np.uint8)
    # Equally bright red, green and blue.
    seen = [
        np.asarray(draw_overlay(Image.new("RGB", (8, 8), color), class_map), int)[4, 4]
        for color in ((201, 0, 0), (0, 102, 0), (26, 50, 200))
    ]
    assert np.ptp(seen, axis=0).max() <= 1


def borders_alone(class_map: np.ndarray, background: int) -> np.ndarray:
    """The overlay on an even photo with next to no colour: what differs from the background is border. (H, W) float."""
    photo = Image.new("L", class_map.shape[::-1], background)
    return np.asarray(draw_overlay(photo, class_map, opacity=1e-6), float)[..., 1]


@pytest.mark.parametrize("size, width", [((40, 64), 1.3), ((40, 1024), 1.3), ((40, 2048), 2.6)])
def test_borders_lie_between_the_classes_and_grow_with_large_pictures_only(size, width):
    class_map = np.zeros(size, np.uint8)
    middle = size[1] // 2
    class_map[:, middle:] = 6
    row = borders_alone(class_map, 0)[20] / 255
    assert row.sum() == pytest.approx(0.9 * width, rel=0.08)
    assert (row * (np.arange(size[1]) + 0.5)).sum() / row.sum() == pytest.approx(middle, abs=0.05)
    assert not row[: middle - 6].any() and not row[middle + 6 :].any()


def test_borders_are_seen_on_white_and_on_black():
    class_map = np.zeros((64, 64), np.uint8)
    class_map[:, 32:] = 6
    on_black, on_white = borders_alone(class_map, 0)[20], borders_alone(class_map, 255)[20]
    assert on_black[31:33].min() > 140 and on_white[[30, 33]].max() < 185
    assert on_white[10] == 255 and on_black[10] == 0


def test_slanted_borders_have_no_stair_steps():
    rows, columns = np.mgrid[0:64, 0:96]
    edge = 12.0 + columns / 4  # one row down every four columns
    line = borders_alone((rows + 0.5 > edge + 0.125).astype(np.uint8), 0)[:, 8:-8]
    middle = (line * (rows[:, 8:-8] + 0.5)).sum(0) / line.sum(0)
    # A line along the pixels' edges would jump by a whole row and be half a row off.
    assert np.abs(middle - (edge[0, 8:-8] + 0.125)).max() < 0.2
    assert np.abs(np.diff(middle)).max() < 0.5


def test_a_region_finer_than_the_lines_is_counted_and_not_drawn():
    class_map = np.zeros((64, 64), np.uint8)
    class_map[20, 20] = 6
    assert not borders_alone(class_map, 0).any()
    assert [entry.index for entry in legend(class_map)] == [0, 6]
    class_map[40:44, 40:44] = 6
    assert borders_alone(class_map, 0)[40, 40] > 0


def test_overlay_has_the_class_maps_size():
    assert draw_overlay(Image.new("RGB", (16, 12)), np.zeros((48, 64), np.uint8)).size == (64, 48)


def test_only_colours_the_chosen_classes():
    photo = Image.new("RGB", (64, 64), (10, 20, 30))
    class_map = np.zeros((64, 64), np.uint8)
    class_map[:, 32:] = 6
    overlay = np.asarray(draw_overlay(photo, class_map, only=[6]))
    assert (overlay[:, :28] == (10, 20, 30)).all()
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
