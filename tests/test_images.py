"""Image files: correct pixels from every kind of file, one clear sentence for the others, whole files written."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from sisrm.errors import ImageError, ParameterError
from sisrm.images import (
    EXTENSIONS,
    MAX_PIXELS,
    MOST_PIXELS,
    RESULT_EXTENSIONS,
    pixel_limit,
    prepare_image,
    read_image,
    write_png,
)


def photo(width: int = 40, height: int = 24) -> Image.Image:
    """A smooth picture without symmetry, so that every wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = x * 255 / (width - 1), y * 255 / (height - 1), (x + 2 * y) * 255 / (width + 2 * height)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def save(path, image=None, **options):
    (image or photo()).save(path, **options)
    return path


@pytest.mark.parametrize("ending", [".png", ".webp", ".bmp", ".tif"])
def test_lossless_files_give_their_exact_pixels(tmp_path, ending):
    options = {"lossless": True} if ending == ".webp" else {}
    image = read_image(save(tmp_path / f"a{ending}", **options))
    assert image.mode == "RGB" and image.info == {}
    assert np.array_equal(pixels(image), pixels(photo()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = photo()
    turned = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.rotate(180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.rotate(90, expand=True),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.rotate(-90, expand=True),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", turned, exif=exif, quality=98, subsampling=0)
    assert np.abs(pixels(read_image(path)) - pixels(upright)).max() < 12


def test_tiff_orientation_is_applied_once(tmp_path):
    path = save(tmp_path / "a.tif", photo().rotate(90, expand=True), tiffinfo={0x0112: 6})
    assert np.array_equal(pixels(read_image(path)), pixels(photo()))


def test_transparency_is_composited_on_white(tmp_path):
    rgba = photo().convert("RGBA")
    alpha = np.zeros((24, 40), np.uint8)
    alpha[:, 20:] = 255
    rgba.putalpha(Image.fromarray(alpha))
    image = pixels(read_image(save(tmp_path / "a.png", rgba)))
    assert (image[:, :20] == 255).all()
    assert np.array_equal(image[:, 20:], pixels(photo())[:, 20:])


def test_grey_with_alpha_and_palette_transparency(tmp_path):
    grey = photo().convert("LA")
    grey.putalpha(Image.new("L", grey.size, 0))
    assert (pixels(read_image(save(tmp_path / "la.png", grey))) == 255).all()
    palette = photo().convert("P")
    index = palette.getpixel((0, 0))
    path = save(tmp_path / "p.png", palette, transparency=index)
    where = np.asarray(palette) == index
    read = pixels(read_image(path))
    assert (read[where] == 255).all()
    assert np.array_equal(read[~where], pixels(palette.convert("RGB"))[~where])


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 40 * 24).round().astype(np.uint16).reshape(24, 40)
    expected = np.round(values / 257).astype(int)
    for name in ("a.png", "a.tif"):
        image = pixels(read_image(save(tmp_path / name, Image.fromarray(values))))
        assert np.array_equal(image, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "F"])
def test_tiff_files_in_which_zero_is_white(tmp_path, mode):
    values = np.linspace(0, 65535, 40 * 24).round().astype(np.uint16).reshape(24, 40)
    seen = Image.fromarray((values // 256).astype(np.uint8)).convert(mode if mode == "1" else "L")
    stored = {"I;16": Image.fromarray(65535 - values), "F": Image.fromarray(np.float32(1 - values / 65535))}.get(
        mode, seen
    )
    path = save(tmp_path / "a.tif", stored, tiffinfo={262: 0})  # Pillow itself turns the first two round
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0 and image.mode == mode
    assert np.abs(pixels(read_image(path)) - pixels(seen.convert("RGB"))).max() <= 1


def test_floating_point_grey_covers_zero_to_one(tmp_path):
    values = np.linspace(0, 1, 40 * 24, dtype=np.float32).reshape(24, 40)
    image = pixels(read_image(save(tmp_path / "a.tif", Image.fromarray(values))))
    assert np.array_equal(image[..., 0], np.round(values * 255).astype(int))
    with pytest.raises(ImageError, match="between 0 and 1"):
        read_image(save(tmp_path / "b.tif", Image.fromarray(values * 100)))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    source = photo().convert(mode)
    path = save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), source)
    assert np.array_equal(pixels(read_image(path)), pixels(source.convert("RGB")))


def test_adobe_cmyk_jpeg_is_not_inverted(tmp_path):
    path = save(tmp_path / "a.jpg", photo().convert("CMYK"), quality=98)
    assert np.abs(pixels(read_image(path)) - pixels(photo())).mean() < 6


def wide_gamut_profile() -> bytes:
    """A matrix profile with Display P3's primaries and a gamma of 2.2, built tag by tag."""

    def fixed(values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(values)

    text = b"P3"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 78
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": desc + b"\0" * (-len(desc) % 4),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I", offset + len(body)) + b"\0" * 4 + b"\x02\x10\0\0" + b"mntrRGB XYZ " + b"\0" * 12
    header += b"acsp" + b"\0" * 28 + fixed((0.9642, 1.0, 0.8249))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_wide_gamut_profile_is_converted_to_srgb(tmp_path):
    source = Image.new("RGB", (20, 20), (200, 100, 100))
    image = read_image(save(tmp_path / "a.png", source, icc_profile=wide_gamut_profile()))
    red, green, blue = image.getpixel((5, 5))
    # The same numbers mean a more saturated red in P3, so in sRGB red grows and green shrinks.
    assert red > 208 and green < 97 and blue < 100
    assert "icc_profile" not in image.info


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read_image(save(tmp_path / "a.png", icc_profile=profile))
    assert np.array_equal(pixels(image), pixels(photo()))


def test_damaged_profile_is_passed_over(tmp_path):
    image = read_image(save(tmp_path / "a.png", icc_profile=b"not a profile at all"))
    assert np.array_equal(pixels(image), pixels(photo()))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


def test_extensions_cover_what_can_be_read():
    assert all(ending == ending.lower() and ending.startswith(".") for ending in EXTENSIONS)
    Image.init()
    assert all(ending in Image.registered_extensions() for ending in EXTENSIONS)


def refused(path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert caught.value.source == path.name and "\n" not in message
    assert str(path.parent) not in message
    return caught.value.reason


def test_missing_file_folder_and_empty_file(tmp_path):
    assert "no such file" in refused(tmp_path / "none.png")
    (tmp_path / "folder").mkdir()
    assert "not a file" in refused(tmp_path / "folder")
    (tmp_path / "empty.png").touch()
    assert "empty" in refused(tmp_path / "empty.png")


@pytest.mark.parametrize("name, content", [
    ("text.png", b"hello, this is no picture" * 10),
    ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>"),
    ("paper.pdf", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"),
    ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n"),
])  # fmt: skip
def test_other_files_are_no_images(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert "not an image" in refused(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".gif"])
def test_truncated_files_are_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{ending}", Image.fromarray(noise))
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        refused(path)


def test_size_limits_are_exact(tmp_path):
    assert read_image(save(tmp_path / "a.png", photo(16, 16))).size == (16, 16)
    assert "15 x 16" in refused(save(tmp_path / "b.png", photo(15, 16)))
    assert read_image(save(tmp_path / "c.png", Image.new("L", (4096, 4096)))).size == (4096, 4096)
    assert "4097 x 4096" in refused(save(tmp_path / "d.png", Image.new("L", (4097, 4096))))
    assert read_image(tmp_path / "d.png", max_pixels=17_000_000).size == (4097, 4096)


def test_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\0" * 20_000_000, 9)  # small on disk, larger than the memory of many machines when decoded
    for side in (13_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / f"{side}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
        started = time.perf_counter()
        assert "pixels" in refused(path)
        assert time.perf_counter() - started < 0.5


def test_pixel_limit_from_the_environment(tmp_path, monkeypatch):
    assert pixel_limit() == MAX_PIXELS
    monkeypatch.setenv("SISRM_MAX_PIXELS", "900")
    assert pixel_limit() == 900
    assert "at most 900" in refused(save(tmp_path / "a.png"))
    for wrong in ("many", "0", "-5", "1e6", str(MOST_PIXELS + 1)):
        monkeypatch.setenv("SISRM_MAX_PIXELS", wrong)
        with pytest.raises(ParameterError, match="SISRM_MAX_PIXELS"):
            pixel_limit()


def test_a_limit_above_that_of_pillow_counts(tmp_path, monkeypatch):
    side = 14_000  # 196 megapixels; Pillow by itself takes 179
    path = save(tmp_path / "a.tif", Image.new("1", (side, side)), compression="group4")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # as it was, afterwards
    assert "too many" in refused(path)

    def decode(image):
        raise OSError("the pixels are asked for")

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", decode)
    monkeypatch.setenv("SISRM_MAX_PIXELS", str(side * side - 1))
    assert f"at most {side * side - 1:,}" in refused(path)
    monkeypatch.setenv("SISRM_MAX_PIXELS", str(side * side))
    assert "damaged or incomplete" in refused(path)


def test_randomly_damaged_files_give_an_image_or_a_clear_error(tmp_path):
    generator = np.random.default_rng(1)
    outcomes = set()
    for ending in (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"):
        original = bytearray(save(tmp_path / f"a{ending}", photo(64, 48)).read_bytes())
        for _ in range(12):
            data = bytearray(original)
            for position in generator.integers(0, len(data), 6):
                data[position] = generator.integers(0, 256)
            path = tmp_path / f"b{ending}"
            path.write_bytes(data)
            try:
                outcomes.add(read_image(path).mode)
            except ImageError:
                outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


def test_prepare_image_follows_the_same_rules():
    assert np.array_equal(pixels(prepare_image(photo())), pixels(photo()))
    assert prepare_image(photo().convert("RGBA")).mode == "RGB"
    with pytest.raises(ImageError, match="image: 8 x 8"):
        prepare_image(photo(8, 8))
    original = photo()
    prepare_image(original).putpixel((0, 0), (9, 9, 9))
    assert original.getpixel((0, 0)) != (9, 9, 9)


def test_a_png_is_as_small_as_with_the_library_s_settings(tmp_path):
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 6, (256, 256, 3)).cumsum(0).cumsum(1)
    photo = Image.fromarray((np.abs(texture) % 256).astype(np.uint8)).resize((512, 512), Image.Resampling.BICUBIC)
    photo.paste((200, 210, 220), (0, 0, 512, 128))  # a flat sky
    photo.save(tmp_path / "plain.png")
    written = write_png(photo, tmp_path / "result.png")
    assert written.stat().st_size < 1.1 * (tmp_path / "plain.png").stat().st_size


def test_write_png_keeps_pixels_and_settings_only(tmp_path):
    source = photo()
    source.info = {"icc_profile": b"private", "comment": "private"}
    path = write_png(source, tmp_path / "out.png", {"seed": 7, "labels": ["sky", "日本"]})
    with Image.open(path) as read:
        assert np.array_equal(pixels(read), pixels(photo()))
        assert json.loads(read.text["sisrm"]) == {"seed": 7, "labels": ["sky", "日本"]}
        assert set(read.info) == {"sisrm", "srgb"}
    assert os.listdir(tmp_path) == ["out.png"]
    with Image.open(write_png(source, path)) as plain:
        assert set(plain.info) == {"srgb"}


def test_write_png_leaves_the_old_file_when_it_fails(tmp_path):
    path = write_png(photo(), tmp_path / "out.png")
    before = path.read_bytes()
    with pytest.raises(OSError):
        write_png(photo().convert("CMYK"), path)
    with pytest.raises(OSError):
        write_png(photo(), tmp_path / "missing" / "out.png")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["out.png"]


def test_read_from_a_text_path(tmp_path):
    assert read_image(str(save(tmp_path / "a.png"))).size == (40, 24)
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    assert prepare_image(Image.open(buffer)).size == (40, 24)


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
from sisrm.images import write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
target = Path(sys.argv[1])
size = write_image(image, target).stat().st_size
target.unlink()
for missing in (1, 500, size // 2, size - 10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, resource.RLIM_INFINITY))
    try:
        write_image(image, target)
        print("written", target.stat().st_size, "of", size)
    except OSError:
        print("refused", [path.name for path in target.parent.iterdir()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on the size of files")
@pytest.mark.parametrize("ending", RESULT_EXTENSIONS)
def test_a_result_for_which_the_disk_is_too_small_is_not_there_at_all(tmp_path, ending):
    command = [sys.executable, "-c", FULL, str(tmp_path / f"a{ending}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.splitlines() == ["refused []"] * 4
