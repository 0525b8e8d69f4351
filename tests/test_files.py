"""Every kind of file a visitor may have: colours, depth, transparency and turns as they should be, bombs refused at once."""

import io
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from test_images import photo, pixels, save

from sisrm.conversion import fill_transparent, with_alpha
from sisrm.errors import ImageError, ParameterError
from sisrm.images import NOTICES, RESULT_EXTENSIONS, read_image, read_photo, write_image
from sisrm.made_with import read_made_with
from sisrm.metadata import MAX_SCANS

SECRET = "GPS 48.2082 N camera 4711"


def refused(path) -> str:
    """The reason that a file is refused with, in well under a second of processor time."""
    started = time.thread_time()
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    assert time.thread_time() - started < 0.7
    assert "\n" not in caught.value.reason and str(path.parent) not in str(caught.value)
    return caught.value.reason


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(path, values: np.ndarray, colour_type: int, more: bytes = b""):
    """A 16-bit PNG of (h, w, c) values; Pillow writes only grey ones."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- turns ---


def turned(orientation: int) -> Image.Image:
    """The pixels that an upright photo is stored with under an EXIF orientation."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    return photo().transpose(inverse[orientation]) if orientation in inverse else photo()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".avif", ".heic"])
def test_every_turn_of_every_format_is_undone_once(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{ending}"
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 98, "subsampling": 0},
               ".avif": {"quality": 100, "subsampling": "4:4:4"}}.get(ending, {})  # fmt: skip
    if ending == ".heic":
        heic = pillow_heif.from_pillow(turned(orientation))
        heic.save(path, quality=-1, chroma=444, matrix_coefficients=0, exif=exif.tobytes())
    else:
        turned(orientation).save(path, exif=exif, **options)
    read = read_photo(path).image
    assert read.size == photo().size and read.info == {}
    assert np.abs(pixels(read) - pixels(photo())).max() < 12


# --- depth and colour ---


def test_sixteen_bit_colour_and_its_transparency(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 4))
    expected = values // 257
    plain = read_photo(deep_png(tmp_path / "rgb.png", values[..., :3], 2))
    assert np.abs(pixels(plain.image) - expected[..., :3]).max() <= 1 and plain.alpha is None
    seen = read_photo(deep_png(tmp_path / "rgba.png", values, 6))
    visible = pixels(seen.alpha) > 0
    assert np.abs(pixels(seen.alpha) - expected[..., 3]).max() <= 1
    assert np.abs(pixels(seen.image) - expected[..., :3])[visible].max() <= 1


def test_sixteen_bit_grey_with_one_transparent_value(tmp_path):
    values = np.arange(20 * 30).reshape(20, 30, 1) * 100
    seen = read_photo(deep_png(tmp_path / "a.png", values, 0, chunk(b"tRNS", struct.pack(">H", 300))))
    assert np.array_equal(pixels(seen.alpha) == 0, values[..., 0] == 300)


def test_ycck_jpeg_of_adobe(tmp_path):
    cmyk = np.zeros((24, 40, 4), np.uint8)
    cmyk[..., :3] = 255 - pixels(photo())  # what the file means: cyan, magenta and yellow without black
    stored = 255 - cmyk  # Adobe keeps all four inverted, and the first three as YCC of their inverse
    ycc = np.asarray(Image.fromarray(255 - stored[..., :3]).convert("YCbCr"))
    written = 255 - np.concatenate([ycc, stored[..., 3:]], -1)  # Pillow inverts once more
    path = save(tmp_path / "a.jpg", Image.fromarray(written, "CMYK"), quality=98, subsampling=0)
    data = bytearray(path.read_bytes())
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    data[adobe + 11] = 2
    path.write_bytes(data)
    assert np.abs(pixels(read_image(path)) - pixels(photo())).max() < 16


