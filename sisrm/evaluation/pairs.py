"""Image pairs of an evaluation folder: a sharp reference and the low-resolution image that methods start from."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sisrm.errors import ImageError, ParameterError
from sisrm.images import EXTENSIONS, read_image

SCALE = 4
"""How many times larger per side a result is than its input."""

REFERENCE_PIXELS = 64_000_000
"""Largest reference read. References are sharp photos, so the limit for uploads does not apply to them."""


@dataclass(frozen=True)
class Pair:
    """One image of an evaluation: `name` is the file name without its ending; `reference` is exactly 4x `low`."""

    name: str
    low: Image.Image
    reference: Image.Image


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Image files of a folder by file name without ending, in alphabetical order; subfolders are not searched.

    Raises:
        ParameterError: the folder does not exist or holds no image, or two files differ only in their ending.
    """
    if not folder.is_dir():
        raise ParameterError("folder", str(folder), "an existing folder with images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            if path.stem in found:
                raise ParameterError("folder", str(folder), f"one image per name; {path.stem} is there more than once")
            found[path.stem] = path
    if not found:
        raise ParameterError("folder", str(folder), "a folder with at least one image")
    return found


def partner(stem: str, files: dict[str, Path], folder: Path) -> Path:
    """The file of `images_by_stem(folder)` that belongs to `stem`.

    Raises:
        ImageError: there is none.
    """
    if stem not in files:
        raise ImageError(folder / stem, "there is no image of this name")
    return files[stem]


class PairFolder:
    """The pairs of DIR: DIR/HR with DIR/LR, or DIR/HR alone when its images are degraded with a seed.

    Files of HR and LR belong together when their names agree up to the ending. Each degraded image depends on the seed
    and its own name only, so neither order nor other images in the folder change it.

    Args:
        folder: DIR.
        degrade_seed: None reads DIR/LR; an integer of at least 0 makes the LR images from DIR/HR.
        degradation: name of one of `sisrm.training.degradation.DEGRADATIONS`; used with `degrade_seed` only.
        limit: only the first so many pairs; None for all.

    Attributes:
        names: of the pairs, in alphabetical order.

    Raises:
        ParameterError: a folder is missing or empty, or a setting is not accepted.
    """

    protocol = "folder"

    def __init__(
        self, folder: Path, degrade_seed: int | None = None, degradation: str = "seesr", limit: int | None = None
    ):
        if degrade_seed is not None and degrade_seed < 0:
            raise ParameterError("--degrade", degrade_seed, "an integer of at least 0")
        if limit is not None and limit < 1:
            raise ParameterError("--limit", limit, "an integer of at least 1")
        self.folder, self.degrade_seed, self.degradation = folder, degrade_seed, degradation
        self.references = dict(list(images_by_stem(self._reference_folder()).items())[:limit])
        self.names = list(self.references)
        if degrade_seed is None and not (folder / "LR").is_dir():
            raise ParameterError("DIR", str(folder), "a folder with HR and LR; with HR alone, give --degrade SEED")
        self.lows = images_by_stem(folder / "LR") if degrade_seed is None else {}
        if degrade_seed is not None:
            from sisrm.training.degradation import DEGRADATIONS

            if degradation not in DEGRADATIONS:
                raise ParameterError("--degradation", degradation, f"one of {', '.join(DEGRADATIONS)}")

    def describe(self) -> dict[str, object]:
        """What the pairs are, for a summary; the folder by its name only."""
        return {
            "name": self.protocol,
            "folder": self.folder.resolve().name,
            "images": len(self),
            **self.making(),
        }

    def making(self) -> dict[str, object]:
        """How pairs are made from files: with the files themselves, all that decides them."""
        if self.degrade_seed is None:
            return {"low_resolution": "LR"}
        return {
            "low_resolution": "HR, degraded",
            "degradation": self.degradation,
            "degrade_seed": self.degrade_seed,
        }

    def sources(self, name: str) -> dict[str, Path]:
        """The files that a pair is made from, by their role.

        Raises:
            ImageError: one is missing.
        """
        files = {"HR": self.references[name]}
        return files if self.degrade_seed is not None else files | {"LR": self._low_path(name)}

    def pair(self, name: str) -> Pair:
        """Read or make one pair.

        Raises:
            ImageError: an image is missing or unreadable, or HR is not 4x the size of LR.
        """
        path = self.references[name]
        reference = read_image(path, source=str(path), max_pixels=REFERENCE_PIXELS)
        if self.degrade_seed is None:
            return self._photographed(name, reference)
        return self._degraded(name, self._cut(name, reference))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        """The pairs one by one; see `pair`."""
        return map(self.pair, self.names)

    def _reference_folder(self) -> Path:
        if not (self.folder / "HR").is_dir():
            raise ParameterError("DIR", str(self.folder), "a folder that holds HR (and LR, unless --degrade is given)")
        return self.folder / "HR"

    def _cut(self, name: str, reference: Image.Image) -> Image.Image:
        """The part of a reference that is degraded: all of it, but for what does not make whole LR pixels."""
        width, height = (side - side % SCALE for side in reference.size)
        return reference.crop((0, 0, width, height))

    def _low_path(self, name: str) -> Path:
        return partner(name, self.lows, self.folder / "LR")

    def _photographed(self, name: str, reference: Image.Image) -> Pair:
        path = self._low_path(name)
        low = read_image(path, source=str(path))
        if reference.size != (SCALE * low.width, SCALE * low.height):
            sizes = f"{low.width} x {low.height} pixels beside {reference.width} x {reference.height} in HR"
            raise ImageError(path, f"{sizes}; HR must be exactly 4x as wide and as high")
        return Pair(name, low, reference)

    def _degraded(self, name: str, reference: Image.Image) -> Pair:
        from sisrm.training.degradation import DEGRADATIONS, degrade

        generator = np.random.default_rng([self.degrade_seed, zlib.crc32(name.encode())])
        low = degrade(np.array(reference), generator, DEGRADATIONS[self.degradation])
        return Pair(name, Image.fromarray(low), reference)
