"""Reading and writing image files: the one place where a user's file becomes pixels and pixels become a file.

A photo can lie about its size, hide its orientation in EXIF, carry another colour space, transparency or 16 bits per
channel. `read_photo` gives back what a viewer would show, as 8-bit sRGB and a separate alpha channel, or raises
`ImageError` with one sentence that can be shown to the person who chose the file. The size is taken from the header and
checked before any pixel is decoded. Results are tagged as sRGB and carry no metadata of the photo.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from sisrm.conversion import fill_transparent, on_white, to_srgb
from sisrm.decoding import DECODING_ERRORS, MAX_FILE_BYTES, begin_pixels, has_more_frames, open_picture, orientation_of
from sisrm.errors import ImageError, ParameterError
from sisrm.whole_files import written_whole

# Pillow warns of large pictures when it reads the header; here the header decides and the caller gets an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MIN_SIDE = 16
"""Smallest accepted width and height in pixels."""

MAX_PIXELS = 16 * 2**20
"""Largest accepted width times height, unless the environment variable SISRM_MAX_PIXELS says otherwise."""

MOST_PIXELS = 2**28
"""The largest value of that variable. A result has 16 times as many pixels, 12 GB of them alone."""

MAX_ASPECT = 16
"""Largest accepted ratio of the longer side to the shorter one."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""File name endings, in lower case, that a search through a folder takes for images."""

RESULT_EXTENSIONS = (".png", ".webp", ".jpg", ".jpeg")
"""File name endings, in lower case, that a result can be written with."""

PNG_COMPRESSION = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Of photos' differences between pixels deflate's search for repeated strings finds none: without it a result is as small, and written
three to five times as fast. Runs of the same value, which flat areas are, are still found."""

NOTICES = {
    "first_frame": "the file holds several pictures; only the first one is used",
    "smaller_tiles": "memory was short, so the picture was made in smaller tiles",
}
"""What a reader should be told about an accepted file or its result: code -> sentence."""

_DESCRIPTION_TAG, _COLOR_SPACE_TAG, _EXIF_IFD = 0x010E, 0xA001, 0x8769
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Photo:
    """A file as pixels.

    Args:
        image: RGB in sRGB, without metadata. Under full transparency it continues the colours around.
        alpha: L, the same size, or None where everything is opaque. `sisrm.conversion.with_alpha` puts it on a result.
        notices: codes of NOTICES.
    """

    image: Image.Image
    alpha: Image.Image | None = None
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def pixel_limit() -> int:
    """The largest accepted width times height: SISRM_MAX_PIXELS, or MAX_PIXELS when that is not set.

    Raises:
        ParameterError: SISRM_MAX_PIXELS is not an integer from 1 to MOST_PIXELS.
    """
    text = os.environ.get("SISRM_MAX_PIXELS", "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or len(text) > 18 or not 1 <= int(text) <= MOST_PIXELS:
        raise ParameterError(
            "SISRM_MAX_PIXELS", text, f"an integer from 1 to {MOST_PIXELS:,}, the largest width times height"
        )
    return int(text)


def read_photo(
    path: str | os.PathLike, *, source: str | None = None, max_pixels: int | None = None, min_side: int = MIN_SIDE
) -> Photo:
    """Read an image file the way a viewer would show it, its transparency apart.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, 16-bit and floating-point grey are
    scaled to 8 bits, and of an animation the first frame is taken, with a notice. No metadata is kept.

    Args:
        path: the file.
        source: how errors name the file; its name without the folder when None.
        max_pixels: largest width times height; None takes `pixel_limit()`.
        min_side: smallest width and height.

    Raises:
        ImageError: the file is missing, cannot be read, is not an image, is damaged, too small, too large or too long
            and narrow.
    """
    path = Path(path)
    source = path.name if source is None else source
    opened = open_picture(_content_of(path, source), source, _limit(max_pixels))
    rgb, alpha, notices = _decode(opened, source, max_pixels, min_side)
    return Photo(rgb if alpha is None else fill_transparent(rgb, alpha), alpha, notices)


def read_image(
    path: str | os.PathLike, *, source: str | None = None, max_pixels: int | None = None, min_side: int = MIN_SIDE
) -> Image.Image:
    """`read_photo` with transparency composited on white: mode RGB, without metadata. Arguments and errors as there."""
    path = Path(path)
    source = path.name if source is None else source
    opened = open_picture(_content_of(path, source), source, _limit(max_pixels))
    return on_white(*_decode(opened, source, max_pixels, min_side)[:2])


def prepare_image(
    image: Image.Image, *, source: str = "image", max_pixels: int | None = None, min_side: int = MIN_SIDE
) -> Image.Image:
    """Check and convert an image that Pillow has opened already; the same rules as `read_image`.

    Args:
        image: any mode; its pixels may not be decoded yet.
        source: how errors name the image.
        max_pixels: largest width times height; None takes `pixel_limit()`.
        min_side: smallest width and height.

    Returns:
        PIL image, mode RGB, without metadata.

    Raises:
        ImageError: too small, too large, too long and narrow, damaged, or pixels of a kind that has no picture.
    """
    return on_white(*_decode(image, source, max_pixels, min_side)[:2])


def write_image(image: Image.Image, path: str | os.PathLike, settings: dict | None = None) -> Path:
    """Write a result in one step: readers see the old file or the whole new one, never a part. What a killed process left of an earlier
    try is deleted.

    The ending of the name decides: PNG and WebP keep every pixel and transparency, JPEG (quality 95) shows it on white.
    The file is tagged as sRGB.

    Args:
        image: RGB, RGBA, L or P.
        path: the file to write, with an ending of RESULT_EXTENSIONS; its folder must exist.
        settings: what the image was made with; kept as JSON in the PNG's text chunk "sisrm", or else in the EXIF field
            ImageDescription.

    Returns:
        The path written.

    Raises:
        ParameterError: another ending.
        OSError: the folder does not exist or cannot be written.
        TypeError: `settings` holds something JSON cannot.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in RESULT_EXTENSIONS:
        raise ParameterError("path", path.name, f"a name ending in {', '.join(RESULT_EXTENSIONS)}")
    clean = image
    if image.info:  # a result has none, and may be a gigabyte
        clean = image.copy()
        clean.info = {}
    if ending == ".png":
        options = {"format": "PNG", "pnginfo": _png_chunks(settings), **PNG_COMPRESSION}
    else:
        options = {"icc_profile": _srgb_profile(), "exif": _exif(settings)}
        if ending == ".webp":
            options |= {"format": "WEBP", "lossless": True, "exact": True}
        else:
            options |= {"format": "JPEG", "quality": 95, "subsampling": 0}
            if clean.has_transparency_data:
                rgba = clean.convert("RGBA")
                clean = on_white(rgba.convert("RGB"), rgba.getchannel("A"))
    with written_whole(path) as stream:
        clean.save(_Written(stream), **options)
    return path


