"""The app's handlers, and the running app as a script meets it through gradio_client and plain HTTP."""

from __future__ import annotations

import inspect
import json
import re
import socket
import string
import zlib
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from conftest import tiny_pipe
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageFile

import sisrm.ui
from sisrm.errors import ImageError, ParameterError
from sisrm.images import NOTICES, read_photo
from sisrm.ui.endpoints import errors_for_people
from sisrm.ui.handlers import Handlers
from sisrm.ui.jobs import Job
from sisrm.ui.progress import Watch
from sisrm.ui.settings import CONTROLS, default_settings
from sisrm.ui.texts import TEXTS, language
from sisrm.ui.uploads import open_upload, result_name


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    """A PNG of 24 x 20 that is not symmetric in any way."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8))
    path = tmp_path_factory.mktemp("photos") / "my photo (1).png"
    small.resize((24, 20), Image.Resampling.BICUBIC).save(path)
    return path


SETTINGS = {"steps": 2, "guidance_scale": 2.0, "top_k": 2, "mff": True, "seed": 5}


@pytest.fixture(scope="module")
def first(client, photo_file):
    """The result of SETTINGS: (pixels, report)."""
    path, report = client.predict(handle_file(photo_file), **SETTINGS, api_name="/upscale")
    return np.asarray(Image.open(path)), report


def post(url: str, data: str, fn: str = "upscale") -> str:
    """Call an endpoint with a body that no client library would send; returns the event stream's text."""
    event = httpx.post(
        f"{url}/gradio_api/call/{fn}",
        content=f'{{"data": {data}}}',
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    return httpx.get(f"{url}/gradio_api/call/{fn}/{event.json()['event_id']}", timeout=30).text


def test_an_image_alone_is_enough(client, photo_file):
    path, report = client.predict(handle_file(photo_file))
    image = Image.open(path)
    assert image.format == "PNG" and image.size == (96, 80)
    assert Path(path).name == "my-photo-1-4x.png"
    assert json.loads(image.text["sisrm"]) == report
    assert report["settings"] == {**default_settings(tiny_pipe()).as_json(), "seed": report["seed"]}
    assert {"steps": 2, "guidance_scale": 1.5, "top_k": 3, "mff": True, "labels": []}.items() <= report[
        "settings"
    ].items()
    assert report["input_size"] == [24, 20] and report["output_size"] == [96, 80]
    assert len(report["labels"]) == 3 and all(
        0 < label["score"] <= 1 and not label["unsure"] for label in report["labels"]
    )
    assert report["prompt"] == ", ".join(label["name"] for label in report["labels"])
    assert sum(region["share"] for region in report["regions"]) == pytest.approx(1, abs=0.01)
    assert (
        report["timings"]["total"] > 0
        and report["device"] == "cpu"
        and {"preset", "dtype", "attention_backend"} <= report.keys()
    )


def test_the_reported_seed_repeats_the_result(client, photo_file):
    path, report = client.predict(handle_file(photo_file), api_name="/upscale")
    again, _ = client.predict(handle_file(photo_file), seed=report["seed"], api_name="/upscale")
    other, other_report = client.predict(handle_file(photo_file), api_name="/upscale")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(again)))
    assert other_report["seed"] != report["seed"]
    assert not np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 5), ("guidance_scale", 6.0), ("top_k", 6), ("mff", False), ("seed", 6)]
)
def test_every_control_changes_the_result(client, photo_file, first, name, value):
    path, report = client.predict(handle_file(photo_file), **{**SETTINGS, name: value}, api_name="/upscale")
    assert report["settings"] == {**first[1]["settings"], name: value}
    difference = np.abs(np.asarray(Image.open(path), int) - first[0])
    assert difference.max() > 0
    if name == "top_k":
        assert len(report["labels"]) == value
    if name == "mff":
        assert report["local_control_share"] == 1.0 > first[1]["local_control_share"]


def test_own_labels_replace_the_predicted_ones_and_change_the_result(first, photo_file, tmp_path):
    handlers = Handlers(tiny_pipe(), {})
    settings = handlers.check({**SETTINGS, "labels": ["sea", "boat"]})
    done = handlers.upscale(read_photo(photo_file), settings, tmp_path)
    assert [label["name"] for label in done.report["labels"]] == ["sea", "boat"]
    assert not np.array_equal(np.asarray(Image.open(done.result)), first[0])


def test_progress_counts_the_steps(photo_file, tmp_path):
    seen = []
    handlers = Handlers(tiny_pipe(), {})
    settings = handlers.check({**SETTINGS, "steps": 4})
    job = Job(lambda watch: handlers.upscale(read_photo(photo_file), settings, tmp_path, watch=watch), Watch())
    for update in job.updates():
        seen.append((update.stage, update.step))
        assert update.steps in (0, 4)
    assert seen == sorted(
        seen, key=lambda entry: (("waiting", "looking", "denoising", "finishing", "done").index(entry[0]), entry[1])
    )
    assert seen[-1] == ("done", 4) and update.result.result.exists() and update.seconds_left == 0


def test_segment_tells_the_same_as_upscale(client, photo_file, first):
    overlay, report = client.predict(handle_file(photo_file), top_k=2, api_name="/segment")
    assert Image.open(overlay).size == (96, 80)
    for key in ("labels", "prompt", "regions", "input_size"):
        assert report[key] == first[1][key]


