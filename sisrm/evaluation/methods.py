"""The rows of a table: what turns the low-resolution image of a pair into a result of 4x its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from sisrm.errors import ImageError
from sisrm.evaluation.identity import configuration, weights_digest
from sisrm.evaluation.pairs import REFERENCE_PIXELS, SCALE, Pair, images_by_stem, partner
from sisrm.images import read_image
from sisrm.runtime import describe


def _no_files(name: str) -> dict[str, Path]:
    return {}


@dataclass(frozen=True)
class Method:
    """A function from a pair to an RGB image of 4x the size of `pair.low`, and what its results depend on.

    Args:
        run: the function.
        settings: for the summary, and part of what decides the results.
        identity: the rest of what decides the results, besides the pair and the versions of libraries.
        sources: name of a pair -> files that its result is taken from.
        computed: whether results are computed here, so that writing them as files makes sense.
        libraries: packages whose version the results depend on.
    """

    run: Callable[[Pair], Image.Image]
    settings: dict[str, object]
    identity: dict[str, object] = field(default_factory=dict)
    sources: Callable[[str], dict[str, Path]] = _no_files
    computed: bool = True
    libraries: tuple[str, ...] = ()

    def __call__(self, pair: Pair) -> Image.Image:
        return self.run(pair)


def bicubic(pair: Pair) -> Image.Image:
    """Pillow's bicubic enlargement, the baseline of every table."""
    return pair.low.resize((SCALE * pair.low.width, SCALE * pair.low.height), Image.Resampling.BICUBIC)


def from_folder(folder: Path) -> Method:
    """Results that another program has left in a folder.

    Raises:
        ParameterError: no folder, or no image in it. The method raises ImageError for a missing or wrongly sized
        result.
    """
    files = images_by_stem(folder)

    def run(pair: Pair) -> Image.Image:
        path = partner(pair.name, files, folder)
        image = read_image(path, source=str(path), max_pixels=REFERENCE_PIXELS)
        if image.size != pair.reference.size:
            expected = f"{pair.reference.width} x {pair.reference.height}"
            raise ImageError(path, f"{image.width} x {image.height} pixels; the reference has {expected}")
        return image

    return Method(
        run,
        {"method": "folder of results", "folder": folder.resolve().name},
        sources=lambda name: {"result": partner(name, files, folder)},
        computed=False,
    )


def from_pipeline(pipe, seed: int = 0, options: dict | None = None) -> Method:
    """The model. Every image starts from the same seed, as it would if it were the only one.

    Args:
        pipe: SISRMPipeline.
        seed: of the noise.
        options: further keyword arguments of the call; what is not in it has the default that the weights carry.
    """
    options = options or {}

    def run(pair: Pair) -> Image.Image:
        generator = torch.Generator("cpu").manual_seed(seed)
        return pipe(pair.low, generator=generator, **options).images[0]

    runs = describe(pipe)
    return Method(
        run,
        {"method": "SISRM", **pipe.defaults, **options, "seed": seed},
        {
            "weights": weights_digest(pipe),
            "configuration": configuration(pipe),
            "device": pipe.device.type,
            **{name: runs[name] for name in ("dtype", "attention_backend")},
            # Recorded work gives the same bits, compiled work does not.
            **({"compile": runs["compile"]} if runs["compile"] == "inductor" else {}),
        },
    )


def describe_model(pipe) -> dict[str, object]:
    """What `sisrm.runtime.describe` says of the model, its scheduler, the hash of its weights (`identity.weights_digest`), CPU threads."""
    own = {"scheduler": type(pipe.scheduler).__name__, "sha256": weights_digest(pipe)}
    return {**describe(pipe), **own, "cpu_threads": torch.get_num_threads()}
