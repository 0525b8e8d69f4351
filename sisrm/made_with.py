"""What a result file tells about how it was made, as `sisrm.images.write_image` put it in; read from files of any origin."""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from sisrm.decoding import DECODING_ERRORS, MAX_FILE_BYTES, open_picture
from sisrm.errors import ImageError
from sisrm.metadata import description_of

MAX_SETTINGS = 2**20
"""Longest text that is taken for settings, in characters; Pillow takes no longer one from a PNG either."""

_PLUGINS = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
}


def open_result(path: str | os.PathLike) -> Image.Image:
    """The header of a result that this program wrote, of whatever size: it has 16 times the photo's pixels, which `Image.open` and what
    reads uploads would take for a decompression bomb.

    Raises:
        ImageError: it is no PNG, WebP or JPEG as `write_image` makes them. OSError, SyntaxError: it is damaged.
    """
    with open(path, "rb") as stream:
        start = stream.read(4)
    plugin = next((kind for signature, kind in _PLUGINS.items() if start.startswith(signature)), None)
    if plugin is None:
        raise ImageError(Path(path).name, "this is no result")
    return plugin(path)


def read_made_with(path: str | os.PathLike, ours: bool = False) -> dict:
    """The JSON object in a PNG's text chunk "sisrm" or in another file's EXIF field ImageDescription; no pixel is decoded.

    Args:
        path: of a file.
        ours: it lies where this program writes its results, which may be large; False: anybody may have sent it.

    Returns:
        Empty for a file without one, for one that is no image or damaged, and for none at all. Nothing in it can be relied on: anybody can
        write such a file.
    """
    path = Path(path)
    try:
        if not path.is_file() or (not ours and not 0 < path.stat().st_size <= MAX_FILE_BYTES):
            return {}
        with open_result(path) if ours else open_picture(path.read_bytes(), path.name) as image:
            kept = image.info.get("sisrm") or _description(image.info.get("exif"))
        found = json.loads(kept or "{}", parse_constant=lambda name: None)
    except (ImageError, Image.DecompressionBombError, *DECODING_ERRORS):
        return {}
    return found if isinstance(found, dict) else {}


def _description(exif: object) -> str:
    """Pillow's own way to it, `getexif`, decodes a PNG without an EXIF block."""
    text = description_of(exif) if isinstance(exif, bytes) else ""
    return text if len(text) <= MAX_SETTINGS else ""
