"""`extractor DIR ...`: does SAPE read a damaged image as it reads the sharp one (s2.2, eq 6)?

There is no ground truth beside the photos: the reference is what a pretrained network, the teacher, sees on the sharp
photo. SAPE reads the same photo sharp and damaged, and each reading is held against that reference, pixel by pixel for
the class map (eq 1) and word by word for the label generator (eq 2). The teacher reads the damaged photos too, enlarged by bicubic
interpolation: how far it agrees with itself tells what its answers are worth, and what a perfect student of it could keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from sisrm.class_map import LONG_SIDE, class_map_of
from sisrm.errors import ParameterError
from sisrm.evaluation import extractor_report
from sisrm.evaluation.extractor_report import MOST_LABELS, RANKS, Row
from sisrm.evaluation.identity import module_digest, versions, weights_digest
from sisrm.evaluation.methods import bicubic
from sisrm.evaluation.pairs import Pair, PairFolder
from sisrm.evaluation.teacher import Teacher, teacher_input
from sisrm.labels import CLASS_NAMES
from sisrm.pipeline import SISRMPipeline
from sisrm.runtime import describe
from sisrm.sape import segmenter_input
from sisrm.semantics import SEGMENTER_SIDE

SURE = 0.35
"""The teacher's probability from which the training data's label maps name a class; below it they say "not sure"."""

PRESENT = 0.01
"""A class is in the photo when the teacher gives it at least this share of the pixels."""


@dataclass(frozen=True)
class Reference:
    """What the teacher sees on a sharp photo.

    Attributes:
        classes: (H, W) uint8, 0..149: the likeliest of the 150 classes, "not sure" not being a choice.
        sure: (H, W) bool: where its probability is at least SURE.
    """

    classes: np.ndarray
    sure: np.ndarray

    @property
    def present(self) -> set[int]:
        """The classes with at least PRESENT of the pixels."""
        counts = np.bincount(self.classes.ravel())
        return set(np.flatnonzero(counts >= PRESENT * self.classes.size).tolist())


@dataclass(frozen=True)
class Reading:
    """What SAPE sees.

    Attributes:
        classes: (H, W) uint8, 0..149.
        labels: the MOST_LABELS likeliest classes, likeliest first.
        scores: their probabilities by the label generator, without any floor.
    """

    classes: np.ndarray
    labels: list[int]
    scores: list[float]


@torch.no_grad()
def see(teacher: Teacher, photo: Image.Image) -> Reference:
    """The teacher's reading of a sharp photo, at the photo's size.

    Probabilities among the 150 classes are interpolated before the likeliest is taken, up to a long side of LONG_SIDE,
    as the pipeline's own class maps are. The teacher's grid starts and ends on the photo's outermost pixels.
    """
    logits = teacher(teacher_input(_to_tensor(photo)))[0].float()
    size = (photo.height, photo.width)
    shrink = min(1.0, LONG_SIDE / max(size))
    inner = [max(1, round(side * shrink)) for side in size]

    def enlarged(maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps, inner, mode="bilinear", align_corners=True)

    classes = enlarged(logits[:, 1:].softmax(1)).argmax(1, keepdim=True)
    sure = enlarged(logits.softmax(1)[:, 1:].amax(1, keepdim=True)) >= SURE
    classes, sure = (F.interpolate(maps.float(), size, mode="nearest-exact")[0, 0].numpy() for maps in (classes, sure))
    return Reference(classes.astype(np.uint8), sure > 0)


@torch.no_grad()
def read(pipe: SISRMPipeline, image: Image.Image, size: tuple[int, int]) -> Reading:
    """The steps of `SISRMPipeline.extract_semantics`, for an image of any scale.

    That method takes its image for the LR one: it would enlarge a sharp photo's class map fourfold too.

    Args:
        image: PIL RGB, sharp or damaged.
        size: (H, W) of the class map to return.
    """
    pixels = segmenter_input(_to_tensor(image).to(pipe.device), SEGMENTER_SIDE).to(pipe.segmenter.dtype)
    probabilities = pipe.segmenter(pixels).logits.float().softmax(1)
    _, logits = pipe.sape(probabilities.to(pipe.sape.dtype))
    scores, labels = logits.float().softmax(1)[0].topk(MOST_LABELS)
    return Reading(class_map_of(probabilities, size)[0].cpu().numpy(), labels.tolist(), scores.tolist())


def judge(reading: Reading, reference: Reference) -> dict[str, float]:
    """The figures of one reading.

    Returns:
        agreement: share of all pixels with the teacher's class.
        sure_agreement: the same over the pixels where the teacher is sure; NaN without any.
        mean_iou: intersection over union of each present class, over all pixels, mean over these classes.
        precision_k: share of the first k labels that are present. recall_k: share of the present classes that are
        among the first k labels. Both for the k of RANKS; mean_iou and recall_k are NaN when no class is present.
    """
    same = reading.classes == reference.classes
    present = reference.present
    overlaps = []
    for index in present:
        mine, theirs = reading.classes == index, reference.classes == index
        overlaps.append(float((mine & theirs).sum() / (mine | theirs).sum()))
    figures = {
        "agreement": float(same.mean()),
        "sure_agreement": float(same[reference.sure].mean()) if reference.sure.any() else float("nan"),
        "mean_iou": sum(overlaps) / len(overlaps) if overlaps else float("nan"),
    }
    for count in RANKS:
        right = len(present & set(reading.labels[:count]))
        figures[f"precision_{count}"] = right / count
        figures[f"recall_{count}"] = right / len(present) if present else float("nan")
    return figures


def reading_of(reference: Reference) -> Reading:
    """What the teacher sees, as if it were a reading of SAPE's: its labels are the largest classes, their scores the areas."""
    shares = np.bincount(reference.classes.ravel(), minlength=len(CLASS_NAMES)) / reference.classes.size
    labels = np.argsort(-shares, kind="stable")[:MOST_LABELS]
    return Reading(reference.classes, labels.tolist(), shares[labels].tolist())