def test_a_heic_file_of_ten_bits(tmp_path):
    values = np.zeros((24, 40, 3), np.uint16)
    values[..., 0], values[..., 1] = np.linspace(0, 65535, 40), np.linspace(0, 65535, 24)[:, None]
    heic = pillow_heif.from_bytes(mode="RGB;16", size=(40, 24), data=values.tobytes())
    heic.save(tmp_path / "a.heic", quality=-1, chroma=444, matrix_coefficients=0)
    assert pillow_heif.open_heif(tmp_path / "a.heic", convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert np.abs(pixels(read_image(tmp_path / "a.heic")) - np.round(values / 257)).max() <= 1


WHITE = (0.9642, 1.0, 0.8249)  # of all profiles, in XYZ


def ink_profile(inks: Image.Image) -> bytes:
    """A CMYK profile: the colours (sRGB) of the 16 ways to print each ink or not, black varying fastest."""
    lab = ImageCms.profileToProfile(
        inks, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    table = (np.asarray(lab).reshape(16, 3) ^ [0, 128, 128]).astype(np.uint8).tobytes()  # Pillow keeps a and b signed
    one = struct.pack(">i", 65536)
    matrix = b"".join(one if index % 4 == 0 else bytes(4) for index in range(9))
    ramp = bytes(range(256))
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(81),
            b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(65536 * value) for value in WHITE)),
            b"A2B0": b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + table + 3 * ramp}  # fmt: skip
    return profile_of(tags, b"prtrCMYKLab ")


def test_cmyk_jpeg_with_a_colour_profile(tmp_path):
    colours = np.random.default_rng(5).integers(30, 226, (1, 16, 3), dtype=np.uint8)
    colours[0, 0], colours[0, 15] = 255, 0  # else the darkest would be stretched to black
    inks = Image.fromarray(colours)
    printed = (
        np.array([[index >> 3 & 1, index >> 2 & 1, index >> 1 & 1, index & 1] for index in range(16)], np.uint8) * 255
    )
    cmyk = Image.fromarray(printed[None], "CMYK").resize((256, 32), Image.Resampling.NEAREST)
    path = save(tmp_path / "a.jpg", cmyk, quality=98, icc_profile=ink_profile(inks))
    read = pixels(read_image(path))[8, 8::16]
    assert np.abs(read - pixels(inks)[0]).max() < 10
    assert np.abs(pixels(cmyk.convert("RGB"))[8, 8::16] - pixels(inks)[0]).mean() > 40


def matrix_profile(name: bytes, primaries, curve: bytes) -> bytes:
    """An RGB display profile from its primaries (XYZ at D50), or a grey one where there are none; tag by tag."""

    def fixed(values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    desc = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" + b"\0" * 78
    tags = {b"desc": desc + b"\0" * (-len(desc) % 4), b"wtpt": b"XYZ \0\0\0\0" + fixed(WHITE)}
    for channel, primary in zip((b"r", b"g", b"b"), [] if primaries is None else primaries):
        tags |= {channel + b"XYZ": b"XYZ \0\0\0\0" + fixed(primary), channel + b"TRC": curve}
    if primaries is None:
        tags[b"kTRC"] = curve
    return profile_of(tags, b"mntr" + (b"GRAY" if primaries is None else b"RGB ") + b"XYZ ")


def profile_of(tags: dict[bytes, bytes], kind: bytes) -> bytes:
    """An ICC profile; `kind`: its class, the colours it describes and those it is connected by."""
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data
    white = struct.pack(">iii", *(round(65536 * value) for value in WHITE))
    header = struct.pack(">I", offset + len(body)) + b"\0" * 4 + b"\x02\x10\0\0" + kind
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


SRGB = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]])
P3 = np.array([[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]])
ADOBE = np.array([[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]])


def in_srgb(values: np.ndarray, primaries: np.ndarray, power: float) -> np.ndarray:
    linear = (values / 255) ** power @ primaries @ np.linalg.inv(SRGB)
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("name", "primaries"), [(b"Display P3", P3), (b"Adobe RGB (1998)", ADOBE)])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif", ".heic"])
def test_wide_colours_become_srgb(tmp_path, ending, name, primaries):
    values = np.random.default_rng(0).integers(60, 200, (6, 3)).astype(np.uint8)
    source = Image.fromarray(values.reshape(2, 3, 3).repeat(16, 0).repeat(16, 1))
    profile = matrix_profile(name, primaries, gamma(2.19921875))
    path = tmp_path / f"a{ending}"
    if ending == ".heic":
        heic = pillow_heif.from_pillow(source)
        heic.info["icc_profile"] = profile
        heic.save(path, quality=-1, chroma=444, matrix_coefficients=0)
    else:
        options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True},
                   ".avif": {"quality": 100, "subsampling": "4:4:4"}}.get(ending, {})  # fmt: skip
        source.save(path, icc_profile=profile, **options)
    read = pixels(read_image(path))[8::16, 8::16].reshape(6, 3)
    exact = in_srgb(values, primaries, 2.19921875)
    inside = (exact > 1) & (exact < 254)
    assert np.abs(read - exact)[inside].max() < (6 if ending in (".jpg", ".avif") else 2.5)
    assert np.abs(read - values).max() > 6


