"""Before and after in one picture file, to send to somebody."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sisrm.conversion import on_white
from sisrm.images import write_image
from sisrm.made_with import open_result
from sisrm.ui.results import FORMAT, named
from sisrm.ui.settings import Choice

LAYOUT = Choice(("side_by_side", "split"))

LONGEST_SIDE = 4096
"""Of the picture, which is for showing; the result itself is had on its own."""

_WHITE = (255, 255, 255)


def export(before: Path, after: Path, layout: str = "side_by_side", format: str = "png") -> Path:
    """One picture of both, beside the result; made once.

    Args:
        before, after: pictures of one size, as `Upscaled` has them. Transparency is shown on white.
        layout: "side_by_side": the whole pictures beside each other or, where they are wide, one above the other; "split": the left half
            of the one and the right half of the other. With a white line between.
        format: of `sisrm.ui.results.FORMATS`.

    Raises:
        ParameterError: no such layout or format.
    """
    layout, format = LAYOUT.check("layout", layout), FORMAT.check("format", format)
    target = after.with_name(named(f"{after.stem}-{layout.replace('_', '-')}", format))
    if not target.exists():
        pictures = [_read(path) for path in (before, after)]
        write_image((_beside if layout == "side_by_side" else _split)(*pictures), target)
    return target


def _read(path: Path) -> Image.Image:
    with open_result(path) as image:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return on_white(rgba.convert("RGB"), rgba.getchannel("A"))
        return image.convert("RGB")


def _line(image: Image.Image) -> int:
    return max(2, max(image.size) // 250)


def _beside(before: Image.Image, after: Image.Image) -> Image.Image:
    width, height = after.size
    gap, below = _line(after), width > 1.5 * height
    step = (0, height + gap) if below else (width + gap, 0)
    both = Image.new("RGB", (width + step[0], height + step[1]), _WHITE)
    both.paste(before, (0, 0))
    both.paste(after, step)
    both.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return both


def _split(before: Image.Image, after: Image.Image) -> Image.Image:
    both, middle, half = after.copy(), after.width // 2, _line(after) // 2
    both.paste(before.crop((0, 0, middle, after.height)), (0, 0))
    both.paste(_WHITE, (middle - half, 0, middle + half, after.height))
    return both
