"""`evaluate DIR`: several methods over the same image pairs, the same metrics for each, one table.

The model runs through the same pipeline call as the app and the command line, so its figures are those that a user
gets.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from sisrm.errors import ImageError, ParameterError
from sisrm.evaluation import metrics, report
from sisrm.evaluation.pairs import REFERENCE_PIXELS, SCALE, Pair, PairFolder, images_by_stem, partner
from sisrm.evaluation.teacher import Teacher, class_agreement, feature_distance, teacher_input
from sisrm.images import read_image
from sisrm.runtime import describe

Method = Callable[[Pair], Image.Image]
"""A method turns `pair.low` into an RGB image of exactly 4x its size."""

_REPORTED_PACKAGES = ("torch", "torchmetrics", "diffusers", "numpy", "pillow")


def evaluate(
    pairs: PairFolder,
    output: Path,
    *,
    pipe=None,
    options: dict | None = None,
    seed: int = 0,
    folders: dict[str, Path] | None = None,
    teacher: Teacher | None = None,
    save_images: bool = False,
) -> dict:
    """Run every method over every pair and write per_image.csv, summary.json and table.md.

    Args:
        pairs: what to evaluate on.
        output: folder for the three files; made when missing.
        pipe: SISRMPipeline, the method "ours"; None leaves the model out.
        options: keyword arguments of the pipeline call; what is not in it has the default that the weights carry.
        seed: of the model's noise, the same for every image.
        folders: name -> folder of finished results, joined by file name without ending.
        teacher: adds the two teacher metrics; None leaves them out.
        save_images: also write the model's and bicubic's results below `output`.

    Returns:
        The content of summary.json: protocol, per method the mean of every metric, definitions and versions.

    Raises:
        ParameterError, ImageError: a folder or an image is missing or does not fit.
    """
    folders, options = folders or {}, options or {}
    methods: dict[str, Method] = {"bicubic": bicubic}
    for name, folder in folders.items():
        if name in ("ours", "bicubic"):
            raise ParameterError("--method", name, "another name; ours and bicubic are taken")
        methods[name] = from_folder(folder)
    if pipe is not None:
        methods["ours"] = from_pipeline(pipe, seed, options)

    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in tqdm(pairs, total=len(pairs), unit="image", disable=None):
        judge = Judge(pair.reference, teacher)
        for name, method in methods.items():
            result = method(pair)
            rows.append({"image": pair.name, "method": name, **judge(result)})
            if save_images and name not in folders:
                (output / name).mkdir(exist_ok=True)
                result.save(output / name / f"{pair.name}.png")
    protocol = pairs.describe() | ({} if pipe is None else {"seed": seed, "ours": {**pipe.defaults, **options}})
    model = None if pipe is None else describe(pipe)
    return report.write(output, rows, list(methods), protocol, model, versions())


class Judge:
    """Every metric of results against one reference; the reference's own features are computed once.

    Args:
        reference: PIL RGB.
        teacher: adds the teacher metrics; None leaves them out.
    """

    def __init__(self, reference: Image.Image, teacher: Teacher | None = None):
        self.reference = metrics.to_tensor(reference)
        self.teacher = teacher
        self.teacher_reference = None if teacher is None else self._features(self.reference)

    @torch.no_grad()
    def __call__(self, result: Image.Image) -> dict[str, float]:
        """Metrics of one result by the names of `report.METRICS`."""
        image = metrics.to_tensor(result)
        values = {
            "psnr_y": metrics.psnr_y(image, self.reference),
            "ssim_y": metrics.ssim_y(image, self.reference),
            "gradient_energy": metrics.relative_gradient_energy(image, self.reference),
        }
        if self.teacher is not None:
            logits, features = self._features(image)
            values["teacher_distance"] = feature_distance(features, self.teacher_reference[1])
            values["teacher_agreement"] = class_agreement(logits, self.teacher_reference[0])
        return {name: value.item() for name, value in values.items()}

    @torch.no_grad()
    def _features(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.teacher(teacher_input(image.float()))


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

    def method(pair: Pair) -> Image.Image:
        path = partner(pair.name, files, folder)
        image = read_image(path, source=str(path), max_pixels=REFERENCE_PIXELS)
        if image.size != pair.reference.size:
            expected = f"{pair.reference.width} x {pair.reference.height}"
            raise ImageError(path, f"{image.width} x {image.height} pixels; the reference has {expected}")
        return image

    return method


def from_pipeline(pipe, seed: int, options: dict) -> Method:
    """The model. Every image starts from the same seed, as it would if it were the only one.

    Args:
        pipe: SISRMPipeline.
        seed: of the noise.
        options: further keyword arguments of the call.
    """

    def method(pair: Pair) -> Image.Image:
        generator = torch.Generator("cpu").manual_seed(seed)
        return pipe(pair.low, generator=generator, **options).images[0]

    return method


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _REPORTED_PACKAGES}}