def test_grey_profile_and_lab(tmp_path):
    grey = Image.new("L", (20, 20), 128)
    path = save(tmp_path / "a.png", grey, icc_profile=matrix_profile(b"linear grey", None, gamma(1.0)))
    assert abs(read_image(path).getpixel((3, 3))[0] - 188) <= 1
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (20, 20), (200, 80, 40)), to_lab)
    read = read_image(save(tmp_path / "b.tif", lab)).getpixel((3, 3))
    assert np.abs(np.array(read) - (200, 80, 40)).max() <= 4


def srgb_curve() -> bytes:
    values = np.linspace(0, 1, 1024)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.round(linear * 65535).astype(">u2").tobytes()


def test_a_profile_is_known_by_its_colours_and_not_by_its_name(tmp_path):
    values = np.random.default_rng(1).integers(10, 245, (20, 30, 3)).astype(np.uint8)
    source = Image.fromarray(values)
    linear = save(tmp_path / "a.png", source, icc_profile=matrix_profile(b"sRGB-elle-V2-g10.icc", SRGB, gamma(1.0)))
    exact = in_srgb(values, SRGB, 1.0)
    assert np.abs(pixels(read_image(linear)) - exact).max() < 2.5 and np.abs(exact - values).max() > 60
    for name in (b"sRGB IEC61966-2.1", b"c2"):
        same = save(tmp_path / "b.png", source, icc_profile=matrix_profile(name, SRGB, srgb_curve()))
        assert np.array_equal(pixels(read_image(same)), values)


def test_grey_with_a_transparent_value_keeps_its_profile(tmp_path):
    grey = Image.fromarray(np.tile(np.arange(100, 150, dtype=np.uint8), (20, 1)))
    profile = matrix_profile(b"linear grey", None, gamma(1.0))
    plain = read_photo(save(tmp_path / "a.png", grey, icc_profile=profile))
    keyed = read_photo(save(tmp_path / "b.png", grey, icc_profile=profile, transparency=140))
    seen = pixels(keyed.alpha) > 0
    assert 0 < (~seen).sum() < seen.size
    assert np.array_equal(pixels(keyed.image)[seen], pixels(plain.image)[seen]) and pixels(plain.image)[0, 28, 0] == 188


