"""Every setting: its check, its presets, and that it changes the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image

from sisrm.errors import ParameterError
from sisrm.images import Photo
from sisrm.ui.handlers import Handlers
from sisrm.ui.readings import MOST
from sisrm.ui.regions import paint, read_region
from sisrm.ui.settings import CONTROLS, check_settings, default_settings, presets

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Wider than the smallest tile, so that tile_size has something to cut.
SIZE = (72, 32)
LARGEST = "dishwasher"  # the class that covers most of that picture, so that M is not empty


@pytest.fixture(scope="module")
def handlers():
    pipe = tiny_pipe()
    pipe.register_to_config(tile_size=64)
    return Handlers(pipe, {})


@pytest.fixture(scope="module")
def big():
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 255, (4, 9, 3), dtype=np.uint8))
    return Photo(small.resize(SIZE, Image.Resampling.BICUBIC))


def made(handlers, photo, folder, region=None, **changes):
    base = {"steps": 2, "guidance_scale": 2.0, "top_k": 6, "extra_labels": [LARGEST], "tile_size": 128, "seed": 5}
    settings = handlers.check({**base, **changes})
    done = handlers.upscale(photo, settings, folder, region=region)
    return np.asarray(Image.open(done.result), int), done.report


@pytest.fixture(scope="module")
def first(handlers, big, tmp_path_factory):
    return made(handlers, big, tmp_path_factory.mktemp("first"))


CHANGES = {
    "steps": 3, "guidance_scale": 4.0, "top_k": 2, "mff": False, "seed": 6, "sca": False, "sape": False, "labels": ["sea", "boat"],
    "extra_labels": ["boat"], "muted_labels": None, "start_strength": 0.9, "detail_strength": 0.5, "controlnet_conditioning_scale": 0.3,
    "color_fix": "adain", "color_fix_strength": 0.4, "tile_size": 64, "output_scale": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_changes_the_picture(handlers, big, first, tmp_path, name):
    value = CHANGES[name] if name != "muted_labels" else [first[1]["labels"][0]["name"]]
    pixels, report = made(handlers, big, tmp_path, **{name: value})
    assert report["settings"] == {**first[1]["settings"], name: value}
    if name == "output_scale":
        assert pixels.shape == (2 * SIZE[1], 2 * SIZE[0], 3) and report["output_size"] == [2 * SIZE[0], 2 * SIZE[1]]
        whole = Image.fromarray(first[0].astype(np.uint8))
        assert np.array_equal(
            pixels, np.asarray(whole.resize((2 * SIZE[0], 2 * SIZE[1]), Image.Resampling.LANCZOS), int)
        )
        return
    assert np.abs(pixels - first[0]).max() > 0
    names, before = ([label["name"] for label in entry["labels"]] for entry in (report, first[1]))
    if name == "labels":
        assert names == [LARGEST, *value]
    if name == "extra_labels":
        assert names == [*value, *before[1:]]
    if name == "muted_labels":
        assert names == before[1:] and report["prompt"] == ", ".join(names)


def test_a_painted_region_is_added_to_the_mask_or_taken_out_of_it(handlers, big, first, tmp_path):
    region = np.zeros((8, 18), np.int8)
    region[:, :6], region[:, 12:] = 1, -1
    painted = paint(region)
    read = read_region(Photo(painted.convert("RGB"), painted.getchannel("A")))
    assert np.array_equal(read, region)
    pixels, report = made(handlers, big, tmp_path, region=read)
    assert report["region"] == {"add": 0.3333, "protect": 0.3333} and first[1]["region"] is None
    assert report["local_control_share"] != first[1]["local_control_share"]
    assert np.abs(pixels - first[0]).max() > 0
    _, protected = made(handlers, big, tmp_path, region=np.full((4, 4), -1, np.int8))
    _, everywhere = made(handlers, big, tmp_path, region=np.full((4, 4), 1, np.int8))
    assert protected["local_control_share"] == 0 and everywhere["local_control_share"] == 1


def test_no_stroke_is_no_region():
    for color in ("#000000", "#ffffff", "#808080", "#00ff00"):
        assert not read_region(Photo(Image.new("RGB", (4, 4), color))).any()
    faint = Image.new("L", (4, 4), 100)
    assert not read_region(Photo(Image.new("RGB", (4, 4), "#2f6fed"), faint)).any()


def test_only_a_new_photo_is_looked_at_again(big, tmp_path):
    pipe = tiny_pipe()
    seen = []
    pipe.segmenter.register_forward_hook(lambda *_: seen.append(1))
    handlers = Handlers(pipe, {})
    for changes in ({}, {"steps": 3}, {"top_k": 3}, {"labels": ["sea"]}, {"muted_labels": ["sea"]}, {"sape": False}):
        _, report = made(handlers, big, tmp_path, **changes)
        assert len(seen) == 1 and report["segmentation_reused"] is bool(changes)
    handlers.segment(big, 3, tmp_path)
    assert len(seen) == 1
    for shift in range(MOST):
        other = Photo(Image.fromarray(np.roll(np.asarray(big.image), shift + 1, 1)))
        handlers.segment(other, 3, tmp_path)
    assert len(seen) == 1 + MOST
    handlers.segment(big, 3, tmp_path)  # pushed out by then
    assert len(seen) == 2 + MOST
    # The same bytes in another shape are another photo.
    handlers.segment(Photo(Image.frombytes("RGB", SIZE[::-1], big.image.tobytes())), 3, tmp_path)
    assert len(seen) == 3 + MOST


def test_an_answer_from_a_kept_reading_is_the_same(big, tmp_path):
    handlers = Handlers(tiny_pipe(), {})
    fresh, kept = (made(handlers, big, tmp_path) for _ in range(2))
    assert np.array_equal(fresh[0], kept[0]) and kept[1]["segmentation_reused"] and not fresh[1]["segmentation_reused"]
    settings = handlers.check(kept[1]["settings"])
    alone = handlers.pipe(big.image, **settings.arguments(), generator=torch.Generator().manual_seed(5))
    assert np.array_equal(np.asarray(alone.images[0]), fresh[0])


def test_a_reading_of_other_images_is_refused(tiny_pipeline, photo):
    reading = tiny_pipeline.read([photo, photo])
    with pytest.raises(ParameterError, match="reading is 'of 2 images'"):
        tiny_pipeline(photo, reading=reading)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_check_names_its_setting_and_what_it_takes(name):
    defaults = default_settings(tiny_pipe())
    for value in (float("nan"), "x", object(), {}, [[]], [1], -1, 2.0**70):
        with pytest.raises(ParameterError, match=f"^{name} is ") as caught:
            check_settings({name: value}, defaults)
        assert caught.value.name == name
    if name not in ("seed", "labels", "extra_labels", "muted_labels"):
        with pytest.raises(ParameterError, match=f"^{name} is None"):
            check_settings({name: None}, defaults)
    control, fine = CONTROLS[name], getattr(defaults, name)
    assert control.check(name, fine) == fine


def test_defaults_and_unknown_names():
    pipe = tiny_pipe()
    defaults = default_settings(pipe)
    assert (defaults.steps, defaults.top_k, defaults.start_strength, defaults.tile_size) == (2, 3, 0.5, 256)
    assert check_settings({"seed": 0}, defaults) == defaults
    assert check_settings({}, defaults).seed != check_settings({"seed": None}, defaults).seed
    with pytest.raises(ParameterError, match="'stepps'"):
        check_settings({"stepps": 3}, defaults)
    assert check_settings({"labels": ["SKY ", "sky"]}, defaults).labels == ("sky",)


def test_free_text_is_for_text_encoders_that_read_it():
    defaults = default_settings(tiny_pipe())
    with pytest.raises(ParameterError, match="extra_labels is 'red brick'"):
        check_settings({"extra_labels": ["red brick"]}, defaults)
    assert check_settings({"extra_labels": [" red brick ", "Sky"]}, defaults, free_text=True).extra_labels == (
        "red brick",
        "sky",
    )
    for bad in ("", "a\0b", "x" * 81):
        with pytest.raises(ParameterError, match="extra_labels"):
            check_settings({"extra_labels": [bad]}, defaults, free_text=True)


def test_presets_are_settings_and_balanced_is_the_default():
    for start, guidance in ((0.12, 1.0), (1.0, 5.5), (0.01, 8.0)):
        defaults = replace(default_settings(tiny_pipe()), start_strength=start, guidance_scale=guidance)
        named = presets(defaults)
        assert list(named) == ["faithful", "balanced", "vivid"]
        assert len({tuple(preset) for preset in named.values()}) == 1
        for preset in named.values():
            check_settings(preset, defaults)
        assert check_settings({"seed": 0, **named["balanced"]}, defaults) == defaults


def test_presets_differ_on_the_bundled_model(compact_pipeline, tmp_path):
    """Faithful stays nearer to the photo than balanced, vivid is sharper, both by far more than a new seed does."""
    photo = Photo(Image.open(EXAMPLES / "coffee.png").convert("RGB").resize((64, 64)))
    handlers = Handlers(compact_pipeline, {})
    plain = np.asarray(photo.image.resize((256, 256), Image.Resampling.BICUBIC), float)

    def measured(values):
        pixels = np.asarray(
            Image.open(handlers.upscale(photo, handlers.check({"seed": 0, **values}), tmp_path).result), float
        )
        rows, columns = (np.diff(pixels.mean(2), axis=axis) for axis in (0, 1))
        return np.hypot(rows[:, :-1], columns[:-1]).mean(), np.abs(pixels - plain).mean(), pixels.mean((0, 1))

    faithful, balanced, vivid = (measured(values) for values in presets(handlers.defaults).values())
    assert faithful[0] < 0.93 * balanced[0] < balanced[0] < 0.93 * vivid[0]
    assert faithful[1] < 0.97 * balanced[1] < balanced[1] < 0.97 * vivid[1]
    assert np.abs(faithful[2] - vivid[2]).max() < 1  # and none of them changes the colours
