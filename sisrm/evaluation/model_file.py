"""Peers as one file of weights: any 4x super-resolution model whose architecture spandrel knows.

spandrel (pip install -r requirements-eval.txt) recognises architecture and size from the weights. A .safetensors file
holds nothing but numbers; a .pth file is a pickle, which spandrel opens with an unpickler of its own that allows tensors
and nothing else, so that a file cannot run code.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError

from sisrm.errors import ImageError, ParameterError, WeightsError
from sisrm.evaluation.identity import file_digest
from sisrm.evaluation.methods import Method
from sisrm.evaluation.metrics import to_tensor
from sisrm.evaluation.pairs import SCALE, Pair
from sisrm.evaluation.perceptual import HOW_TO_GET, why_not

# What damaged, forbidden and wholly different files raised when they were tried.
_LOADING_ERRORS = (pickle.UnpicklingError, SafetensorError, OSError, EOFError, ValueError, KeyError, RuntimeError,
                   AttributeError, TypeError)  # fmt: skip


def from_model_file(path: Path, device: torch.device | str = "cpu") -> Method:
    """A model in float32 as a method.

    Args:
        path: a .pth or .safetensors file.
        device: where it runs.

    Raises:
        ParameterError: spandrel is not installed, or the model does not enlarge RGB images 4x.
        WeightsError: spandrel cannot load the file.
    """
    spandrel = _spandrel(path)
    device = torch.device(device)
    try:
        model = spandrel.ModelLoader(device=device).load_from_file(path)
    except spandrel.UnsupportedModelError as error:
        raise WeightsError(f"{path.name}: spandrel knows no architecture with such weights") from error
    except _LOADING_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(f"{path.name}: spandrel cannot load it ({reason})") from error
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise ParameterError("--method", path.name, "a model that takes one image; this one also asks for a mask")
    if (model.scale, model.input_channels, model.output_channels) != (SCALE, 3, 3):
        found = f"scale {model.scale}, {model.input_channels} channels in, {model.output_channels} out"
        raise ParameterError(
            "--method", path.name, f"a 4x model for RGB images; this {model.architecture.name} has {found}"
        )
    model.eval().float()

    def run(pair: Pair) -> Image.Image:
        result = model(to_tensor(pair.low).to(device, torch.float32))[0].float().cpu()
        size = (result.shape[2], result.shape[1])
        if size != (SCALE * pair.low.width, SCALE * pair.low.height):
            raise ImageError(pair.name, f"{path.name} gave {size[0]} x {size[1]} pixels, which is not 4x")
        return Image.fromarray(result.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())

    return Method(
        run,
        {
            "method": "model file",
            "file": path.name,
            "architecture": model.architecture.name,
            "sha256": file_digest(path),
        },
        {"device": device.type},
        libraries=("spandrel",),
    )


def _spandrel(path: Path):
    wanted = f"a folder of results; a model file needs spandrel: {HOW_TO_GET}"
    if find_spec("spandrel") is None:
        raise ParameterError("--method", path.name, wanted)
    try:
        import spandrel
    except (ImportError, RuntimeError, OSError, AttributeError) as error:  # a torchvision of another build raises them
        raise ParameterError("--method", path.name, f"{wanted} (it cannot be imported: {why_not(error)})") from error
    return spandrel