@pytest.mark.parametrize("ending", RESULT_EXTENSIONS)
def test_results_are_tagged_as_srgb_and_are_the_same_file_every_time(tmp_path, ending):
    one, two = (write_image(photo(), tmp_path / f"{name}{ending}", {"seed": 1}) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as image:
        if ending == ".png":
            assert image.info["srgb"] == 0
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile
            assert profile.profile_description.startswith("sRGB")
            assert image.getexif().get_ifd(0x8769)[0xA001] == 1 and image.getexif()[0x010E] == '{"seed": 1}'
    assert np.abs(pixels(read_image(one)) - pixels(photo())).max() < (9 if "jp" in ending else 1)


def test_a_result_of_another_kind_is_refused_by_name(tmp_path):
    with pytest.raises(ParameterError, match="ending in .png"):
        write_image(photo(), tmp_path / "a.gif")


# --- transparency ---


def cut_out() -> Image.Image:
    """A disc with a soft edge; under full transparency lies black with something written in it."""
    y, x = np.mgrid[0:48, 0:64]
    alpha = np.clip(20 - np.hypot(x - 32, y - 24), 0, 1) * 255
    values = np.dstack([np.full((48, 64), 200), 90 + x, 60 + 2 * y, alpha]).astype(np.uint8)
    values[..., :3][alpha == 0] = 0
    values[0, :10, 0] = 255
    return Image.fromarray(values)


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".avif", ".heic"])
def test_transparency_is_read_apart_and_its_colours_stay_pure(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    options = {".webp": {"lossless": True, "exact": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}}
    if ending == ".heic":
        pillow_heif.from_pillow(cut_out()).save(path, quality=-1, chroma=444)
    else:
        cut_out().save(path, **options.get(ending, {}))
    seen = read_photo(path)
    before = pixels(cut_out())
    assert seen.image.mode == "RGB" and seen.alpha.mode == "L" and seen.image.info == seen.alpha.info == {}
    close = 8 if ending in (".avif", ".heic") else 0
    assert np.abs(pixels(seen.alpha) - before[..., 3]).max() <= close
    opaque = before[..., 3] == 255
    assert np.abs(pixels(seen.image) - before[..., :3])[opaque].max() <= 3 * close
    # Neither the black nor what was written in it is left; the disc's own colours go on.
    assert pixels(seen.image)[..., 0].min() > 180 and pixels(seen.image)[0, :10, 0].max() < 230


def test_an_enlarged_cut_out_has_no_dark_or_white_rim():
    seen = fill_transparent(cut_out().convert("RGB"), cut_out().getchannel("A"))
    large = with_alpha(seen.resize((256, 192), Image.Resampling.BICUBIC), cut_out().getchannel("A"))
    values = pixels(large)
    visible = values[..., 3] > 8
    assert large.mode == "RGBA" and np.abs(values[visible][:, 0] - 200).max() <= 4
    assert values[96, 128, 3] == 255 and values[0, 0, 3] == 0
    share = (values[..., 3] / 255).mean() / (pixels(cut_out())[..., 3] / 255).mean()
    assert share == pytest.approx(1, abs=0.01)


def test_opaque_and_fully_transparent_pictures(tmp_path):
    assert read_photo(save(tmp_path / "a.png", photo().convert("RGBA"))).alpha is None
    assert with_alpha(photo(), None).mode == "RGB"
    empty = photo().convert("RGBA")
    empty.putalpha(0)
    seen = read_photo(save(tmp_path / "b.png", empty))
    assert pixels(seen.alpha).max() == 0 and pixels(seen.image).max() == 0


@pytest.mark.parametrize("ending", RESULT_EXTENSIONS)
def test_results_keep_transparency_or_show_it_on_white(tmp_path, ending):
    with Image.open(write_image(cut_out(), tmp_path / f"a{ending}")) as image:
        if "jp" in ending:
            assert image.mode == "RGB" and min(image.getpixel((63, 47))) > 250
            assert np.abs(np.array(image.getpixel((32, 24))) - cut_out().getpixel((32, 24))[:3]).max() < 8
        else:
            assert np.array_equal(pixels(image), pixels(cut_out()))


# --- several pictures in one file ---


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".tif", ".avif"])
def test_the_first_of_several_pictures_is_used_and_that_is_said(tmp_path, ending):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"a{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    seen = read_photo(path)
    assert seen.notices == ("first_frame",) and "first" in NOTICES["first_frame"]
    assert np.abs(np.array(seen.image.getpixel((9, 9))) - (255, 0, 0)).max() < 5
    frames[0].save(path)
    assert read_photo(path).notices == ()


def test_a_heic_file_of_several_pictures_shows_its_main_one(tmp_path):
    several = pillow_heif.HeifFile()
    for colour in ("red", "blue"):
        several.add_from_pillow(Image.new("RGB", (32, 32), colour))
    several.save(tmp_path / "a.heic", quality=-1, primary_index=1)
    seen = read_photo(tmp_path / "a.heic")
    assert seen.notices == ("first_frame",) and seen.image.getpixel((3, 3))[2] > 240


def test_the_second_picture_of_a_camera_is_not_worth_a_notice(tmp_path):
    save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[photo()])
    assert read_photo(tmp_path / "a.jpg").notices == ()


@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg"])
def test_the_command_line_keeps_transparency_and_tells_notices(tmp_path, capsys, ending):
    from conftest import tiny_pipe

    from sisrm.cli import main

    tiny_pipe().save_pretrained(tmp_path / "weights")
    small = cut_out().resize((32, 24))
    small.save(tmp_path / "in.png", save_all=True, append_images=[small.rotate(180)])
    target = tmp_path / f"out{ending}"
    arguments = ["upscale", tmp_path / "in.png", "-o", target, "--preset", tmp_path / "weights", "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    assert NOTICES["first_frame"] in capsys.readouterr().err
    with Image.open(target) as image:
        assert image.size == (128, 96) and image.mode == ("RGB" if ending == ".jpg" else "RGBA")
        assert image.getpixel((0, 0))[:3] == (255, 255, 255) if ending == ".jpg" else image.getpixel((0, 0))[3] == 0


def test_the_page_says_that_only_the_first_picture_was_used():
    from sisrm.ui.panels import made

    report = {"input_size": [1, 2], "output_size": [4, 8], "timings": {"total": 1.0}, "seed": 1}
    assert "several pictures" in made({**report, "notices": [{"code": "first_frame", "text": ""}]})
    assert "notice" not in made({**report, "notices": []})


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.svg", b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "an SVG"),
        ("a.png", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "a PostScript"),
        ("a.mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video"),
        ("a.mov", b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "a video"),
        ("a.webm", b"\x1aE\xdf\xa3\x01\0\0\0", "a video"),
        ("a.avi", b"RIFF\0\0\1\0AVI LIST", "a video"),
        ("a.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        ("a.docx", b"PK\x03\x04\x14\0", "an archive or an office document"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
        ("a.psd", b"8BPS\0\1", "a Photoshop document"),
        ("a.gz", b"\x1f\x8b\x08\0", "an archive"),
    ],
)  # fmt: skip
def test_what_is_no_photo_is_called_by_its_name(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content + bytes(200))
    assert f"this is {kind}" in refused(path) and "not an image" in refused(path)