def write_png(image: Image.Image, path: str | os.PathLike, settings: dict | None = None) -> Path:
    """`write_image` for a file that is a PNG; any other ending raises ParameterError."""
    if Path(path).suffix.lower() != ".png":
        raise ParameterError("path", Path(path).name, "a name ending in .png")
    return write_image(image, path, settings)


class _Written:
    """A stream without a descriptor: Pillow writes a JPEG straight to one and does not see that a full disk took only a part."""

    def __init__(self, stream: BinaryIO):
        self.write, self.flush = stream.write, stream.flush


def _content_of(path: Path, source: str) -> bytes:
    """The whole file; what is no regular file or far too large for a photo is refused before it is read."""
    try:
        if not path.exists():
            raise ImageError(source, "there is no such file")
        if not path.is_file():
            raise ImageError(source, "this is not a file")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(source, "the file is empty")
        if size > MAX_FILE_BYTES:
            raise ImageError(source, f"the file has more than {MAX_FILE_BYTES >> 20} MB")
        return path.read_bytes()
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or "the file cannot be read"
        raise ImageError(source, reason[0].lower() + reason[1:]) from error


def _decode(
    image: Image.Image, source: str, max_pixels: int | None, min_side: int
) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Check the size, then decode: upright sRGB, alpha or None, codes of notices."""
    _check_size(image.size, source, max_pixels, min_side)
    more = has_more_frames(image)
    begin_pixels(image)
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageError(source, "the file holds far more data than a picture of its size needs") from error
    except DECODING_ERRORS as error:
        raise ImageError(source, "the image data is damaged or incomplete") from error
    _check_size(image.size, source, max_pixels, min_side)  # the header of a HEIC file may have told another one
    turn = _TRANSPOSE.get(orientation_of(image))
    rgb, alpha = to_srgb(image, source)
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), alpha and alpha.transpose(turn)
    return rgb, alpha, ("first_frame",) if more else ()


def _limit(max_pixels: int | None) -> int:
    return pixel_limit() if max_pixels is None else max_pixels


def _check_size(size: tuple[int, int], source: str, max_pixels: int | None, min_side: int) -> None:
    """Raise ImageError for too many or too few pixels, or an extreme aspect ratio."""
    width, height = size
    limit = _limit(max_pixels)
    if width * height > limit:
        raise ImageError(source, f"{width} x {height} pixels are too many; at most {limit:,} are accepted")
    if min(width, height) < min_side:
        raise ImageError(source, f"{width} x {height} pixels are too few; each side needs at least {min_side}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            source, f"{width} x {height} pixels are too long and narrow; at most {MAX_ASPECT}:1 is accepted"
        )


def _png_chunks(settings: dict | None) -> PngInfo:
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\0")  # perceptual intent
    if settings is not None:
        chunks.add_text("sisrm", json.dumps(settings))
    return chunks


def _exif(settings: dict | None) -> Image.Exif:
    exif = Image.Exif()
    if settings is not None:
        exif[_DESCRIPTION_TAG] = json.dumps(settings)
    exif.get_ifd(_EXIF_IFD)[_COLOR_SPACE_TAG] = 1
    return exif


@lru_cache(maxsize=1)
def _srgb_profile() -> bytes:
    """An sRGB profile whose date of creation is left out, so that the same result is the same file."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)
    return bytes(profile)
