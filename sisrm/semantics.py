"""What SAPE's reading becomes (s2.2): the label prompt from the model's words and a person's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput

from sisrm.class_map import class_map_of, largest_classes
from sisrm.errors import ParameterError
from sisrm.sape import Label, choose_labels, prompt_of, user_labels

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


@dataclass
class Reading:
    """What segmenter and SAPE see in B images of one size (eq 1, 2), before anything is chosen from it.

    probabilities: of the classes, (B, 150, h', w'), at a fraction of the image's size. tokens: E_m as (B, L_m, C). scores: (B, 150), the
    label generator's distribution.
    """

    probabilities: torch.Tensor
    tokens: torch.Tensor
    scores: torch.Tensor

    def choose(
        self,
        size: tuple[int, int],
        words: list[list[Label]],
        muted: list[Label],
        top_k: int,
        floor: float,
        extend: bool,
        use_sape: bool,
    ) -> Semantics:
        """Prompt, class map and the classes whose region is M; arguments as in `SISRMPipeline.__call__`.

        Args:
            size: (4h, 4w), of the class map.
            words: a person's labels, of each image.
        Raises ParameterError: the reading is of another number of images.
        """
        if len(self.scores) != len(words):
            raise ParameterError("reading", f"of {len(self.scores)} images", f"a reading of {len(words)}")
        class_map = [entry.cpu().numpy() for entry in class_map_of(self.probabilities, size)]
        unwanted = {label.name for label in muted}
        chosen = []
        for own, scores in zip(words, self.scores):
            joined = join_labels(own, choose_labels(scores, top_k, floor) if use_sape else [], extend)
            chosen.append([label for label in joined if label.name not in unwanted])
        output = SegmentationOutput(class_map=class_map, labels=chosen, prompt=[prompt_of(labels) for labels in chosen])
        regions = [[label.index for label in labels if label.index is not None] for labels in chosen]
        if not use_sape:
            silent = {label.index for label in muted}
            largest = [[index for index in largest_classes(entry, top_k) if index not in silent] for entry in class_map]
            regions = [known or others for known, others in zip(regions, largest)]
        return Semantics(self.tokens if use_sape else None, regions, output)


def given_labels(labels, count: int, free_text: bool, name: str = "labels") -> list[list[Label]]:
    """The user's words as one list of Labels per image; empty lists where nothing was given.

    Args:
        labels: None, a list of names for all images, or a list of lists.
        count: number of images.
        free_text: whether names outside the 150 classes are accepted.
        name: of the argument, for errors.
    Raises ParameterError: not such a list, or a name that is not accepted.
    """
    if labels is None or (isinstance(labels, (list, tuple)) and not labels):
        return [[] for _ in range(count)]
    if not isinstance(labels, (list, tuple)) or len(labels) > 50 * count:
        raise ParameterError(name, labels, "a list of class names, or one such list per image")
    per_image = labels if all(isinstance(entry, (list, tuple)) for entry in labels) else [labels] * count
    if len(per_image) != count:
        raise ParameterError(name, labels, f"a list of class names, or {count} such lists")
    return [user_labels(list(entry), free_text, name) for entry in per_image]


def join_labels(words: list[Label], predicted: list[Label], extend: bool) -> list[Label]:
    """The prompt's labels: a person's words, with the predicted ones after them if `extend`; without words the predicted ones.

    Words make the prompt by themselves, so nothing unsure is added to them.
    """
    if not words:
        return predicted
    known = {label.name for label in words}
    return [*words, *(label for label in predicted if extend and not label.unsure and label.name not in known)]
