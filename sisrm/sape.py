"""SAPE, the segmentation-aware prompt extractor (s2.2, fig 2 to 4): mask embedding E_m and label prompt t from the LR image.

    E_m = F_conv(F_seg(I_LR))   (eq 1)   SegFormer's class map -> 3x3 conv -> ReLU -> 1x1 conv
    t   = G(E_m)                (eq 2)   global average pool -> fully connected -> softmax -> the k most likely names

The class map is used as SegFormer's class probabilities: they carry its doubt, which one-hot maps would lose, and they let eq 6 train the
segmenter through E_m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from sisrm.errors import ParameterError
from sisrm.labels import CLASS_NAMES, index_of

# What SegFormer's published image processors normalise with (ImageNet's statistics).
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Label:
    """One word of the prompt. index: ADE20K class or None for free text; score: the generator's probability, None when a user gave it;
    unsure: its score lies below the floor, and it is there only because nothing else is."""

    name: str
    index: int | None
    score: float | None
    unsure: bool = False


class SAPE(ModelMixin, ConfigMixin):
    """Mask encoder, label generator and the projection of E_m to SCA's semantic anchors.

    Args:
        num_classes: classes of the segmenter.
        embedding_channels: channels of E_m.
        cross_attention_dim: width of the U-Net's cross-attention.
        grid: E_m is pooled to grid x grid cells, so L_m = grid ** 2 anchors whatever the image's size.
    """

    @register_to_config
    def __init__(
        self, num_classes: int = 150, embedding_channels: int = 64, cross_attention_dim: int = 128, grid: int = 8
    ):
        super().__init__()
        self.mask_encoder = nn.Sequential(  # eq 1
            nn.Conv2d(num_classes, embedding_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(embedding_channels, embedding_channels, 1),
        )
        self.label_generator = nn.Linear(embedding_channels, num_classes)  # eq 2
        self.token_projection = nn.Linear(embedding_channels, cross_attention_dim)
        self.token_position = nn.Parameter(torch.randn(1, grid * grid, cross_attention_dim) * 0.02)

    def encode_mask(self, class_probabilities: torch.Tensor) -> torch.Tensor:
        """(B, num_classes, h, w), summing to 1 over classes -> E_m (B, embedding_channels, h, w). Eq 1."""
        return self.mask_encoder(class_probabilities)

    def label_logits(self, mask_embedding: torch.Tensor) -> torch.Tensor:
        """E_m -> (B, num_classes); softmax of it is the label distribution. Eq 2."""
        return self.label_generator(mask_embedding.mean(dim=(2, 3)))

    def tokens(self, mask_embedding: torch.Tensor) -> torch.Tensor:
        """E_m -> semantic anchors (B, grid ** 2, cross_attention_dim) that K_m and V_m of eq 8 are made from."""
        pooled = F.adaptive_avg_pool2d(mask_embedding, self.config.grid)
        return self.token_projection(pooled.flatten(2).transpose(1, 2)) + self.token_position

    def forward(self, class_probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (E_m, label logits)."""
        mask_embedding = self.encode_mask(class_probabilities)
        return mask_embedding, self.label_logits(mask_embedding)


def segmenter_input(image: torch.Tensor, side: int) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] -> normalised, shorter side `side` and both sides multiples of 32 (SegFormer's coarsest stride).

    Very long images are read at no more than four times `side` on the long side.
    """
    height, width = image.shape[-2:]
    factor = min(side / min(height, width), 4 * side / max(height, width))
    size = [max(32, round(length * factor / 32) * 32) for length in (height, width)]
    shrinking = factor < 1
    resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=shrinking)
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (resized - mean) / std


def choose_labels(probabilities: torch.Tensor, top_k: int, floor: float = 0.0) -> list[Label]:
    """At most the k most likely labels of one image, likeliest first (eq 2).

    Those below `floor` are left out, but never the first: a prompt is not empty. There it is marked as unsure.

    Args:
        probabilities: (num_classes,), summing to 1.
        floor: least score, 0 to 1.
    """
    scores, indices = probabilities.float().topk(min(top_k, len(probabilities)))
    pairs = zip(scores.tolist(), indices.tolist())
    return [
        Label(CLASS_NAMES[index], index, score, unsure=score < floor)
        for rank, (score, index) in enumerate(pairs)
        if rank == 0 or score >= floor
    ]


def user_labels(names: list[str], free_text: bool = False, argument: str = "labels") -> list[Label]:
    """Labels that a person gave. Names outside the 150 classes are kept only where the text encoder reads free text.

    Raises ParameterError, which names `argument`, for an unknown or empty name.
    """
    labels: list[Label] = []
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > 80:
            raise ParameterError(argument, name, "words of 1 to 80 characters")
        try:
            index = index_of(name)
        except ParameterError as error:
            if not free_text:
                raise ParameterError(argument, name, error.accepted) from None
            index = None
        label = Label(name.strip() if index is None else CLASS_NAMES[index], index, None)
        if label not in labels:
            labels.append(label)
    return labels


def prompt_of(labels: list[Label]) -> str:
    """The label prompt t: names, likeliest first, separated by commas."""
    return ", ".join(label.name for label in labels)
