"""The README's pictures: examples before and after with what the model saw, and the app's first screen.

python assets/readme/make_pictures.py [--preset NAME|DIR] [--output FILE] [--app FILE]

The app's picture is taken with Chromium through Playwright, and only where --app asks for it.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
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


def app_picture(pipe, output: Path) -> None:
    """The page as it is when it is opened, with the finished example."""
    from playwright.sync_api import sync_playwright

    from sisrm.ui.blocks import build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = build_app(pipe, sorted((ROOT / "examples").glob("*.png")))
    app.serve(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1180})
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_function("document.querySelector('#semantics .photo')?.naturalWidth > 0", timeout=60_000)
        page.wait_for_timeout(1000)
        screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    app.close()
    screen.save(output, quality=86)


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--output", type=Path, default=ROOT / "assets" / "readme" / "before_after.jpg")
    parser.add_argument("--app", type=Path, metavar="FILE", help="only the app's picture, to this file")
    options = parser.parse_args()
    pipe = load_pipeline(options.preset)
    if options.app is not None:
        return app_picture(pipe, options.app)
    rows = [row(pipe, ROOT / "examples" / f"{name}.png") for name in EXAMPLES]
    sheet = Image.new("RGB", (rows[0].width, sum(entry.height for entry in rows)), "white")
    top = 0
    for entry in rows:
        sheet.paste(entry, (0, top))
        top += entry.height
    sheet.save(options.output, quality=88)


if __name__ == "__main__":
    main()
