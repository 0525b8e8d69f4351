"""The README's picture: examples before and after, and what the model saw.

python assets/readme/make_pictures.py [--preset NAME|DIR] [--output FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sisrm.drawing import draw_overlay, legend  # noqa: E402
from sisrm.images import read_image  # noqa: E402
from sisrm.presets import load_pipeline  # noqa: E402

EXAMPLES = ("launchpad", "coffee", "cat")
WIDTH, GAP, CAPTION = 560, 12, 34


def row(pipe, path: Path) -> Image.Image:
    """Bicubic, result and class map of one photo, side by side with captions."""
    photo = read_image(path)
    output = pipe(photo, generator=torch.Generator().manual_seed(0))
    result, class_map = output.images[0], output.class_map[0]
    seen = ", ".join(f"{entry.name} {entry.share:.0%}" for entry in legend(class_map)[:3])
    panels = [
        ("bicubic", photo.resize(result.size, Image.Resampling.BICUBIC)),
        ("SISRM", result),
        (seen, draw_overlay(result, class_map, 0.55)),
    ]
    height = round(WIDTH * result.height / result.width)
    sheet = Image.new("RGB", (3 * WIDTH + 2 * GAP, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, panel) in enumerate(panels):
        left = index * (WIDTH + GAP)
        sheet.paste(panel.resize((WIDTH, height), Image.Resampling.LANCZOS), (left, CAPTION))
        draw.text((left + 2, 6), caption, fill="black", font=ImageFont.load_default(20))
    return sheet


def main() -> None:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "readme" / "before_after.jpg")
    options = parser.parse_args()
    pipe = load_pipeline(options.preset)
    rows = [row(pipe, ROOT / "examples" / f"{name}.png") for name in EXAMPLES]
    sheet = Image.new("RGB", (rows[0].width, sum(entry.height for entry in rows)), "white")
    top = 0
    for entry in rows:
        sheet.paste(entry, (0, top))
        top += entry.height
    sheet.save(options.output, quality=88)


if __name__ == "__main__":
    main()