def test_raw_files_of_cameras_are_not_taken_for_their_preview(tmp_path):
    path = save(tmp_path / "a.dng", format="TIFF", tiffinfo={50706: b"\1\4\0\0"})
    assert "raw file" in refused(path)


def test_extreme_aspect_ratios(tmp_path):
    assert read_image(save(tmp_path / "a.png", photo(16 * 16, 16))).size == (256, 16)
    assert "16:1" in refused(save(tmp_path / "b.png", photo(16 * 16 + 1, 16)))
    assert "16:1" in refused(save(tmp_path / "c.png", photo(17, 600)))


def test_more_pixels_than_allowed_are_refused_from_the_header_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SISRM_MAX_PIXELS", "1048576")
    huge, paths = Image.new("1", (9000, 9000)), []
    for ending in (".png", ".tif", ".gif", ".bmp", ".webp", ".avif"):
        options = {".tif": {"compression": "group4"}, ".avif": {"speed": 10}}.get(ending, {})
        image = Image.new("L", (1500, 1500)) if ending in (".webp", ".avif") else huge
        paths.append(save(tmp_path / f"a{ending}", image, **options))
    paths.append(tmp_path / "a.heic")
    pillow_heif.from_pillow(Image.new("L", (1100, 1100))).save(paths[-1], quality=10)

    def decode(image):
        raise AssertionError(f"pixels of a {image.format} file are decoded")

    Image.init()
    kinds = [Image.Image]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if "load" in vars(kind):
            monkeypatch.setattr(kind, "load", decode)
    for path in paths:
        assert "too many" in refused(path), path.suffix
        with pytest.raises(ImageError, match="damaged"):  # what is asked for its pixels comes to them
            read_photo(path, max_pixels=10**8)


def test_a_heic_file_that_lies_about_its_size(tmp_path):
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.new("L", (1100, 1100))).save(path, quality=10)
    data = bytearray(path.read_bytes())
    position = data.find(b"ispe")
    while position >= 0:
        data[position + 8 : position + 16] = struct.pack(">II", 100, 100)
        position = data.find(b"ispe", position + 4)
    path.write_bytes(data)
    refused(path)


def test_a_jpeg_of_very_many_scans(tmp_path):
    path = save(tmp_path / "a.jpg", photo(1000, 1000), progressive=True)
    assert read_image(path).size == (1000, 1000)
    data = path.read_bytes()
    scan = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + scan * MAX_SCANS + data[-2:])
    assert "scans" in refused(path)


def directory(fields: int, size: int) -> bytes:
    """The start of a TIFF or EXIF block whose fields all claim the same bytes, from the start of the file."""
    entries = b"".join(struct.pack("<HHLL", 300 + index, 7, size, 0) for index in range(fields))
    return b"II*\0" + struct.pack("<LH", 8, fields) + entries + bytes(4)


