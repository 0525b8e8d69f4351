"""Results as files: PNG, WebP or JPEG, which carry their settings; and the settings back from such a file."""

from __future__ import annotations

import os
from pathlib import Path

from sisrm.errors import ParameterError
from sisrm.images import write_image
from sisrm.made_with import open_result, read_made_with
from sisrm.resize import SCALE
from sisrm.ui.settings import CONTROLS, Choice, Settings, check_settings

FORMATS = ("png", "webp", "jpeg")
"""What a result can be had as. PNG and WebP keep every pixel and transparency; JPEG shows it on white."""

FORMAT = Choice(FORMATS)

_ENDINGS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
_LONGEST = {"webp": 16_383, "jpeg": 65_500}  # pixels of a side that the formats, or their encoders, can hold


def named(stem: str, format: str) -> str:
    """A file name with the ending of a format."""
    return stem + _ENDINGS[format]


def require_room(format: str, size: tuple[int, int], scale: int = SCALE) -> None:
    """Raise ParameterError where a format cannot hold the result.

    Args:
        format: of FORMATS.
        size: of the photo, pixels.
        scale: of the result.
    """
    longest = _LONGEST.get(format)
    if longest is not None and scale * max(size) > longest:
        raise ParameterError("format", format, f"png for a result of more than {longest:,} pixels on a side")


def converted(result: Path, format: str) -> Path:
    """A finished result in another format, beside it, with the same settings in it; made once.

    Args:
        result: the PNG.
        format: of FORMATS.

    Raises:
        ParameterError: no such format, or one that cannot hold the picture.
    """
    target = result.with_name(named(result.stem, FORMAT.check("format", format)))
    if target.exists():
        return target
    with open_result(result) as image:
        require_room(format, image.size, 1)
        image.load()
    return write_image(image, target, read_made_with(result, ours=True) or None)


def restore(path: str | os.PathLike, defaults: Settings, free_text: bool = False) -> Settings | None:
    """The settings, seed and labels that a result was made with.

    Args:
        path: a PNG, WebP or JPEG of this app, or any other file.
        defaults: of `default_settings`, for settings that the file, of an older version, does not name.
        free_text: whether labels may be other words than the 150 class names.

    Returns:
        None where the file carries no settings, or such that would be refused from a browser too. Settings that this version does not know
        are left out.
    """
    kept = read_made_with(path).get("settings")
    if not isinstance(kept, dict):
        return None
    known = {name: kept[name] for name in CONTROLS if name in kept}
    try:
        return check_settings(known, defaults, free_text) if known.get("seed") is not None else None
    except ParameterError:
        return None
