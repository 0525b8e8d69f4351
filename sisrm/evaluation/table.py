"""From what is asked for on the command line to the rows of a table, in their order."""

from __future__ import annotations

from pathlib import Path

import torch

from sisrm.errors import ParameterError
from sisrm.evaluation.methods import Method, bicubic, from_folder, from_pipeline
from sisrm.evaluation.model_file import from_model_file

_RESERVED = ("ours", "bicubic", "cache")

MODEL_ENDINGS = (".pth", ".safetensors")
"""How the name of a model file ends that spandrel is asked to load."""


def table_methods(
    pipe=None,
    options: dict | None = None,
    seed: int = 0,
    *,
    peers: dict[str, Path] | None = None,
    variants: dict[str, dict] | None = None,
    ours: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, Method]:
    """The rows of a table, in its order: bicubic, peers, the model, the model with other settings.

    Args:
        pipe: SISRMPipeline; None leaves the model and its variants out.
        options: keyword arguments of the pipeline call; what is not in it has the default that the weights carry.
        seed: of the model's noise, the same for every image.
        peers: name -> folder of finished results, or model file (see `from_path`).
        variants: name -> what differs from `options`; may hold a seed.
        ours: whether the model has a row with `options` alone.
        device: where models of `peers` run.

    Raises:
        ParameterError: a name is taken or would not do as a folder's name; and what `from_path` raises.
    """
    peers, variants = peers or {}, variants or {}
    for flag, names in (("--method", peers), ("--ours", variants)):
        for name in names:
            if name in _RESERVED or (flag == "--ours" and name in peers):
                raise ParameterError(flag, name, f"a name that is not taken yet; {', '.join(_RESERVED)} always are")
            if not name.strip(". ") or any(sign in name for sign in "/\\|\n\r\0"):
                raise ParameterError(flag, name, "a name without slash, backslash, vertical bar and line break")
    methods = {"bicubic": Method(bicubic, {"method": "Pillow's bicubic"})}
    methods |= {name: from_path(path, device) for name, path in peers.items()}
    if pipe is not None:
        for name, changes in (({"ours": {}} if ours else {}) | variants).items():
            own = {"seed": seed, **(options or {}), **changes}
            methods[name] = from_pipeline(pipe, own.pop("seed"), own)
    return methods


def from_path(path: Path, device: torch.device | str = "cpu") -> Method:
    """A folder of finished results, or a model file that spandrel loads.

    Args:
        path: the folder or the file.
        device: where a model runs.

    Raises:
        ParameterError: neither; and what `from_folder` and `from_model_file` raise.
    """
    if path.is_dir():
        return from_folder(path)
    if path.is_file() and path.suffix.lower() in MODEL_ENDINGS:
        return from_model_file(path, device)
    raise ParameterError(
        "--method", str(path), f"an existing folder of results, or a model file ending in {' or '.join(MODEL_ENDINGS)}"
    )
