"""Files and values that nobody wrote by hand: each gives a picture or one clear sentence, in time, and never a crash.

The damaged files are read by a process of their own, so that a decoder that dies or never returns is seen as what it is.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from sisrm.conversion import fill_transparent, with_alpha
from sisrm.errors import ImageError, ParameterError
from sisrm.images import MAX_ASPECT, MIN_SIDE, prepare_image, read_photo, write_image
from sisrm.ui.guard import check_inputs
from sisrm.ui.settings import CONTROLS, Settings, check_settings
from sisrm.ui.uploads import open_upload

ROOT = Path(__file__).resolve().parent.parent
SECONDS_PER_FILE = 3.0  # far more than any takes on a busy machine

READ_ALL = """
import json, sys, time
from pathlib import Path
from sisrm.errors import ImageError
from sisrm.images import read_photo
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(json.dumps({"start": path.name}), flush=True)
    started = time.perf_counter()
    try:
        outcome = read_photo(path).image.mode
    except ImageError as error:
        outcome = error.reason
    print(json.dumps({"end": path.name, "outcome": outcome, "seconds": time.perf_counter() - started}), flush=True)
"""


def own_pictures() -> dict[str, bytes]:
    """Small files of every format and most of their kinds."""
    y, x = np.mgrid[0:40, 0:56]
    rgb = Image.fromarray(np.stack([x * 4, y * 6, (x * y) % 256], -1).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray((x * 4).astype(np.uint8)))
    deep = Image.fromarray((x * 1000).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a camera"
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}
    kinds = {
        "a.png": (rgb, {"exif": exif}), "b.png": (rgba, {}), "c.png": (rgb.convert("P"), {"transparency": 3}), "d.png": (deep, {}),
        "e.png": (rgb.convert("1"), {}), "f.png": (rgb, frames), "a.jpg": (rgb, {"exif": exif}), "b.jpg": (rgb, {"progressive": True}),
        "c.jpg": (rgb.convert("CMYK"), {}), "d.jpg": (rgb.convert("L"), {}), "a.webp": (rgb, {"lossless": True}),
        "b.webp": (rgba, {"exif": exif}), "c.webp": (rgb, frames), "a.gif": (rgb, frames), "a.bmp": (rgb, {}),
        "b.bmp": (rgb.convert("P"), {}),
        "a.tif": (rgb, {}), "b.tif": (rgba, {"compression": "tiff_lzw"}), "c.tif": (deep, {"compression": "tiff_adobe_deflate"}),
        "d.tif": (rgb.convert("1"), {"compression": "group4"}), "e.tif": (rgb, {"compression": "jpeg"}), "f.tif": (rgb, frames),
        "a.avif": (rgb, {"exif": exif}), "b.avif": (rgba, {}),
    }  # fmt: skip
    files = {}
    for name, (image, options) in kinds.items():
        stream = io.BytesIO()
        image.save(stream, format={"jpg": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:].upper()), **options)
        files[name] = stream.getvalue()
    for name, image in (("a.heic", rgb), ("b.heic", rgba)):
        stream = io.BytesIO()
        pillow_heif.from_pillow(image).save(stream, quality=60)
        files[name] = stream.getvalue()
    return files


def damaged(data: bytes, kind: int, chance: random.Random, other: bytes) -> bytes:
    """One of eight kinds of damage; the header is hit as often as all the rest."""
    content = bytearray(data)

    def place() -> int:
        return chance.randrange(min(len(content), chance.choice((64, len(content)))))

    if kind == 0:
        return bytes(content[: place()])
    if kind == 1:
        for _ in range(chance.choice((1, 4, 30))):
            content[place()] = chance.randrange(256)
    elif kind == 2:
        content[place()] ^= 1 << chance.randrange(8)
    elif kind == 3:
        at = place()
        del content[at : at + chance.randrange(1, 40)]
    elif kind == 4:
        at = place()
        content[at:at] = content[at : at + chance.randrange(1, 200)]
    elif kind == 5:
        at = place()
        content[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
    elif kind == 6:
        content[len(content) // 2 :] = other[len(other) // 2 :]
    else:
        content[place() :] = bytes(chance.randrange(256) for _ in range(200))
    return bytes(content)


def test_hundreds_of_damaged_files_neither_crash_nor_hang(tmp_path):
    chance = random.Random(20)
    files = own_pictures()
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, data in files.items():
        for number in range(16):
            content = damaged(data, number % 8, chance, chance.choice(list(files.values())))
            (corpus / f"{number:02}{name}").write_bytes(content)
    count = len(list(corpus.iterdir()))
    assert count >= 300
    command = [sys.executable, "-W", "ignore", "-c", READ_ALL, str(corpus)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"at {lines[-1:]}: {done.stderr[-2000:]}"
    ends = [line for line in lines if "end" in line]
    assert len(ends) == count
    assert max(ends, key=lambda line: line["seconds"])["seconds"] < SECONDS_PER_FILE
    outcomes = [line["outcome"] for line in ends]
    assert outcomes.count("RGB") > 20 and len(outcomes) - outcomes.count("RGB") > 100
    assert all("\n" not in outcome and str(tmp_path) not in outcome and len(outcome) < 200 for outcome in outcomes)


quickly = settings(max_examples=60, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])  # fmt: skip
MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
]


@quickly
@given(st.sampled_from(MODES), st.integers(1, 300), st.integers(1, 300), st.integers(0, 255))
def test_every_size_and_mode_gives_rgb_or_a_clear_error(mode, width, height, value):
    image = Image.new(mode, (width, height))
    if mode in ("L", "RGB", "CMYK"):
        image.paste((value,) * len(image.getbands()) if mode != "L" else value, (0, 0, width, height))
    fits = min(width, height) >= MIN_SIDE and max(width, height) <= MAX_ASPECT * min(width, height)
    try:
        result = prepare_image(image)
    except ImageError as error:
        assert not fits or "kind" in error.reason
        return
    assert fits and result.mode == "RGB" and result.size == (width, height) and result.info == {}
    if mode in ("L", "RGB"):
        assert result.getpixel((width - 1, height - 1)) == (value,) * 3


@quickly
@given(st.binary(max_size=400), st.sampled_from(["", "png", "jpg", "gif", "heic", "tif", "webp", "bmp"]))
def test_any_bytes_are_refused_in_words(tmp_path, content, start):
    starts = {"": b"", "png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff\xe1", "gif": b"GIF89a", "heic": b"\0\0\0\x18ftypheic",
              "tif": b"II*\0\x08\0\0\0", "webp": b"RIFF\xff\0\0\0WEBPVP8 ", "bmp": b"BM"}  # fmt: skip
    path = tmp_path / "a"
    path.write_bytes(starts[start] + content)
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    assert caught.value.reason and "\n" not in caught.value.reason


@quickly
@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.sampled_from([".png", ".webp"]))
def test_transparency_of_any_shape_survives(tmp_path, data, height, width, ending):
    values = data.draw(arrays.arrays(np.uint8, (height, width, 4)))
    image = Image.fromarray(values)
    rgb, alpha = image.convert("RGB"), image.getchannel("A")
    filled = np.asarray(fill_transparent(rgb, alpha))
    visible = values[..., 3] > 0
    assert np.array_equal(filled[visible], values[..., :3][visible])
    result = with_alpha(rgb.resize((4 * width, 4 * height)), alpha)
    assert result.mode == "RGBA" and result.size == (4 * width, 4 * height)
    with Image.open(write_image(result, tmp_path / f"a{ending}")) as written:
        assert np.array_equal(np.asarray(written.convert("RGBA")), np.asarray(result))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["path", "meta", "url", "x"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
DEFAULTS = Settings(steps=1, guidance_scale=1.0, top_k=1, mff=True, seed=1)


@quickly
@given(st.sampled_from(list(CONTROLS)), ANYTHING, st.booleans())
def test_any_value_of_any_parameter_is_taken_or_refused_by_name(name, value, free_text):
    try:
        checked = check_settings({"seed": 1, name: value}, DEFAULTS, free_text)
    except ParameterError as error:
        assert error.name == name and error.accepted and len(str(error)) < 400
        return
    assert check_settings(checked.as_json(), DEFAULTS, free_text) == checked


@quickly
@given(ANYTHING)
def test_no_value_of_an_image_opens_a_file(tmp_path, value):
    with pytest.raises(ParameterError):
        open_upload(value, tmp_path)
    try:
        check_inputs([value], 1, tmp_path)
    except ParameterError as error:
        assert error.name in ("image", "data")
