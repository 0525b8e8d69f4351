"""The teacher: a DeepLab-v3+ MobileNet-v2 for ADE20K, for training and for our own validation only.

It serves as soft labels for the segmenter, as pretrained features for a perceptual loss and as the measure behind
`evaluate --teacher`. No shipped feature needs it. Its weights (2.3 M parameters, batch norm folded in) are given on the
command line as a folder with `teacher.safetensors` or as that file.

Architecture: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (2018)
over Sandler et al., "MobileNetV2" (2018), output stride 8.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sisrm.errors import ParameterError, WeightsError

TEACHER_CLASSES = 151
"""Class 0 is "not sure"; class n + 1 is `sisrm.labels.CLASS_NAMES[n]`."""

# expansion, output channels, stride, dilation of each inverted residual block
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 24, 1, 1),
    (6, 32, 2, 1),
    (6, 32, 1, 1),
    (6, 32, 1, 1),
    (6, 64, 1, 1),
    (6, 64, 1, 2),
    (6, 64, 1, 2),
    (6, 64, 1, 2),
    (6, 96, 1, 2),
    (6, 96, 1, 2),
    (6, 96, 1, 2),
    (6, 160, 1, 2),
    (6, 160, 1, 4),
    (6, 160, 1, 4),
    (6, 320, 1, 4),
)
_LOW_LEVEL_BLOCK = 2
"""The block whose expanded features (a quarter of the input size) the decoder joins in."""


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups)


class InvertedResidual(nn.Module):
    """MobileNet-v2 block: widen, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, expansion: int, outputs: int, stride: int, dilation: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden) if expansion > 1 else None
        self.depthwise = _conv(hidden, hidden, 3, stride, dilation, groups=hidden)
        self.project = _conv(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, inputs, h, w) -> the block's output and its widened, filtered features."""
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        hidden = F.relu6(self.depthwise(hidden))
        output = self.project(hidden)
        return (x + output if self.residual else output), hidden


class Teacher(nn.Module):
    """Segmentation network whose intermediate features also serve as a perceptual space."""

    def __init__(self):
        super().__init__()
        self.stem = _conv(3, 32, 3, stride=2)
        widths = [32, *(outputs for _, outputs, _, _ in _BLOCKS)]
        self.blocks = nn.ModuleList(
            InvertedResidual(inputs, *block) for inputs, block in zip(widths, _BLOCKS, strict=False)
        )
        self.pool = _conv(320, 256)
        self.aspp = _conv(320, 256)
        self.fuse = _conv(512, 256)
        self.low = _conv(144, 48)
        self.dec1 = nn.Sequential(_conv(304, 304, 3, groups=304), _conv(304, 256))
        self.dec2 = nn.Sequential(_conv(256, 256, 3, groups=256), _conv(256, 256))
        self.head = _conv(256, TEACHER_CLASSES)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify every pixel.

        Args:
            images: (B, 3, H, W) in [-1, 1], H and W of the form 64 n + 1 (`teacher_input` resizes to that).

        Returns:
            Logits (B, 151, (H + 3) / 4, (W + 3) / 4), class 0 = not sure, and the 18 feature maps of stem and blocks.
        """
        features, low = self._backbone(images)
        x, low = features[-1], F.relu(self.low(low))
        context = F.relu(self.pool(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
        h = F.relu(self.fuse(torch.cat([context, F.relu(self.aspp(x))], 1)))
        h = F.interpolate(h, low.shape[2:], mode="bilinear", align_corners=True)
        h = torch.cat([h, low], 1)
        for depthwise, pointwise in (self.dec1, self.dec2):
            h = F.relu(pointwise(F.relu(depthwise(h))))
        return self.head(h), features

    def features(self, images: torch.Tensor, depth: int | None = None) -> list[torch.Tensor]:
        """The feature maps alone (the first `depth` of the 18), without the cost of the segmentation head; images as in `forward`."""
        return self._backbone(images, depth)[0]

    def _backbone(self, images: torch.Tensor, depth: int | None = None) -> tuple[list[torch.Tensor], torch.Tensor]:
        """-> (feature maps of stem and blocks, widened features of the low-level block)."""
        x = F.relu6(self.stem(images))
        features = [x]
        low = x
        for index, block in enumerate(self.blocks[: depth - 1 if depth else None]):
            x, hidden = block(x)
            features.append(x)
            if index == _LOW_LEVEL_BLOCK:
                low = hidden
        return features, low


def load_teacher(path: str | os.PathLike) -> Teacher:
    """The teacher with its weights in float32 on the CPU, frozen and in evaluation mode.

    Args:
        path: a folder that holds teacher.safetensors, or that file.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
    """
    file = Path(path)
    file = file / "teacher.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise WeightsError(f"{file}: there is no such file; --teacher takes a folder that holds teacher.safetensors")
    try:
        weights = {name: tensor.float() for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: not a readable safetensors file ({error})") from error
    teacher = Teacher()
    try:
        teacher.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"{file}: not the weights of this teacher; {str(error).splitlines()[0]}") from error
    return teacher.requires_grad_(False).eval()


def teacher_input(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] -> the teacher's range and nearest accepted size (64 n + 1 per side; 512 becomes 513).

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, 64 n + 1, 64 m + 1) in [-1, 1]; differentiable.
    """
    size = [64 * max(1, round((side - 1) / 64)) + 1 for side in images.shape[2:]]
    if size != list(images.shape[2:]):
        images = F.interpolate(images, size, mode="bilinear", align_corners=True)
    return images * 2 - 1


def feature_distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """Perceptual distance between two lists of feature maps, as LPIPS without its learnt weights (Zhang et al. 2018).

    Every pixel's feature vector is scaled to unit length; the squared difference is summed over channels, averaged over
    pixels and then over the maps.

    Args:
        a, b: lists of (B, C_i, h_i, w_i), the second value of `Teacher.forward`.

    Returns:
        (B,), 0 for equal features, at most 4; differentiable.

    Raises:
        ParameterError: the lists do not hold maps of the same shapes.
    """
    if not a or [x.shape for x in a] != [y.shape for y in b]:
        raise ParameterError("b", [tuple(y.shape) for y in b], "feature maps of the same shapes as a")
    distances = [
        (F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)).square().sum(1).mean((1, 2))
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(distances).mean(0)


def class_agreement(result: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Share of pixels that the teacher puts into the same class in both images; "not sure" (class 0) is not a choice.

    Args:
        result, reference: logits (B, 151, h, w), the first value of `Teacher.forward`.

    Returns:
        (B,) in [0, 1].
    """
    return (result[:, 1:].argmax(1) == reference[:, 1:].argmax(1)).float().mean((1, 2))
