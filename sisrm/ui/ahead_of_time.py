"""On ZeroGPU: U-Net and ControlNet compiled ahead of time (SISRM_COMPILE=inductor), once, in a call at the app's start.

Every job there has a process of its own, which would begin anew with CUDA graphs or `torch.compile`; what is compiled ahead is only loaded
(https://huggingface.co/blog/zerogpu-aoti). It is made for the default settings and photos of any size; where a setting changes what a
network is given (guidance on or off, SCA or the ControlNet off, several tiles at once) the network runs as it is.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch.utils import _pytree as pytree

from sisrm.runtime import Acceleration

logger = logging.getLogger(__name__)

SECONDS = 1500
"""What ZeroGPU allows for a call at the start."""

NETWORKS = ("controlnet", "unet")


def layout(given: Any) -> tuple:
    """What a compiled network relies on: the structure, what is no tensor, and of tensors all but height and width."""
    leaves, structure = pytree.tree_flatten(given)

    def kind(leaf: Any) -> tuple:
        if not isinstance(leaf, torch.Tensor):
            return type(leaf), leaf
        return (leaf.shape[:2] if leaf.ndim == 4 else leaf.shape), leaf.ndim, leaf.dtype

    return str(structure), tuple(map(kind, leaves))


class AheadOfTime:
    """A network's `forward`: `compiled` for calls of `layout` `made_for`, else `plain`, its own."""

    def __init__(self, plain: Callable, compiled: Callable, made_for: tuple):
        self.plain, self.compiled, self.made_for = plain, compiled, made_for

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fits = layout((args, kwargs)) == self.made_for
        return (self.compiled if fits else self.plain)(*args, **kwargs)


def compile_ahead(pipe, spaces: ModuleType) -> None:
    """Compile the networks that run at every step; where that fails they stay as they are, and the reason is logged.

    Args:
        pipe: a `SISRMPipeline` that is ready to run.
        spaces: ZeroGPU's package.
    """
    networks = {name: getattr(pipe, name) for name in NETWORKS}

    def on_the_gpu() -> dict[str, tuple[Callable, tuple]]:
        return {name: _compiled(pipe, network, spaces) for name, network in networks.items()}

    try:
        made = spaces.GPU(duration=SECONDS)(on_the_gpu)()
    except Exception as error:  # noqa: BLE001 - whatever the compiler stumbles over, the app can do without it
        pipe.acceleration = Acceleration("off", f"compiling ahead of time failed: {error}")
        logger.warning("%s", pipe.acceleration.reason)
        return
    for name, network in networks.items():
        network.forward = AheadOfTime(network.forward, *made[name])


def _compiled(pipe, network: torch.nn.Module, spaces: ModuleType) -> tuple[Callable, tuple]:
    """On the GPU: (the compiled network, the layout of calls that it takes)."""
    with spaces.aoti_capture(network) as call:
        pipe(Image.new("RGB", (128, 128), (90, 120, 60)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = torch.export.export(
            network, call.args, call.kwargs, dynamic_shapes=_sizes_free(network, call.args, call.kwargs), strict=False
        )
        return spaces.aoti_compile(exported), layout((call.args, call.kwargs))


def _sizes_free(network: torch.nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """For torch.export: height and width of pictures may be any, all else is as in the example."""

    def free(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return None
        return dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC) if leaf.ndim == 4 else {}

    names = inspect.signature(network.forward).parameters
    return dict(zip(names, pytree.tree_map(free, args))) | pytree.tree_map(free, kwargs)
