"""Photos for training: WebDataset shards or a plain folder in, seeded crops and degraded pairs out.

Photos stay where they lie: only their places are kept in memory, and each is read when a sample is cut from it, so LSDIR's 85,000 photos
need no more memory than ten. Sample number n depends on the seed and n alone, never on the process or worker that makes it. That is
what makes a resumed run, and a run split over several processes, see exactly the samples that an uninterrupted one would.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from sisrm.errors import ParameterError
from sisrm.training.degradation import DEGRADATIONS, degrade
from sisrm.training.degradation_steps import jpeg, to_bytes, to_planes

logger = logging.getLogger(__name__)

UNSURE = 255  # class index of a pixel the label map says nothing about
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class CropSettings:
    """How a photo becomes a sample. `crop`: side in HR pixels. `scale`: range of a random resize before the crop (log-uniform).
    `degradations`: (name, weight) pairs of `DEGRADATIONS` for the LR image; empty for none. `compression`: how often the crop itself is
    a JPEG of quality 20 to 90. The resize never goes below `crop`."""

    crop: int = 256
    scale: tuple[float, float] = (1.0, 1.0)
    degradations: tuple[tuple[str, float], ...] = ()
    compression: float = 0.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A file, or `size` bytes at `offset` of one."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


class Photos:
    """Photos with their label maps, where they lie on the disk.

    Args:
        locations: WebDataset shards (`*.tar`, not compressed, with KEY.jpg and optionally KEY.seg.png), folders of shards, or folders of
            photos, subfolders included (optionally with KEY.seg.png beside KEY.jpg).
        exclude_sources: photos whose key starts with one of these words are left out (licence choices).
    """

    def __init__(self, locations: list[str | Path], exclude_sources: tuple[str, ...] = ()):
        self.files: list[tuple[str, Stored, Stored | None]] = []
        for location in map(Path, locations):
            shards = sorted(location.glob("*.tar")) if location.is_dir() else [location]
            if location.is_dir() and not shards:
                self._add_folder(location)
            elif all(shard.suffix == ".tar" and shard.is_file() for shard in shards):
                for shard in shards:
                    self._add_shard(shard)
            else:
                raise ParameterError("data", str(location), "a .tar shard, a folder of shards, or a folder of photos")
        self.files = [entry for entry in self.files if not entry[0].startswith(tuple(exclude_sources) or ("\0",))]
        if not self.files:
            raise ParameterError("data", [str(location) for location in locations], "at least one photo")

    def _add_shard(self, shard: Path) -> None:
        """WebDataset's rule: neighbours whose names are the same up to the first dot are one sample."""
        samples: list[tuple[str, dict[str, Stored]]] = []
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    folder, slash, name = member.name.rpartition("/")
                    stem, dot, ending = name.partition(".")
                    if not (member.isfile() and stem and dot):
                        continue
                    if not samples or samples[-1][0] != folder + slash + stem:
                        samples.append((folder + slash + stem, {}))
                    samples[-1][1][ending.lower()] = Stored(shard, member.offset_data, member.size)
        except tarfile.TarError as error:
            raise ParameterError(
                "data", str(shard), f"a .tar shard that is whole and not compressed ({error})"
            ) from error
        for key, parts in samples:
            photo = next((parts[suffix[1:]] for suffix in PHOTO_SUFFIXES if suffix[1:] in parts), None)
            if photo is not None:
                self.files.append((key, photo, parts.get("seg.png")))

    def _add_folder(self, folder: Path) -> None:
        paths = {path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES}
        for path in sorted(paths):
            if not path.name.endswith(".seg.png"):
                labels = path.with_name(path.stem + ".seg.png")
                key = path.relative_to(folder).with_suffix("").as_posix()
                self.files.append((key, Stored(path), Stored(labels) if labels in paths else None))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[str, Image.Image, Image.Image | None]:
        """(key, RGB photo, class map with 0 = not sure and 1..150 = class or None)."""
        key, photo, labels = self.files[index]
        with Image.open(io.BytesIO(photo.read())) as opened:
            image = opened.convert("RGB")
        return key, image, Image.open(io.BytesIO(labels.read())) if labels else None


