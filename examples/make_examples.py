"""Make the example photos: crop free photos, damage them with the project's own degradation model, save them as PNG.

    python examples/make_examples.py [--output examples] [--originals FOLDER]

Needs scikit-image (the photos are inside its package) and pooch (SciPy fetches the raccoon once). Seeds are fixed, so
the same library versions give the same pictures. `--originals` also saves the undamaged crops, four times as large.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.datasets
import skimage.data
from PIL import Image

from sisrm.training.degradation import DEGRADATIONS, degrade


@dataclass(frozen=True)
class Example:
    """`load` gives a photo (H, W[, 3]) uint8; `box` is (left, top, width, height) in its pixels, sides of 4 n."""

    name: str
    load: Callable[[], np.ndarray]
    box: tuple[int, int, int, int]
    degradation: str
    seed: int


EXAMPLES = (
    Example("astronaut", skimage.data.astronaut, (0, 0, 512, 512), "light", 2),
    Example("cat", skimage.data.chelsea, (0, 0, 448, 300), "light", 3),
    Example("coffee", skimage.data.coffee, (0, 0, 600, 400), "light", 4),
    Example("launchpad", skimage.data.rocket, (0, 0, 640, 424), "light", 1),
    Example("photographer", skimage.data.camera, (0, 0, 512, 512), "seesr", 29),
    Example("raccoon", scipy.datasets.face, (256, 0, 768, 576), "seesr", 33),
)


def make(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """-> (undamaged crop (H, W, 3), example (H / 4, W / 4, 3)), both uint8."""
    photo = example.load()
    if photo.ndim == 2:
        photo = np.repeat(photo[:, :, None], 3, axis=2)
    left, top, width, height = example.box
    crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
    return crop, degrade(crop, np.random.default_rng(example.seed), DEGRADATIONS[example.degradation])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="where the examples go")
    parser.add_argument("--originals", type=Path, help="where the undamaged crops go; left out, they are not saved")
    args = parser.parse_args()
    for folder in filter(None, (args.output, args.originals)):
        folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        crop, small = make(example)
        Image.fromarray(small).save(args.output / f"{example.name}.png", optimize=True)
        if args.originals:
            Image.fromarray(crop).save(args.originals / f"{example.name}.png")
        print(f"{example.name}.png {small.shape[1]}x{small.shape[0]} {example.degradation} seed {example.seed}")


if __name__ == "__main__":
    main()
