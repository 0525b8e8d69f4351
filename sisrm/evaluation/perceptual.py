"""Perceptual metrics of the paper's table 1 (LPIPS, DISTS, MANIQA, CLIPIQA) and NIQE, through pyiqa where it is installed.

pyiqa (pip install -r requirements-eval.txt) downloads each metric's weights the first time. A metric that cannot be had
is left out and the reason kept; the others are measured all the same.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import math
import pickle
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

HOW_TO_GET = "pip install -r requirements-eval.txt"

LIBRARIES = ("pyiqa", "torchvision", "timm", "openai-clip")
"""Packages whose versions the values depend on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Metric:
    """pyiqa's name, whether it compares with a reference, and the smallest side in pixels that it is computed for: the
    networks were tried down to 64, and NIQE's statistics need more than one block of 96."""

    name: str
    full_reference: bool
    min_side: int


_METRICS = {
    "lpips": _Metric("lpips", True, 64),
    "dists": _Metric("dists", True, 64),
    "maniqa": _Metric("maniqa-pipal", False, 64),
    "clipiqa": _Metric("clipiqa", False, 64),
    "niqe": _Metric("niqe", False, 192),
}

NAMES = tuple(_METRICS)
"""The metrics that this module measures, by their names in `report.METRICS`."""


class PerceptualMetrics:
    """The metrics among `names` that can be had on this machine.

    Args:
        names: among NAMES.
        device: where they are computed.

    Attributes:
        names: those that are measured.
        skipped: those that are not -> the reason, in words.
    """

    def __init__(self, names: Iterable[str] = NAMES, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.skipped: dict[str, str] = {}
        self._models = {}
        names = list(names)
        try:
            create_metric = _create_metric()
        except _Unavailable as error:
            self.skipped = dict.fromkeys(names, str(error))
            return
        for name in names:
            try:
                self._models[name] = create_metric(_METRICS[name].name, self.device)
            except _Unavailable as error:
                self.skipped[name] = str(error)

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def describe(self) -> dict[str, object]:
        """What is measured and with what, as far as values depend on it."""
        return {"metrics": self.names, "device": self.device.type} if self._models else {}

    @torch.no_grad()
    def __call__(self, result: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
        """Each metric of one image; not a number where the image is smaller than the metric works on.

        Args:
            result, reference: (1, 3, H, W) in [0, 1].
        """
        images = [image.to(self.device, torch.float32) for image in (result, reference)]
        values = {}
        for name, model in self._models.items():
            if min(result.shape[2:]) < _METRICS[name].min_side:
                values[name] = math.nan
            else:
                values[name] = model(*images[: 1 + _METRICS[name].full_reference]).item()
        return values


def skipped_line(skipped: dict[str, str], headings: dict[str, str]) -> str:
    """What a person is told of metrics that are not measured, in one line.

    Args:
        skipped: see `PerceptualMetrics`.
        headings: how each metric is called.
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(headings[name])
    return "not measured: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())


class _Unavailable(Exception):
    """A metric, or pyiqa as a whole, cannot be used here; the message says why."""


def _create_metric():
    """-> function of pyiqa's metric name and a device that gives the metric. Raises _Unavailable."""
    if find_spec("pyiqa") is None:
        raise _Unavailable(f"pyiqa is not installed; to get it: {HOW_TO_GET}")
    try:
        import pyiqa
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # a torchvision of another build raises them
        raise _Unavailable(f"pyiqa cannot be imported: {why_not(error)}") from error
    import httpx

    def create(name: str, device: torch.device):
        # Its remarks on downloads would stand in the middle of the table that goes to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                return pyiqa.create_metric(name, device=device)
            except (OSError, httpx.HTTPError, http.client.HTTPException) as error:
                raise _Unavailable(f"its weights could not be downloaded: {_first_line(error)}") from error
            except (RuntimeError, pickle.UnpicklingError, EOFError, ImportError) as error:
                raise _Unavailable(f"it could not be loaded: {_first_line(error)}") from error

    return create


def why_not(error: BaseException) -> str:
    """Why a library that is installed could not be imported, in one line."""
    about = "; torch and torchvision must be of one build" if "torchvision" in str(error) else ""
    return _first_line(error) + about


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