def sources_of(folder: Path, degradations: list[str], seed: int, limit: int | None) -> dict[str, PairFolder]:
    """The damaged versions of a folder's photos by name: "LR" as it is, or made with each degradation where there is none.

    Raises:
        ParameterError: the folder holds no HR, or a setting is not accepted.
    """
    if (folder / "LR").is_dir():
        return {"LR": PairFolder(folder, limit=limit)}
    if not degradations:
        raise ParameterError("--degradation", "", "at least one name, as there is no LR folder")
    return {f"LR {name}": PairFolder(folder, seed, name, limit) for name in degradations}


def measure(
    groups: dict[str, dict[str, PairFolder]], output: Path, models: dict[str, SISRMPipeline], teacher: Teacher
) -> dict:
    """Read every photo, sharp and damaged, with every model, and write table.md, summary.json, per_image.csv, reliability.png.

    Args:
        groups: folder name -> its damaged versions, from `sources_of`.
        output: folder for the files; made when missing.
        models: "after" (the model to judge) and, if wanted, "before" (it without eq 6).
        teacher: gives the reference.

    Returns:
        The content of summary.json, see `extractor_report.write`.

    Raises:
        ImageError: an image is missing or cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    total = sum(len(next(iter(sources.values()))) for sources in groups.values())
    with tqdm(total=total, unit="photo", disable=None) as progress:
        for group, sources in groups.items():
            for pairs in zip(*sources.values(), strict=True):
                rows += _judge_photo(group, dict(zip(sources, pairs)), models, teacher)
                progress.update()
    protocol = {
        "groups": {group: [pairs.describe() for pairs in sources.values()] for group, sources in groups.items()},
        "teacher_sha256": module_digest(teacher),
        "read_at": f"shorter side {SEGMENTER_SIDE}",
        "present_from_share": PRESENT,
        "sure_from_probability": SURE,
        "prompt_labels": min(models["after"].defaults["top_k"], MOST_LABELS),
        "label_floor": models["after"].config.label_floor,
    }
    described = {name: describe(pipe) | {"weights_sha256": weights_digest(pipe)} for name, pipe in models.items()}
    return extractor_report.write(output, rows, protocol, described, versions())


def _judge_photo(group: str, pairs: dict[str, Pair], models: dict[str, SISRMPipeline], teacher: Teacher) -> list[Row]:
    """Every row of one photo; `pairs` holds its damaged versions by source."""
    first = next(iter(pairs.values()))
    reference = see(teacher, first.reference)
    size, present = reference.classes.shape, reference.present
    rows = []

    def add(source: str, model: str, reading: Reading) -> None:
        right = [label in present for label in reading.labels]
        figures = judge(reading, reference)
        rows.append(Row(group, first.name, source, model, figures, reading.scores, right, len(present)))

    add("HR", "teacher", reading_of(reference))
    for model, pipe in models.items():
        add("HR", model, read(pipe, first.reference, size))
    for source, pair in pairs.items():
        add(source, "teacher", reading_of(see(teacher, bicubic(pair))))
        for model, pipe in models.items():
            add(source, model, read(pipe, pair.low, size))
    return rows


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """PIL RGB -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
