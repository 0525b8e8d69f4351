"""From pixels of any kind to 8-bit sRGB with a separate alpha channel, and back onto a result."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image, ImageCms

from sisrm.errors import ImageError

logger = logging.getLogger(__name__)

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAME_COLOUR = 2  # levels of 255 by which profiles of sRGB differ from each other, through tables of few entries
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def to_srgb(image: Image.Image, source: str) -> tuple[Image.Image, Image.Image | None]:
    """Convert a decoded image of any mode.

    An embedded colour profile is converted to sRGB; 16-bit and floating-point grey are scaled to 8 bits. Colours under
    transparency are not blended with anything.

    Args:
        image: decoded; not changed.
        source: how errors name the image.

    Returns:
        (RGB image, alpha as an L image of the same size, or None where every pixel is opaque), without metadata.

    Raises:
        ImageError: values outside the range of their kind, or pixels of a kind that has no picture.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    try:
        if image.mode.startswith("I") or image.mode == "F":
            alpha = _key_of_deep_grey(image)
            image = _deep_grey_to_8_bits(image, source)
        elif image.has_transparency_data:
            rgba = image.convert("RGBA")
            alpha = rgba.getchannel("A")
            # Grey stays grey, for a profile of grey.
            image = rgba.getchannel("R") if image.mode in ("LA", "L", "1") else rgba.convert("RGB")
        elif image.mode == "LAB" and not profile:
            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        rgb = _apply_profile(image, profile) if profile else image.convert("RGB")
    except (ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(source, f"pixels of the kind {image.mode} cannot be read as colours") from error
    rgb.info = {}
    if alpha is not None:
        alpha.info = {}
        if alpha.getextrema()[0] == 255:
            alpha = None
    return rgb, alpha


def on_white(rgb: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """The picture as it looks on white paper; RGB."""
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, (255, 255, 255)), alpha)


def fill_transparent(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Replace the colours of fully transparent pixels by those of the visible pixels around them.

    What lies under full transparency is arbitrary (often black) and would bleed into the edges when enlarged; it may
    also be something that was meant to be erased.

    Args:
        rgb: mode RGB.
        alpha: mode L, the same size.

    Returns:
        A new RGB image; pixels with any opacity keep their colour.
    """
    weight = np.asarray(alpha, dtype=np.float32)[..., None] / 255
    colour = np.asarray(rgb, dtype=np.float32)
    filled = np.where(weight == 0, _spread(colour * weight, weight), colour)
    return Image.fromarray(np.clip(np.round(filled), 0, 255).astype(np.uint8))


def with_alpha(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Give a result the alpha channel of its photo, enlarged to its size (bicubic).

    Args:
        image: RGB, any size.
        alpha: L, or None.

    Returns:
        RGBA, or `image` itself without an alpha.
    """
    if alpha is None:
        return image
    result = image.convert("RGB")
    result.putalpha(alpha.resize(image.size, Image.Resampling.BICUBIC))
    return result


def _spread(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Known colours (h, w, 3, times their weight) pulled down a pyramid and pushed back into the gaps."""
    height, width = weight.shape[:2]
    if height == width == 1:
        return colour / np.maximum(weight, 1e-6)
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    sums = [_block_sums(np.pad(values, padding)) for values in (colour, weight)]
    known = np.minimum(sums[1], 1)
    coarse = _spread(sums[0] * (known / np.maximum(sums[1], 1e-6)), known)
    return colour + (1 - weight) * coarse.repeat(2, 0).repeat(2, 1)[:height, :width]


def _block_sums(values: np.ndarray) -> np.ndarray:
    """(2h, 2w, c) -> (h, w, c)."""
    return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]


def _key_of_deep_grey(image: Image.Image) -> Image.Image | None:
    """The alpha of a 16-bit grey PNG that names one grey as transparent."""
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))


def _deep_grey_to_8_bits(image: Image.Image, source: str) -> Image.Image:
    """Modes I;16, I (values of 16 bits) and F (values in [0, 1]) -> L. Pillow's own conversion clips them to white, and of TIFF files in
    which 0 is white it turns round those of up to 8 bits alone."""
    values = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise ImageError(source, f"grey values must lie between 0 and {top:g}")
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = top - values
    return Image.fromarray(np.round(values * (255.0 / top)).astype(np.uint8))


def _apply_profile(image: Image.Image, data: bytes) -> Image.Image:
    """Convert from the embedded ICC profile to sRGB; a damaged or unfitting profile is passed over with a warning."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _PROFILE_MODES.get(profile.profile.xcolor_space.strip())
        natural = image if image.mode in ("L", "CMYK", "LAB") else image.convert("L" if image.mode == "1" else "RGB")
        if mode == "RGB" and natural.mode == "L":
            natural = natural.convert("RGB")
        if mode != natural.mode:
            raise ImageCms.PyCMSError(f"a {mode} profile in a {natural.mode} image")
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        # Conversion from sRGB to sRGB would round a few pixels by one level. Names say little: there are linear "sRGB" profiles.
        if mode in ("RGB", "L") and _is_srgb(transform, mode):
            return natural.convert("RGB")
        converted = ImageCms.applyTransform(natural, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.warning("the colour profile cannot be used (%s); taking the colours as sRGB", error)
        return image.convert("RGB")
    return converted


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion to sRGB leaves colours from all over the cube, and every grey, as they are."""
    grey = np.arange(256, dtype=np.uint8)
    if mode == "L":
        probe = grey[None]
    else:
        cube = np.stack(np.meshgrid(*3 * [grey[::51]]), -1).reshape(1, -1, 3)
        probe = np.concatenate([cube, grey[None, :, None].repeat(3, 2)], 1)
    image = Image.fromarray(probe)
    found = np.asarray(ImageCms.applyTransform(image, transform), dtype=np.int16)
    return bool(np.abs(found - np.asarray(image.convert("RGB"))).max() <= _SAME_COLOUR)