def test_metadata_that_refers_to_the_same_bytes_over_and_over(tmp_path):
    size = 4_000_000
    path = tmp_path / "a.tif"
    path.write_bytes(directory(5000, size) + bytes(size))  # 20 GB when every field is copied
    refused(path)
    blocks = [directory(5000, 60_000), *[bytes(65_000)] * 20]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block for block in blocks)
    plain = save(tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(plain[:2] + segments + plain[2:])
    assert "metadata" in refused(tmp_path / "b.jpg")


def claims(head: bytes, fields: int, kind: int, count: int, size: int, tag: int = 300) -> bytes:
    """A directory file of `size` bytes whose fields hold `count` values each, all from its first bytes on."""
    order, large = "<" if head[:2] == b"II" else ">", head[2] == 43
    entry, start = ("HHQQ", struct.pack(order + "HHQQ", 8, 0, 16, fields)) if large else ("HHLL", struct.pack(order + "LH", 8, fields))
    entries = b"".join(struct.pack(order + entry, tag + index, kind, count, 0) for index in range(fields))
    return (head + start + entries).ljust(size, b"\0")


def segment(code: int, content: bytes) -> bytes:
    return bytes([255, code]) + struct.pack(">H", len(content) + 2) + content


OVERLAPPING = claims(b"II*\0", 40, 7, 60_000, 65_000)


@pytest.mark.parametrize(
    "more",
    [
        segment(0xE2, b"MPF\0" + claims(b"II*\0", 100, 3, 30_000, 65_000)),
        segment(0xE2, b"MPF\0" + claims(b"II*\0", 4, 5, 8_000, 65_000, 0xC000) + b"\0") + segment(0xE2, b"MPF\0" + OVERLAPPING),
        *[segment(0xE1, b"Exif\0\0" + claims(head, 40, 7, 60_000, 65_000)) for head in (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"MM\0+")],
        b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + OVERLAPPING),
        b"\xff\xd9" + segment(0xE1, b"Exif\0\0" + OVERLAPPING),
        b"\xff\x00\0\0\xff\xff" + segment(0xE1, b"Exif\0\0" + OVERLAPPING),
        segment(0xE1, b"Exif\0\0Exif\0\0" + OVERLAPPING),
        segment(0xE1, b"Exif\0\0" * 10_000),
        b"\xff" * 100_000 + segment(0xE1, b"Exif\0\0" + OVERLAPPING),
    ],
)  # fmt: skip
def test_metadata_bombs_that_pillow_would_find_in_a_jpeg(tmp_path, more):
    plain = save(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(plain[:2] + more + plain[2:])
    assert refused(tmp_path / "a.jpg").startswith("the image header is damaged: ")


def test_fractions_without_number_in_exif(tmp_path):
    """Each is an object with a Fraction of its own, and Pillow looks for the resolution by itself."""
    block = claims(b"II*\0", 2, 5, 70_000, 600_000, 282)
    pieces = [block[start : start + 65_000] for start in range(0, len(block), 65_000)]
    plain = save(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(plain[:2] + b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces) + plain[2:])
    assert "too many values" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize("ending", [".png", ".webp", ".avif"])
def test_metadata_bombs_in_other_formats(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", exif=b"Exif\0\0" + OVERLAPPING)
    assert "metadata" in refused(path)
    data = path.read_bytes()
    assert data.count(OVERLAPPING) == 1
    path.write_bytes(data.replace(OVERLAPPING, claims(b"MM*\0", 40, 7, 60_000, 65_000)))
    if ending != ".png":  # whose checksum is wrong now
        assert "header is damaged" in refused(path)


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0"])
def test_tiff_directories_of_very_many_values(tmp_path, head):
    path = tmp_path / "a.tif"
    path.write_bytes(claims(head, 2, 5, 70_000, 600_000, 282))
    assert "too many values" in refused(path)
    path.write_bytes(claims(head, 30, 3, 140_000, 5_000_000))
    assert "too many values" in refused(path)


def test_a_tiff_file_of_few_values_in_very_many_fractions_behind_its_first_directory(tmp_path):
    plain = save(tmp_path / "a.tif", tiffinfo={0x8769: 8}).read_bytes()
    more = bytearray(claims(b"II*\0", 2, 5, 70_000, 600_000, 282))
    place = plain.index(struct.pack("<HHL", 0x8769, 4, 1)) + 8
    (tmp_path / "a.tif").write_bytes(plain[:place] + struct.pack("<L", len(plain) + 8) + plain[place + 4 :] + more)
    assert "too many values" in refused(tmp_path / "a.tif")


def test_genuine_metadata_is_no_bomb(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x011A] = "a camera", 300.0
    exif.get_ifd(0x8769)[0x927C] = bytes(range(256)) * 200  # what the maker alone can read
    path = save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[photo(), photo(80, 48)], exif=exif)
    data = path.read_bytes()
    with Image.open(path) as image:
        assert image.format == "MPO" and image.n_frames == 3
    assert b"MPF\0" in data and read_photo(path).size == photo().size
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:] + b"\0\0\0\x18ftypmp42" + b"\xff\xe1\xff\xff" * 3000)  # a moving picture
    assert read_photo(path).size == photo().size
    for options in ({"big_tiff": True}, {"strip_size": 1}, {"tiffinfo": exif}):
        assert read_photo(save(tmp_path / "b.tif", photo(400, 900), **options)).size == (400, 900)


