"""Reading what a visitor sent, and no other file of the server; and naming what he gets back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sisrm.errors import ParameterError
from sisrm.images import Photo, read_photo
from sisrm.resize import SCALE


def open_upload(value: object, upload_folder: str | Path, name: str = "image") -> Photo:
    """Read the image of a request, and no other file of the server.

    Args:
        value: Gradio's file object: a mapping with "path", the uploaded copy, and "orig_name", the visitor's name for it.
        upload_folder: where Gradio keeps uploads; a path outside it is refused.
        name: of the parameter, for errors.

    Raises:
        ParameterError: no image was sent, or the file is not an upload.
        ImageError: the upload cannot be used as an image.
    """
    accepted = "an uploaded image file (gradio_client: handle_file)"
    if value is None:
        raise ParameterError(name, None, accepted)
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or "\0" in path:
        raise ParameterError(name, value if isinstance(value, str) else type(value).__name__, accepted)
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(upload_folder).resolve()):
        raise ParameterError(name, Path(path).name, accepted)
    called = value.get("orig_name")
    return read_photo(resolved, source=Path(called).name[:80] if isinstance(called, str) and called else name)


def result_name(value: Mapping, scale: int = SCALE) -> str:
    """The file name of a result, after the visitor's name for the upload: plain letters, digits, - and _ only."""
    name = value.get("orig_name")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem)[:60].strip("-") if isinstance(name, str) else ""
    return f"{stem or 'sisrm'}-{scale}x.png"


def source_of(image: object) -> str:
    """A name for an upload: the folder that Gradio gave it, which is told by its content."""
    return Path(str(image.get("path"))).parent.name if isinstance(image, dict) else ""
