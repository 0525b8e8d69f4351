"""Results as files, and the settings back from files and links."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pipe
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_http import FILE, photo_bytes, press, upload

from sisrm.errors import ParameterError
from sisrm.images import Photo, write_png
from sisrm.labels import CLASS_NAMES
from sisrm.ui import results
from sisrm.ui.comparison import export
from sisrm.ui.handlers import Handlers
from sisrm.ui.links import LONGEST, from_query, to_query
from sisrm.ui.modules import VARIANTS, compare, grid, run_variant, without
from sisrm.ui.progress import Watch
from sisrm.ui.results import FORMATS, converted, named, require_room, restore
from sisrm.ui.settings import CONTROLS, Choice, Limit, Names, Settings, Switch, check_settings, default_settings
from sisrm.ui.texts import TEXTS

quickly = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DEFAULTS = default_settings(tiny_pipe())


def values_of(control):
    if isinstance(control, Limit):
        return st.integers(control.low, control.high) if control.whole else st.floats(control.low, control.high)
    if isinstance(control, Names):
        printable = st.characters(exclude_categories=("C", "Z"))
        words = st.sampled_from(CLASS_NAMES) | st.text(printable, min_size=1, max_size=40).filter(
            lambda word: word.lower() not in CLASS_NAMES
        )
        return st.lists(words, max_size=control.most, unique=True).map(tuple)
    return st.booleans() if isinstance(control, Switch) else st.sampled_from(control.options)


ANY = st.builds(Settings, **{name: values_of(control) for name, control in CONTROLS.items()})


@quickly
@given(ANY)
def test_settings_come_back_from_a_file_and_from_a_link(tmp_path, settings):
    path = write_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"settings": settings.as_json(), "prompt": "x"})
    assert restore(path, DEFAULTS, free_text=True) == settings
    query = to_query(settings, DEFAULTS)
    if len(query) <= LONGEST:
        assert from_query(query, DEFAULTS, free_text=True) == settings
        assert from_query("?" + query + "&__theme=dark&view=api", DEFAULTS, free_text=True) == settings


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A result of the tiny model, transparent in one half."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    alpha = Image.fromarray(np.repeat(np.r_[np.zeros(12), np.full(12, 255)][None], 20, 0).astype(np.uint8))
    handlers = Handlers(tiny_pipe(), {"preset": "tiny"})
    settings = handlers.check({"steps": 1, "seed": 7, "labels": ["sea"], "detail_strength": 0.5})
    return handlers.upscale(Photo(image, alpha), settings, tmp_path_factory.mktemp("result")), settings


def test_a_result_carries_how_it_was_made(done, tmp_path):
    result, settings = done
    kept = json.loads(Image.open(result.result).text["sisrm"])
    assert kept == result.report and kept["settings"] == settings.as_json()
    assert len(kept["weights_hash"]) == 16 and {"version", "labels", "seed", "preset"} <= kept.keys()
    assert kept["weights_hash"] == Handlers(tiny_pipe(), {}).weights_hash
    assert kept["weights_hash"] != Handlers(tiny_pipe(trained=False), {}).weights_hash
    assert restore(result.result, DEFAULTS) == settings


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_with_its_settings(done, format):
    result, settings = done
    path = converted(result.result, format)
    assert path.suffix == named("", format) and converted(result.result, format) == path
    assert restore(path, DEFAULTS) == settings
    with Image.open(path) as image, Image.open(result.result) as original:
        assert image.format.lower() == format and image.size == original.size
        if format != "jpeg":
            assert np.array_equal(np.asarray(image.convert("RGBA")), np.asarray(original))
            return
        assert image.mode == "RGB" and np.asarray(image)[:, :40].min() > 240  # on white where it is transparent
        visible = np.asarray(original.convert("RGB"), int)[:, 56:] - np.asarray(image, int)[:, 56:]
        assert np.abs(visible).mean() < 6


def test_formats_that_cannot_hold_a_result_are_refused_before_it_is_made():
    require_room("png", (100_000, 16))
    require_room("webp", (4095, 16))
    for format, side, scale in (("webp", 4096, 4), ("webp", 8192, 2), ("jpeg", 20_000, 4)):
        with pytest.raises(ParameterError, match="format"):
            require_room(format, (side, 16), scale)


BAD = [
    None, [], "x", 5, {}, {"settings": None}, {"settings": []}, {"settings": {}}, {"settings": {"seed": None}}, {"settings": {"seed": -1}},
    {"settings": {"seed": 1, "steps": 21}}, {"settings": {"seed": 1, "steps": "3"}}, {"settings": {"seed": 1, "labels": ["../etc"]}},
    {"settings": {"seed": 1, "guidance_scale": float("nan")}}, {"settings": {"seed": True}}, {"settings": {"seed": [[[]]]}},
]  # fmt: skip


@pytest.mark.parametrize("kept", BAD, ids=lambda value: repr(value)[:40])
def test_foreign_and_forged_files_restore_nothing(tmp_path, kept):
    assert restore(write_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", kept), DEFAULTS) is None


def test_files_that_are_no_results_restore_nothing(tmp_path):
    def png(value: str) -> Path:
        chunks = PngInfo()
        chunks.add_text("sisrm", value)
        Image.new("RGB", (8, 8)).save(tmp_path / "b.png", pnginfo=chunks)
        return tmp_path / "b.png"

    for text in ("", "{", "[" * 100_000, "\udcff".encode("utf-8", "replace").decode(), '{"settings":' * 5000):
        assert restore(png(text), DEFAULTS) is None
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    for name in ("plain.png", "text.png", "empty.png", "cut.png", "nothing.png", "."):
        assert restore(tmp_path / name, DEFAULTS) is None


def test_files_of_other_versions_restore_what_both_know(tmp_path):
    older = {"steps": 3, "guidance_scale": 2.0, "top_k": 2, "mff": False, "seed": 9, "labels": [], "gone": 1}
    path = write_png(Image.new("RGB", (8, 8)), tmp_path / "old.png", {"settings": older})
    assert restore(path, DEFAULTS) == replace(DEFAULTS, steps=3, guidance_scale=2.0, top_k=2, mff=False, seed=9)
    free = write_png(Image.new("RGB", (8, 8)), tmp_path / "sd.png", {"settings": {"seed": 1, "labels": ["red brick"]}})
    assert restore(free, DEFAULTS) is None and restore(free, DEFAULTS, free_text=True).labels == ("red brick",)


def test_a_link_holds_what_is_not_the_default_and_no_picture():
    settings = check_settings({"seed": 3, "steps": 4, "mff": False, "extra_labels": ["sky", "sea"]}, DEFAULTS)
    assert to_query(settings, DEFAULTS) == "steps=4&mff=false&seed=3&extra_labels=sky&extra_labels=sea"
    assert to_query(replace(DEFAULTS, seed=0), DEFAULTS) == "seed=0"
    assert from_query("", DEFAULTS) is None and from_query("__theme=dark", DEFAULTS) is None


@pytest.mark.parametrize(
    "query",
    ["steps=21", "steps=", "steps=nan", "steps=0x3", "steps=1e400", "steps=3&steps=99", "mff=1", "mff=True", "seed=-1", "seed=1.5",
     "labels=nonsense", "labels=", "&".join(["labels=sky", *[f"labels={name}" for name in CLASS_NAMES[:11]]]), "color_fix=red",
     "output_scale=5", "output_scale=\u0664", "start_strength=%00", "top_k=%F0%9F", "guidance_scale=" + "9" * 5000, "x" * (LONGEST + 1)],
    ids=lambda query: query[:24],
)  # fmt: skip
def test_bad_links_are_refused_by_name(query):
    with pytest.raises(ParameterError) as caught:
        from_query(query, DEFAULTS)
    assert len(str(caught.value)) < 500 and caught.value.name in (*CONTROLS, "link")


@quickly
@given(st.text(max_size=60) | st.lists(st.tuples(st.sampled_from(list(CONTROLS)), st.text(max_size=9))).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
))  # fmt: skip
def test_any_link_gives_settings_or_a_refusal(query):
    try:
        found = from_query(query, DEFAULTS)
    except ParameterError:
        return
    assert found is None or check_settings(found.as_json(), DEFAULTS) == found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("layout", ["side_by_side", "split"])
def test_before_and_after_in_one_file(done, layout, format):
    result = done[0]
    path = export(result.before, result.result, layout, format)
    assert export(result.before, result.result, layout, format) == path and path.parent == result.result.parent
    white = Image.new("RGBA", (96, 80), "white")
    before, after = (
        np.asarray(Image.alpha_composite(white, Image.open(source).convert("RGBA")).convert("RGB"), int)
        for source in (result.before, result.result)
    )
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    near = 14 if format == "jpeg" else 1
    if layout == "split":
        assert pixels.shape == (80, 96, 3)
        assert (
            np.abs(pixels[:, :47] - before[:, :47]).mean() < near
            and np.abs(pixels[:, 49:] - after[:, 49:]).mean() < near
        )
        assert pixels[:, 47:49].min() > 200
    else:
        assert pixels.shape == (80, 194, 3)
        assert np.abs(pixels[:, :96] - before).mean() < near and np.abs(pixels[:, 98:] - after).mean() < near
    with pytest.raises(ParameterError, match="layout"):
        export(result.before, result.result, "diagonal")


def test_results_beyond_the_limit_of_uploads_are_converted_and_shown(done, monkeypatch):
    result = done[0] if isinstance(done, tuple) else done
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for path in result.result.parent.glob(f"{result.result.stem}*"):
        if path != result.result:
            path.unlink()
    assert converted(result.result, "webp").stat().st_size and export(result.before, result.result).stat().st_size


def test_wide_pictures_stand_above_each_other_and_large_ones_are_made_smaller(tmp_path):
    for name in ("before", "after"):
        Image.new("RGB", (6000, 400), "navy").save(tmp_path / f"{name}.png")
    path = export(tmp_path / "before.png", tmp_path / "after.png")
    width, height = Image.open(path).size
    assert width == 4096 and 2 * 272 <= height <= 2 * 274 + 20


def test_the_ablation_grid_shows_pictures_that_differ(tmp_path):
    rng = np.random.default_rng(1)
    photo = Photo(Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)))
    handlers = Handlers(tiny_pipe(), {})
    settings = handlers.check({"steps": 2, "seed": 3, "mff": False})
    found = {}
    for name in VARIANTS:
        (tmp_path / name).mkdir()
        found[name] = run_variant(handlers, photo, without(settings, name), tmp_path / name, Watch(handlers.pace), None)
        off = {part for part in ("mff", "sca", "sape") if not found[name].report["settings"][part]}
        assert off == {VARIANTS[name]} - {None}
    pixels = {name: np.asarray(Image.open(done.result)).tobytes() for name, done in found.items()}
    assert len(set(pixels.values())) == len(VARIANTS), "a module that is switched off changes nothing"
    columns = [compare(name, done, found["full"]) for name, done in found.items()]
    assert columns[0].difference == 0 < min(column.difference for column in columns[1:])
    shown = re.findall(r"<figure>(.*?)<figcaption>", grid(columns, "en"))
    assert len(shown) == len(set(re.sub(r'alt="[^"]*"', "", pictures) for pictures in shown)) == len(VARIANTS)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_colour_correction_is_explained_where_it_is_chosen(lang):
    parts = re.split("[;；]", TEXTS[lang]["color_fix_info"])
    assert len(parts) == len(CONTROLS["color_fix"].options)
    for option, part in zip(CONTROLS["color_fix"].options, parts):
        assert re.match(rf"\s*{option}[:：]\s*\S{{3}}", part), part


def test_controls_have_no_kind_that_files_and_links_do_not_know():
    assert {type(control) for control in CONTROLS.values()} == {Limit, Switch, Choice, Names}


def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work(app, web, tmp_path, monkeypatch):
    monkeypatch.setitem(results._LONGEST, "webp", 60)
    monkeypatch.setattr(app.handlers, "upscale", lambda *_, **__: pytest.fail("it was worked on"))
    photo = {"path": upload(web, photo_bytes(tmp_path)), "meta": FILE}
    text = press(app, web, photo, format="webp")
    assert "format is" in text and "png for a result of more than 60 pixels" in text
