"""Intermediate states, boxes and the paper's figure: the parts, and `upscale --save-steps --figure` end to end."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image

from sisrm import cli
from sisrm.drawing import color_distance, seen_colors
from sisrm.errors import ParameterError
from sisrm.figure import BOX_COLORS, Box, Panel, choose_boxes, crop_of, draw_boxes, draw_figure, layout_of
from sisrm.images import read_image
from sisrm.steps import StateRecorder, step_at

COLORS = [tuple(bytes.fromhex(color[1:])) for color in BOX_COLORS]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def pixels(image) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else Image.open(image))


# States


@pytest.mark.parametrize("share, steps, step", [
    (0.5, 4, 1),
    (0.2, 4, 2),
    (0.5, 20, 9),
    (0.2, 20, 15),
    (0.2, 2, 1),
    (0.25, 2, 1),  # as near to 0.5 as to 0: the later one
    (0.3, 5, 3),  # as near to 0.4 as to 0.2, but for the last bit of a float
    (0.99, 4, 0),
    (0.5, 1, 0),
])  # fmt: skip
def test_the_step_of_a_share(share, steps, step):
    assert step_at(share, steps) == step


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan"), float("inf"), "0.5"])
def test_a_share_outside_the_run_is_refused(share):
    with pytest.raises(ParameterError, match="shares is .*above 0 and below 1"):
        StateRecorder([0.5, share], 4)


def test_states_lead_to_the_result(tiny_pipeline, photo):
    recorder = StateRecorder([0.01, 0.5, 0.75], 4)

    def call(callback):
        generator = torch.Generator("cpu").manual_seed(3)
        return tiny_pipeline(photo, 4, generator=generator, callback_on_step_end=callback).images[0]

    result = call(recorder)
    assert list(recorder.states) == [0.75, 0.5, 0.01] and recorder.steps == {0.75: 0, 0.5: 1, 0.01: 3}
    first, second, last = (pixels(state) for state in recorder.states.values())
    assert first.shape == pixels(result).shape == (80, 96, 3)
    assert (first != second).any() and (second != last).any()
    assert np.array_equal(last, pixels(result)), "after the last step nothing is left to go"
    assert np.array_equal(pixels(call(None)), pixels(result)), "looking changes nothing"


# Boxes


def test_boxes_are_where_the_detail_is():
    picture = np.full((100, 140, 3), 128, np.uint8)
    picture[20:40, 100:120] = pixels(noise(20, 20))
    picture[60:80, 30:50] = 128 + (pixels(noise(20, 20, seed=1)).astype(int) - 128) // 2
    red, blue = choose_boxes(Image.fromarray(picture), side=20)
    assert (red, blue) == (Box(100, 20, 20), Box(30, 60, 20))


def test_texture_counts_for_more_than_an_edge_and_shading_for_nothing():
    picture = np.zeros((100, 140, 3), np.uint8)
    picture[:, :50] = np.linspace(250, 0, 50)[:, None]
    picture[:, 80:] = 120
    picture[40:60, 110:130] = 100 + pixels(noise(20, 20)) // 12
    red, _ = choose_boxes(Image.fromarray(picture), side=20)
    assert abs(red.x - 110) <= 1 and abs(red.y - 40) <= 1


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (24, 20), (16, 300), (300, 20), (61, 47), (128, 128), (700, 400)])
def test_two_boxes_find_room_in_any_image(size):
    border = min(size) // 16
    for seed in range(10):
        picture = pixels(noise(*size, seed)) // 8
        row, column = (size[1] - 6) // 2, (size[0] - 6) // 2
        picture[row : row + 6, column : column + 6] *= 8  # a red box in the middle leaves the least room
        red, blue = choose_boxes(Image.fromarray(picture))
        assert red.side == blue.side <= 32
        for box in (red, blue):
            left, upper, right, lower = box.edges
            assert left >= border and upper >= border and right <= size[0] - border and lower <= size[1] - border
        assert max(abs(red.x - blue.x), abs(red.y - blue.y)) >= red.side + red.side // 2


def test_boxes_of_a_picture_without_detail_are_apart_too():
    red, blue = choose_boxes(Image.new("RGB", (64, 64), "grey"))
    assert (red, blue) == (Box(4, 4, 12), Box(22, 4, 12))


def test_what_cannot_be_a_box_is_refused():
    picture = noise(40, 30)
    with pytest.raises(ParameterError, match="at least 16 x 16"):
        choose_boxes(noise(40, 15))
    with pytest.raises(ParameterError, match="side is 30"):
        choose_boxes(picture, side=30)
    for box in (Box(-1, 0, 5), Box(0, 26, 5), Box(36, 0, 5), Box(3, 3, 0)):
        with pytest.raises(ParameterError, match="inside 40 x 30"):
            crop_of(picture, box)
        with pytest.raises(ParameterError, match="inside 40 x 30"):
            draw_boxes(picture, [box, Box(0, 0, 5)])
    panel = Panel("LR", picture)
    with pytest.raises(ParameterError, match="two boxes"):
        draw_figure([panel], [Box(0, 0, 5)])
    with pytest.raises(ParameterError, match="one size"):
        draw_figure([panel, Panel("HR", noise(30, 40))], [Box(0, 0, 5), Box(9, 9, 5)])
    with pytest.raises(ParameterError, match="at least one"):
        draw_figure([], [Box(0, 0, 5), Box(9, 9, 5)])


def test_outlines_go_around_what_is_in_a_box():
    picture = noise(200, 160)
    boxes = [Box(20, 30, 40), Box(120, 90, 30)]
    drawn = draw_boxes(picture, boxes)
    assert np.array_equal(pixels(picture), pixels(noise(200, 160))), "the picture itself is left alone"
    for box, color in zip(boxes, COLORS):
        left, upper, right, lower = box.edges
        assert np.array_equal(pixels(crop_of(drawn, box)), pixels(crop_of(picture, box)))
        outline = pixels(drawn)[upper - 1, left:right], pixels(drawn)[lower, left:right]
        assert all((line == color).all() for line in outline)
        assert (pixels(drawn)[upper:lower, [left - 1, right]] == color).all()
    assert np.array_equal(pixels(drawn)[:20], pixels(picture)[:20])


def test_red_and_blue_are_told_apart_by_every_eye():
    red, blue = (seen_colors(np.array([color], np.uint8)) for color in COLORS)
    assert (np.linalg.norm(red - blue, axis=-1) > 0.2).all(), "in normal, protan and deutan vision"
    white = seen_colors(np.array([[255, 255, 255]], np.uint8))
    assert all(color_distance(color, white)[0] > 0.3 for color in (red, blue)), "against the white line around them"


# The figure


@pytest.mark.parametrize("size", [(64, 64), (384, 320), (128, 576), (768, 160), (1200, 900), (2000, 64)])
@pytest.mark.parametrize("count", [4, 5, 7])
def test_a_figure_of_any_shape_is_whole(size, count):
    pictures = [noise(*size, seed) for seed in range(count)]
    side = min(size) // 4
    boxes = [Box(1, 2, side), Box(size[0] - side, size[1] - side, side)]
    figure = draw_figure([Panel("t = 0.5T", picture, "after step 100 of 200") for picture in pictures], boxes)
    layout = layout_of(count, size)
    assert figure.size == layout.size and figure.width < 5 * figure.height
    assert layout.crop_side >= 120
    assert max(layout.shown) <= 512 and (max(layout.shown) > 256 or max(size) > 512)
    everything = pixels(figure).copy()
    for index, picture in enumerate(pictures):
        x, y = layout.picture_at(index)
        assert len(np.unique(pixels(figure.crop((x, y, x + layout.shown[0], y + layout.shown[1]))))) > 100
        everything[y : y + layout.shown[1], x : x + layout.shown[0]] = 255
        for which, (box, color) in enumerate(zip(boxes, COLORS)):
            x, y = layout.crop_at(index, which)
            end_x, end_y = x + layout.crop_side, y + layout.crop_side
            enlarged = picture.crop(box.edges).resize((layout.crop_side,) * 2, Image.Resampling.BICUBIC)
            assert np.array_equal(pixels(figure.crop((x, y, end_x, end_y))), pixels(enlarged))
            assert (everything[y - 5 : y, x - 5 : end_x + 5] == color).all()
            assert (everything[end_y : end_y + 5, x - 5 : end_x + 5] == color).all()
            assert (everything[y:end_y, x - 5 : x] == color).all() and (
                everything[y:end_y, end_x : end_x + 5] == color
            ).all()
            everything[y - 5 : end_y + 5, x - 5 : end_x + 5] = 255
        x, y = layout.block_at(index)
        caption = everything[y : y + layout.block[1], x : x + layout.block[0]]
        assert (caption < 128).any(), "a caption of dark letters"
        caption[...] = 255
    assert (everything == 255).all(), "pictures, crops and captions keep to their blocks, and nothing else is drawn"


def test_pictures_are_shown_with_their_boxes():
    picture = noise(512, 400)
    boxes = [Box(100, 100, 60), Box(300, 250, 60)]
    figure = draw_figure([Panel("LR", picture)], boxes)
    x, y = layout_of(1, picture.size).picture_at(0)
    assert np.array_equal(pixels(figure.crop((x, y, x + 512, y + 400))), pixels(draw_boxes(picture, boxes)))


def test_captions_say_what_they_are_told():
    boxes = [Box(0, 0, 9), Box(20, 20, 9)]
    picture = noise(64, 64)
    plain = pixels(draw_figure([Panel("LR", picture)], boxes))
    assert (pixels(draw_figure([Panel("HR", picture)], boxes)) != plain).any()
    assert (pixels(draw_figure([Panel("LR", picture, "bicubic")], boxes)) != plain).any()


# The command


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipe().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folders(tmp_path, photo):
    """LR with two photos, HR with their references."""
    for name in ("LR", "HR"):
        (tmp_path / name).mkdir()
    for name, image in {"a": photo, "b": photo.transpose(Image.Transpose.ROTATE_90)}.items():
        image.save(tmp_path / "LR" / f"{name}.png")
        image.resize((4 * image.width, 4 * image.height)).save(tmp_path / "HR" / f"{name}.webp", lossless=True)
    return tmp_path


def upscale(weights, *arguments) -> int:
    return cli.main([*map(str, ("upscale", *arguments, "--preset", weights, "--seed", 5, "--steps", 4))])


def test_states_and_figures_of_a_folder(weights, folders):
    output = folders / "out"
    extras = ["--figure", "--reference", folders / "HR", "--save-steps", 0.25, 0.75]
    assert upscale(weights, folders / "LR", "-o", output, *extras) == 0
    endings = (".png", "_0.25T.png", "_0.75T.png", "_figure.png")
    assert sorted(os.listdir(output)) == sorted(name + ending for name in "ab" for ending in endings)
    assert upscale(weights, folders / "LR", "-o", folders / "plain") == 0
    assert sorted(os.listdir(folders / "plain")) == ["a.png", "b.png"]
    for name in "ab":
        assert (folders / "plain" / f"{name}.png").read_bytes() == (output / f"{name}.png").read_bytes()
        low = read_image(folders / "LR" / f"{name}.png")
        early, late, result = (
            read_image(output / f"{name}{ending}") for ending in ("_0.75T.png", "_0.25T.png", ".png")
        )
        boxes = [box.scaled(4) for box in choose_boxes(low)]
        expected = [
            Panel("LR", low.resize(result.size, Image.Resampling.BICUBIC), "bicubic"),
            Panel("t = 0.75T", early, "after step 1 of 4"),
            Panel("t = 0.25T", late, "after step 3 of 4"),
            Panel("SISRM", result, "result"),
            Panel("HR", read_image(folders / "HR" / f"{name}.webp"), "reference"),
        ]
        assert np.array_equal(pixels(output / f"{name}_figure.png"), pixels(draw_figure(expected, boxes)))
        assert (pixels(early) != pixels(late)).any() and (pixels(late) != pixels(result)).any()
    facts = json.loads(Image.open(output / "a_0.25T.png").text["sisrm"])
    assert (facts["share_to_go"], facts["after_step"], facts["num_inference_steps"], facts["seed"]) == (0.25, 3, 4, 5)
    facts = json.loads(Image.open(output / "a_figure.png").text["sisrm"])
    assert facts["panels"] == [panel.title for panel in expected] and facts["seed"] == 5


def test_a_figure_alone_has_the_papers_states_and_the_boxes_asked_for(weights, folders):
    target = folders / "out" / "one.png"
    extras = ["--figure", "--reference", folders / "HR" / "a.webp", "--boxes", "0,0,8", "10, 6,14"]
    assert upscale(weights, folders / "LR" / "a.png", "-o", target, *extras) == 0
    assert sorted(os.listdir(target.parent)) == ["one.png", "one_figure.png"]
    facts = json.loads(Image.open(target.parent / "one_figure.png").text["sisrm"])
    assert facts["panels"] == ["LR", "t = 0.5T", "t = 0.2T", "SISRM", "HR"]
    assert facts["boxes"] == [[0, 0, 8], [10, 6, 14]]
    layout = layout_of(5, (96, 80))
    x, y = layout.crop_at(3, 1)
    shown = Image.open(target.parent / "one_figure.png").crop((x, y, x + layout.crop_side, y + layout.crop_side))
    enlarged = Image.open(target).crop((40, 24, 96, 80)).resize(shown.size, Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(shown), pixels(enlarged))


def test_references_that_do_not_fit_are_named(weights, folders, capsys):
    def complaint(*arguments) -> str:
        assert upscale("never loaded", *arguments, "-o", folders / "out", "--figure") == 2
        captured = capsys.readouterr()
        assert captured.out == "" and not list(folders.glob("out/*"))
        return captured.err

    low, high = folders / "LR", folders / "HR"
    line = complaint(low, "--reference", high / "a.webp")
    assert line.startswith("--reference is") and "an existing folder, where there are several inputs" in line
    assert "96 x 80 pixels, the input 20 x 24" in complaint(low / "b.png", "--reference", high / "a.webp")
    (high / "a.webp").unlink()
    line = complaint(low / "a.png", "--reference", high)
    assert line.startswith(str(low / "a.png")) and "no image of this name in the --reference folder" in line
    (high / "b.webp").unlink()
    assert complaint(low / "a.png", "--reference", high).startswith("--reference is")


def test_a_reference_is_never_overwritten(weights, folders, capsys):
    read_image(folders / "HR" / "a.webp").save(folders / "HR" / "a.png")
    (folders / "HR" / "a.webp").unlink()
    before = (folders / "HR" / "a.png").read_bytes()
    arguments = [folders / "LR" / "a.png", "-o", folders / "HR", "--figure", "--reference", folders / "HR"]
    assert upscale("never loaded", *arguments) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert (folders / "HR" / "a.png").read_bytes() == before