def test_a_large_file_of_zeros_is_no_heic_file_within_a_second(tmp_path):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(32 * 2**20))
    refused(path)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_what_a_result_was_made_with_is_read_without_a_pixel_and_without_bombs(tmp_path, monkeypatch, name):
    path = write_image(photo(), tmp_path / name, {"seed": 4, "scale": "4×"})
    plain = save(tmp_path / f"plain{name}")
    bomb = save(tmp_path / f"bomb{name}", exif=b"Exif\0\0" + OVERLAPPING[:60_000])
    monkeypatch.setattr(PngImageFile, "load", lambda image: pytest.fail("a pixel is decoded"))
    monkeypatch.setattr(Image.Exif, "__getitem__", lambda *_: {}[0])
    monkeypatch.setattr(Image.Image, "getexif", lambda image: pytest.fail("fields are decoded"))
    monkeypatch.setattr(JpegImageFile, "_read_dpi_from_exif", lambda image: None)
    assert read_made_with(path) == read_made_with(path, ours=True) == {"seed": 4, "scale": "4×"}
    assert read_made_with(plain) == read_made_with(bomb) == {}


def flood(ending: str, plain: bytes) -> bytes:
    """A file of some megabytes whose header is made of hundreds of thousands of empty records."""
    if ending == ".png":
        return plain[:33] + chunk(b"teSt", b"") * 500_000 + plain[33:]
    if ending == ".jpg":
        return plain[:2] + b"\xff\xe5\x00\x02" * 1_000_000 + plain[2:]
    if ending == ".gif":  # a comment in pieces: each is added to a copy of all before
        return plain[:-1] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 60_000 + b"\0" + plain[-1:]
    return b"P6\n" + b"#a\n" * 5_000_000 + b"16 16 255\n" + bytes(768)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".gif", ".ppm"])
def test_headers_of_very_many_records_do_not_take_long(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(flood(ending, save(path).read_bytes()))
    started = time.thread_time()
    try:
        read_photo(path)
    except ImageError as error:
        assert str(tmp_path) not in str(error)
    assert time.thread_time() - started < 1.5


def test_text_that_unpacks_to_very_much(tmp_path):
    plain = save(tmp_path / "a.png").read_bytes()
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(100_000_000), 9))
    (tmp_path / "a.png").write_bytes(plain[:33] + bomb + plain[33:])
    refused(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".heic", ".avif", ".bmp"])
def test_more_truncated_files(tmp_path, ending):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"a{ending}"
    pillow_heif.from_pillow(noise).save(path) if ending == ".heic" else noise.save(path)
    data = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        refused(path)


# --- metadata ---


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"])
def test_no_metadata_of_the_photo_is_in_the_result(tmp_path, ending):
    exif = Image.Exif()
    exif[0x010E] = exif[0xA431] = SECRET
    exif.get_ifd(0x8825)[29] = SECRET
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    profile = matrix_profile(SECRET.encode(), P3, gamma(2.2))
    path = tmp_path / f"a{ending}"
    if ending == ".heic":
        heic = pillow_heif.from_pillow(photo())
        heic.info["icc_profile"] = profile
        heic.save(path, exif=exif.tobytes(), xmp=xmp)
    else:
        text = PngInfo()
        text.add_text("Comment", SECRET)
        more = {".png": {"pnginfo": text}, ".jpg": {"comment": SECRET}, ".tif": {"tiffinfo": exif}}.get(ending, {})
        more |= {} if ending in (".png", ".tif") else {"xmp": xmp}
        photo().save(path, icc_profile=profile, **({} if ending == ".tif" else {"exif": exif}), **more)
    assert SECRET.encode() in path.read_bytes()
    for result_ending in RESULT_EXTENSIONS:
        result = write_image(read_photo(path).image, tmp_path / f"result{result_ending}").read_bytes()
        assert SECRET.encode() not in result and b"4711" not in result and b"x:xmpmeta" not in result
