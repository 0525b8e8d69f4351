"""The example photos: present, small, ready for the app, and each with its origin written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisrm.training.degradation import DEGRADATIONS

FOLDER = Path(__file__).parent.parent / "examples"
PHOTOS = sorted(FOLDER.glob("*.png"))


def table() -> dict[str, list[str]]:
    """README's rows by file name."""
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return {row[0]: row for row in rows}


def test_there_are_six_and_the_table_lists_exactly_them():
    assert len(PHOTOS) == 6
    assert sorted(table()) == [path.name for path in PHOTOS]


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_photo_is_small_and_its_row_is_true(path):
    _, _, author, licence, source, damage, seed, size = table()[path.name]
    image = Image.open(path)
    assert image.mode == "RGB" and 64 <= min(image.size) and max(image.size) <= 192
    assert size == f"{image.width}x{image.height}"
    assert author and source and licence in ("CC0", "public domain")
    assert damage in DEGRADATIONS
    assert f'"{damage}", {seed})' in next(
        line for line in (FOLDER / "make_examples.py").read_text().splitlines() if f'Example("{path.stem}"' in line
    )
    assert np.asarray(image).std() > 20


@pytest.mark.parametrize(
    "name, photo, crop",
    [("astronaut", "astronaut", (512, 512)), ("cat", "chelsea", (448, 300)), ("photographer", "camera", (512, 512))],
)
def test_example_shows_the_photo_it_names(name, photo, crop):
    data = pytest.importorskip("skimage.data")
    image = Image.open(FOLDER / f"{name}.png")
    original = Image.fromarray(getattr(data, photo)()).convert("RGB").crop((0, 0, *crop))
    small = np.asarray(original.resize(image.size, Image.Resampling.BOX), np.float32)
    assert np.abs(np.asarray(image, np.float32) - small).mean() < 12