class Crops(Dataset):
    """Sample n of an endless seeded stream of crops.

    Each item: `hr` float32 (3, crop, crop) in [0, 1]; `lr` float32 (3, crop / 4, crop / 4) in [0, 1] when degradations are asked for;
    `classes` int64 (crop, crop), 0..149 or UNSURE; `index` int64, number of the sample; `photo` int64, which photo it was cut from;
    `view` float32 (4,), left, top, right, bottom of the cut as shares of the photo, left and right swapped in a mirrored one.
    """

    def __init__(self, photos: Photos, settings: CropSettings, seed: int = 0, length: int = 2**40):
        self.photos, self.settings, self.seed, self.length = photos, settings, seed, length
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0))
        unknown = [name for name, _ in settings.degradations if name not in DEGRADATIONS]
        if unknown:
            raise ParameterError("degradations", unknown, f"names among {sorted(DEGRADATIONS)}")

    def __len__(self) -> int:
        return self.length

    def photo_of(self, number: int) -> int:
        """Every photo once per pass, in a new order each pass."""
        epoch, position = divmod(number, len(self.photos))
        if epoch != self._pass[0]:
            self._pass = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.photos))
        return int(self._pass[1][position])

    def _read(self, photo: int) -> tuple[int, Image.Image, Image.Image | None]:
        """The photo, or the next one that can be read: one damaged file of many thousands should not end a run."""
        for index in ((photo + step) % len(self.photos) for step in range(len(self.photos))):
            try:
                _, image, labels = self.photos.read(index)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                logger.warning(
                    "%s cannot be read (%s); another photo takes its place", self.photos.files[index][0], error
                )
            else:
                return index, image, labels
        raise ParameterError("data", f"{len(self.photos)} photos", "at least one that can be read")

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, 1, number])
        photo, image, labels = self._read(self.photo_of(number))
        hr, classes, view = random_crop(image, labels, self.settings, rng)
        if self.settings.compression and rng.random() < self.settings.compression:
            hr = to_bytes(jpeg(to_planes(hr), int(rng.integers(20, 91))))
        sample = {
            "hr": to_tensor(hr),
            "classes": torch.from_numpy(classes),
            "index": torch.tensor(number),
            "photo": torch.tensor(photo),
            "view": torch.tensor(view, dtype=torch.float32),
        }
        if self.settings.degradations:
            names, weights = zip(*self.settings.degradations)
            name = names[rng.choice(len(names), p=np.array(weights) / sum(weights))]
            sample["lr"] = to_tensor(degrade(hr, rng, DEGRADATIONS[name]))
        return sample


def random_crop(
    image: Image.Image, labels: Image.Image | None, settings: CropSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """A random resize, square crop and mirror -> (uint8 (crop, crop, 3), int64 class map (crop, crop) with UNSURE, `view` of `Crops`)."""
    low, high = np.log(settings.scale)
    factor = max(float(np.exp(rng.uniform(low, high))), settings.crop / min(image.size))
    width, height = (max(settings.crop, round(side * factor)) for side in image.size)
    left, top = int(rng.integers(width - settings.crop + 1)), int(rng.integers(height - settings.crop + 1))
    # `box` in source pixels: only the crop is resampled, not the whole photo
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + settings.crop) * across, (top + settings.crop) * down)
    side = (settings.crop, settings.crop)
    hr = np.asarray(
        image.crop(tuple(map(round, box))) if factor == 1.0 else image.resize(side, Image.Resampling.LANCZOS, box=box)
    )
    if labels is None:
        classes = np.full(side, UNSURE, np.int64)
    else:
        named = np.asarray(labels.resize(side, Image.Resampling.NEAREST, box=box)).astype(np.int64)
        classes = np.where(named == 0, UNSURE, named - 1)
    view = (left / width, top / height, (left + settings.crop) / width, (top + settings.crop) / height)
    if rng.random() < 0.5:
        hr, classes, view = hr[:, ::-1], classes[:, ::-1], (view[2], view[1], view[0], view[3])
    return np.ascontiguousarray(hr), np.ascontiguousarray(classes), view


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


def sources_of(photos: Photos) -> str:
    """How many photos came from each source, as JSON: what a model card must say."""
    counts: dict[str, int] = {}
    for key, _, _ in photos.files:
        source = key.split("_")[0].split("-")[0]
        counts[source] = counts.get(source, 0) + 1
    return json.dumps(counts, sort_keys=True)
