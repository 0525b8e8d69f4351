"""Reading and writing image files: the one place where a user's file becomes pixels and pixels become a file.

A photo can lie about its size, hide its orientation in EXIF, carry another colour space, transparency or 16 bits per
channel. `read_image` gives back what a viewer would show, as 8-bit sRGB, or raises `ImageError` with one sentence that
can be shown to the person who chose the file. The size is taken from the header and checked before any pixel is
decoded.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import struct
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sisrm.errors import ImageError, ParameterError

logger = logging.getLogger(__name__)

# Pillow warns of large pictures when it reads the header; here the header decides and the caller gets an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MIN_SIDE = 16
"""Smallest accepted width and height in pixels."""

MAX_PIXELS = 1_048_576
"""Largest accepted width times height, unless the environment variable SISRM_MAX_PIXELS says otherwise."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")
"""Pillow's names of the formats that are opened. Others (EPS, PDF, ...) reach outside programs or are no photos."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".ppm")
"""File name endings, in lower case, that a search through a folder takes for images."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# What Pillow's decoders raise on damaged data, found with files cut and altered at random.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error,
                    OverflowError, AttributeError, AssertionError, RuntimeError)  # fmt: skip


def pixel_limit() -> int:
    """The largest accepted width times height: SISRM_MAX_PIXELS, or MAX_PIXELS when that is not set.

    Raises:
        ParameterError: SISRM_MAX_PIXELS is not a positive integer.
    """
    text = os.environ.get("SISRM_MAX_PIXELS", "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise ParameterError("SISRM_MAX_PIXELS", text, "a positive integer, the largest width times height")
    return int(text)


def read_image(
    path: str | os.PathLike, *, source: str | None = None, max_pixels: int | None = None, min_side: int = MIN_SIDE
) -> Image.Image:
    """Read an image file the way a viewer would show it.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, transparency is composited on white,
    16-bit and floating-point grey are scaled to 8 bits, and of an animation the first frame is taken. No metadata is
    kept.

    Args:
        path: the file.
        source: how errors name the file; its name without the folder when None.
        max_pixels: largest width times height; None takes `pixel_limit()`.
        min_side: smallest width and height.

    Returns:
        PIL image, mode RGB, without metadata.

    Raises:
        ImageError: the file is missing, cannot be read, is not an image, is damaged, too small or too large.
    """
    path = Path(path)
    source = path.name if source is None else source
    try:
        if not path.exists():
            raise ImageError(source, "there is no such file")
        if not path.is_file():
            raise ImageError(source, "this is not a file")
        if path.stat().st_size == 0:
            raise ImageError(source, "the file is empty")
        with open(path, "rb") as stream:
            return prepare_image(_open(stream, source), source=source, max_pixels=max_pixels, min_side=min_side)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or "the file cannot be read"
        raise ImageError(source, reason[0].lower() + reason[1:]) from error


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
        ImageError: too small, too large, damaged, or pixels of a kind that has no picture.
    """
    width, height = image.size
    limit = pixel_limit() if max_pixels is None else max_pixels
    if width * height > limit:
        raise ImageError(source, f"{width} x {height} pixels are too many; at most {limit:,} are accepted")
    if min(width, height) < min_side:
        raise ImageError(source, f"{width} x {height} pixels are too few; each side needs at least {min_side}")
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageError(source, "the file holds far more data than a picture of its size needs") from error
    except _DECODING_ERRORS as error:
        raise ImageError(source, "the image data is damaged or incomplete") from error
    orientation = _orientation(image)
    rgb = _to_srgb(image, source)
    return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb


def write_png(image: Image.Image, path: str | os.PathLike, settings: dict | None = None) -> Path:
    """Write a PNG in one step: readers see the old file or the whole new one, never a part.

    Args:
        image: mode RGB or L (or RGBA).
        path: the file to write; its folder must exist.
        settings: what the image was made with; kept as JSON in the PNG's text chunk "sisrm".

    Returns:
        The path written.

    Raises:
        OSError: the folder does not exist or cannot be written.
        TypeError: `settings` holds something JSON cannot.
    """
    path = Path(path)
    info = PngInfo()
    if settings is not None:
        info.add_text("sisrm", json.dumps(settings))
    clean = image.copy()
    clean.info = {}
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as stream:
            clean.save(stream, format="PNG", pnginfo=info)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _open(stream: io.BufferedReader, source: str) -> Image.Image:
    """Read the header only."""
    try:
        return Image.open(stream, formats=_available_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(source, f"too many pixels; at most {pixel_limit():,} are accepted") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            source, "this is not an image that can be read (PNG, JPEG, WebP, TIFF, BMP, GIF, ...)"
        ) from error
    except _DECODING_ERRORS as error:
        raise ImageError(source, "the image header is damaged") from error


@lru_cache(maxsize=1)
def _available_formats() -> tuple[str, ...]:
    """The formats of FORMATS that this build of Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODING_ERRORS:
        logger.warning("the EXIF block cannot be read; taking the image as upright")
        return 1


def _to_srgb(image: Image.Image, source: str) -> Image.Image:
    """Any decoded mode -> new RGB image in sRGB, composited on white."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_grey_to_8_bits(image, source)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = rgba.convert("RGB") if image.mode not in ("LA", "La") else rgba.getchannel("R")
    rgb = _apply_profile(image, profile) if profile else image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", rgb.size, (255, 255, 255))
        rgb = Image.composite(rgb, white, alpha)
    rgb.info = {}
    return rgb


def _deep_grey_to_8_bits(image: Image.Image, source: str) -> Image.Image:
    """Modes I;16, I (values of 16 bits) and F (values in [0, 1]) -> L. Pillow's own conversion clips them to white."""
    values = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise ImageError(source, f"grey values must lie between 0 and {top:g}")
    return Image.fromarray(np.round(values * (255.0 / top)).astype(np.uint8))


def _apply_profile(image: Image.Image, data: bytes) -> Image.Image:
    """Convert from the embedded ICC profile to sRGB; a damaged or unfitting profile is passed over with a warning."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _PROFILE_MODES.get(profile.profile.xcolor_space.strip())
        natural = image if image.mode in ("L", "CMYK") else image.convert("RGB")
        if mode == "RGB" and natural.mode == "L":
            natural = natural.convert("RGB")
        if mode != natural.mode:
            raise ImageCms.PyCMSError(f"a {mode} profile in a {natural.mode} image")
        # Conversion from sRGB to sRGB would round a few pixels by one level.
        if (profile.profile.profile_description or "").startswith("sRGB"):
            return natural.convert("RGB")
        converted = ImageCms.profileToProfile(natural, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.warning("the colour profile cannot be used (%s); taking the colours as sRGB", error)
        return image.convert("RGB")
    return converted
