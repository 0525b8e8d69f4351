"""What a result file tells about how it was made, as `sisrm.images.write_image` put it in; read from files of any origin."""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import ExifTags, Image

from sisrm.decoding import DECODING_ERRORS, MAX_FILE_BYTES, open_picture
from sisrm.errors import ImageError


def read_made_with(path: str | os.PathLike) -> dict:
    """The JSON object in a PNG's text chunk "sisrm" or in another file's EXIF field ImageDescription; no pixel is decoded.

    Returns:
        Empty for a file without one, for one that is no image or damaged, and for none at all. Nothing in it can be relied on: anybody can
        write such a file.
    """
    path = Path(path)
    try:
        if not path.is_file() or not 0 < path.stat().st_size <= MAX_FILE_BYTES:
            return {}
        with open_picture(path.read_bytes(), path.name) as image:
            kept = image.info.get("sisrm") or image.getexif().get(ExifTags.Base.ImageDescription)
        found = json.loads(kept or "{}", parse_constant=lambda name: None)
    except (ImageError, Image.DecompressionBombError, *DECODING_ERRORS):
        return {}
    return found if isinstance(found, dict) else {}
