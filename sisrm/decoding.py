"""From a user's file to an opened picture whose size is known and whose pixels are not decoded yet.

What can go wrong before the first pixel is decided here: which formats are opened at all, what a file is called that is
none of them, and files that are small but made to cost much (memory through repeated metadata, time through thousands
of scans).
"""

from __future__ import annotations

import io
import re
import struct
import time
from functools import lru_cache

from PIL import Image, UnidentifiedImageError

from sisrm.errors import ImageError
from sisrm.metadata import ORIENTATION, TIFF_STARTS, check_avif, check_exif, check_jpeg, check_tiff, fields, number_of

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
"""Pillow's names of the formats that are opened. Others reach outside programs (EPS), are parsed slowly (PPM) or no photos."""

MAX_FILE_BYTES = 256 * 2**20
"""Largest accepted file. 16-bit colour with transparency, not compressed, needs 8 bytes per pixel."""

HEADER_SECONDS = 0.5
"""Processor time for a header. Formats made of records can hold millions of empty ones."""

PIXEL_SECONDS = 20.0
"""Processor time until the last byte of the pixels was read."""

# What Pillow's decoders raise on damaged data, found with files cut and altered at random.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error,
                   OverflowError, AttributeError, AssertionError, RuntimeError)  # fmt: skip

_ACCEPTED = "PNG, JPEG, HEIC, AVIF, WebP, TIFF, BMP, GIF"
_PICTURE_BRANDS = re.compile(rb"hei[cxms]|hev[cxms]|mif[12]|msf1|avi[fs]|jpeg")
_STARTS = (
    (b"%!PS", "a PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (b"8BPS", "a Photoshop document"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"FLV\x01", "a video"),
    (b"\0\0\x01\xba", "a video"),
    (b"\0\0\x01\xb3", "a video"),
    (b"OggS", "a sound or video file"),
    (b"ID3", "a sound file"),
    (b"PK\x03\x04", "an archive or an office document"),
    (b"\x1f\x8b", "an archive"),
    (b"Rar!", "an archive"),
    (b"7z\xbc\xaf\x27\x1c", "an archive"),
)
_DNG_VERSION = 50706


def open_picture(data: bytes, source: str, most_pixels: int = 0) -> Image.Image:
    """Read the header of a file's content; no pixel is decoded.

    Args:
        data: the whole file.
        source: how errors name the file.
        most_pixels: the caller refuses larger ones; Pillow, which does so above 178,956,970, is told where it is to take more.

    Returns:
        Pillow's image, with `size` and `mode` known.

    Raises:
        ImageError: not an image of an accepted format, a damaged header, or metadata made to exhaust the machine.
    """
    if data.startswith(b"\xff\xd8"):
        check_jpeg(data, source)
    elif data.startswith(TIFF_STARTS):
        check_tiff(data, source)
    elif data[4:8] == b"ftyp":
        check_avif(data, source)
    # Pillow's limit is one for the process: it is only ever raised, as another thread may be reading.
    if Image.MAX_IMAGE_PIXELS is not None and most_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-most_pixels // 2)
    try:
        image = Image.open(_Metered(data), formats=_available_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(source, "too many pixels") from error
    except UnidentifiedImageError as error:
        kind = _name_of(data[:1024])
        found = f"this is {kind}, not an image" if kind else "this is not an image"
        raise ImageError(source, f"{found} that can be read ({_ACCEPTED})") from error
    except DECODING_ERRORS as error:
        raise ImageError(source, "the image header is damaged") from error
    if image.format == "TIFF" and _DNG_VERSION in image.tag_v2:
        raise ImageError(source, "this is a camera's raw file; export it as JPEG, PNG or TIFF first")
    if isinstance(exif := image.info.get("exif"), bytes):
        check_exif(exif, source)  # what Pillow has read but not looked into yet
    return image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8 that is still to be applied; 1 (upright) where there is none or the block is damaged.

    TIFF and HEIC files are turned by their decoders; that of AVIF says in the EXIF block what is left to do.
    """
    exif = image.info.get("exif")
    if image.format in ("TIFF", "HEIF") or not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    for field in fields(block):
        if field.tag == ORIENTATION and field.count == 1 and field.kind in (3, 4):
            return number_of(block, field) or 1
    return 1


def has_more_frames(image: Image.Image) -> bool:
    """Whether an animation or a file of several pages was opened. The second picture of an MPO is the camera's own."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except DECODING_ERRORS:
        return False


def begin_pixels(image: Image.Image) -> None:
    """Say that the header is done: from here on PIXEL_SECONDS count instead of HEADER_SECONDS."""
    stream = getattr(image, "fp", None)
    if isinstance(stream, _Metered):
        stream.end = time.thread_time() + PIXEL_SECONDS


class _Metered(io.BytesIO):
    """A file in memory that stops giving when it was read several times over, or for too long.

    The fields of a TIFF directory may all point to the same megabytes; each field is read as a copy of its own.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._left = 4 * len(data) + 2**20
        self.end = time.thread_time() + HEADER_SECONDS

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self._left -= len(block)
        if self._left < 0:
            raise OSError("the file refers to its own content too often")
        if time.thread_time() > self.end:
            raise OSError("the file takes too long to read")
        return block


@lru_cache(maxsize=1)
def _available_formats() -> tuple[str, ...]:
    """The formats of FORMATS that this build of Pillow can open."""
    import pi_heif

    Image.init()
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _name_of(head: bytes) -> str | None:
    """What a file is that is no image, in words, from its first kilobyte; None when that is not known."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if b"%PDF-" in head:
        return "a PDF document"
    if head[4:8] == b"ftyp" and not _PICTURE_BRANDS.match(head[8:12]):
        return "a camera's raw file" if head[8:12] == b"crx " else "a video"
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WAVE"):
        return "a video" if head[8:12] == b"AVI " else "a sound file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if text.startswith(b"<") and b"<svg" in text:
        return "an SVG drawing"
    return None