def test_only_the_documented_endpoints_can_be_called(url):
    for dependency in httpx.get(f"{url}/config", timeout=30).json()["dependencies"]:
        assert dependency["api_visibility"] == "private" or dependency["api_name"] in ("upscale", "segment", "preview")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "0"), ("steps", "21"), ("steps", "2.5"), ("steps", "NaN"), ("steps", "null"), ("steps", '"3"'), ("steps", "true"),
        ("guidance_scale", "0.5"), ("guidance_scale", "Infinity"), ("guidance_scale", "[2]"), ("guidance_scale", "1e400"),
        ("top_k", "11"), ("top_k", "NaN"), ("mff", "1"), ("mff", '"yes"'), ("mff", "null"),
        ("seed", "-1"), ("seed", "NaN"), ("seed", "4294967296"), ("seed", '"' + "9" * 100_000 + '"'),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_refused_by_name(url, name, value):
    values = {key: json.dumps(entry) for key, entry in SETTINGS.items()}
    answer = post(url, f"[null, {', '.join({**values, name: value}.values())}]")
    assert answer.startswith("event: error")
    assert f"{name} is " in answer and "accepted: " in answer and "Traceback" not in answer and len(answer) < 600


@pytest.mark.parametrize(
    "image",
    [
        "null", "5", '"/etc/hostname"', "[]", "{}", '{"path": 3}', '{"path": "/etc/hostname"}',
        '{"path": "/proc/self/environ", "meta": {}}',
        '{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}', '{"path": "a\\u0000b"}',
        '{"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("fn", ["upscale", "segment"])
def test_no_file_of_the_server_can_be_read(url, image, fn):
    settings = ", ".join(json.dumps(value) for value in SETTINGS.values()) if fn == "upscale" else "3"
    answer = post(url, f"[{image}, {settings}]", fn)
    assert answer.startswith("event: error")
    assert "Traceback" not in answer and socket.gethostname() not in answer


def test_a_path_that_climbs_out_of_the_upload_folder_is_refused(tmp_path, photo_file):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "mine.png").write_bytes(photo_file.read_bytes())
    (tmp_path / "private.png").write_bytes(photo_file.read_bytes())
    (uploads / "link.png").symlink_to(tmp_path / "private.png")
    assert open_upload({"path": str(uploads / "mine.png")}, uploads).size == (24, 20)
    for path in (uploads / ".." / "private.png", uploads / "link.png", tmp_path / "uploads-of-another" / "a.png"):
        with pytest.raises(ParameterError, match="image"):
            open_upload({"path": str(path)}, uploads)


def bomb(path: Path) -> Path:
    """A PNG of a few kilobytes that claims 13,000 x 13,000 pixels, and holds them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = 13_000
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def test_unusable_images_are_named_with_the_reason(client, photo_file, tmp_path, monkeypatch):
    decoded, load = [], ImageFile.ImageFile.load

    def note(image):
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", note)
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (8, 8)).save(tiny)
    cases = {
        text: "notes.png: this is not an image",
        tiny: "tiny.png: 8 x 8 pixels are too few",
        bomb(tmp_path / "b.png"): "too many",
    }
    for path, reason in cases.items():
        with pytest.raises(AppError, match=re.escape(reason)):
            client.predict(handle_file(path))
    assert not decoded, "a refusal needs the size alone; the pixels take long and much memory"
    read_photo(photo_file)
    assert set(decoded) == {(24, 20)}  # what is accepted is decoded, and noted


def test_an_upload_name_cannot_carry_markup_into_the_page(tmp_path):
    with pytest.raises(gr.Error) as caught, errors_for_people():
        raise ImageError("<img src=x onerror=alert(1)>.png", "damaged")
    assert "<" not in caught.value.message and "&lt;img" in caught.value.message
    assert result_name({"orig_name": "../../<x> \u0416.jpeg"}) == "x-4x.png"
    assert result_name({"orig_name": "\u732b.jpg"}) == "sisrm-4x.png"


def test_an_unforeseen_error_shows_no_inner_detail():
    with pytest.raises(gr.Error) as caught, errors_for_people("zh"):
        raise RuntimeError("/srv/secret/path: CUDA error")
    assert caught.value.message == TEXTS["zh"]["failed"]


def test_both_languages_say_the_same_things_and_every_text_is_used():
    def placeholders(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for key in TEXTS["en"]:
        assert placeholders(TEXTS["en"][key]) == placeholders(TEXTS["zh"][key]), key
    folder = Path(inspect.getfile(sisrm.ui)).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if not path.name.startswith("texts"))
    scripts = "".join(path.read_text() for path in folder.glob("static/*.js"))
    made_up = (
        {f"{name}_info" for name in CONTROLS}
        | NOTICES.keys()
        | {
            "part_sca",
            "part_controlnet",
            "part_image_encoder",
        }
    )
    unused = [
        key
        for key in TEXTS["en"]
        if key not in made_up
        and f'"{key}"' not in source
        and f"texts.{key}" not in scripts
        and not (key.startswith("panel_") and f"'{key[6:]}'" in scripts)
    ]
    assert not unused


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "en"),
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,zh;q=0.5", "en"),
        ("fr,zh;q=0.3,en;q=0.2", "zh"),
        (";;q=x,", "en"),
    ],
)
def test_language_follows_the_browser(header, expected):
    assert language(header) == expected
