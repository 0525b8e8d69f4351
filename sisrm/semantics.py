"""What SAPE's reading becomes (s2.2): the label prompt from the model's words and a person's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput

from sisrm.errors import ParameterError
from sisrm.sape import Label, user_labels

SEGMENTER_SIDE = 320  # shorter side that the segmenter reads; of 256, 320 and 384 the one it was most often right at


@dataclass
class SegmentationOutput(BaseOutput):
    """What SAPE saw. Lists hold one entry per image.

    class_map: (4h, 4w) uint8, ADE20K class 0..149. labels: the prompt's words with scores. prompt: the words joined by commas.
    """

    class_map: list[np.ndarray]
    labels: list[list[Label]]
    prompt: list[str]


@dataclass
class Semantics:
    """SAPE's answer in tensors: segmentation tokens (B, L_m, C) or None without E_m, the classes whose region is M, and the rest."""

    tokens: torch.Tensor | None
    region_classes: list[list[int]]
    output: SegmentationOutput


def given_labels(labels, count: int, free_text: bool) -> list[list[Label]]:
    """The user's words as one list of Labels per image; empty lists where nothing was given.

    Args:
        labels: None, a list of names for all images, or a list of lists.
        count: number of images.
        free_text: whether names outside the 150 classes are accepted.
    Raises ParameterError: not such a list, or a name that is not accepted.
    """
    if labels is None or (isinstance(labels, (list, tuple)) and not labels):
        return [[] for _ in range(count)]
    if not isinstance(labels, (list, tuple)) or len(labels) > 50 * count:
        raise ParameterError("labels", labels, "a list of class names, or one such list per image")
    per_image = labels if all(isinstance(entry, (list, tuple)) for entry in labels) else [labels] * count
    if len(per_image) != count:
        raise ParameterError("labels", labels, f"a list of class names, or {count} such lists")
    return [user_labels(list(entry), free_text) for entry in per_image]


def join_labels(words: list[Label], predicted: list[Label], extend: bool) -> list[Label]:
    """The prompt's labels: a person's words, with the predicted ones after them if `extend`; without words the predicted ones.

    Words make the prompt by themselves, so nothing unsure is added to them.
    """
    if not words:
        return predicted
    known = {label.name for label in words}
    return [*words, *(label for label in predicted if extend and not label.unsure and label.name not in known)]
