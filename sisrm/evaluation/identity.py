"""What figures depend on, as hashes and version numbers: two runs are the same exactly where these are."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sisrm import __version__

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = ("torch", "torchmetrics", "diffusers", "transformers", "numpy", "scipy", "pillow")
# Everything an evaluation runs; the interface and the training stages change no figure.
_CODE = ("*.py", "evaluation/*.py", "training/degradation*.py")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal, as sha256sum prints it.

    Raises:
        OSError: the file cannot be read.
    """
    content = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            content.update(block)
    return content.hexdigest()


def files_digest(files: Mapping[str, Path]) -> str:
    """SHA-256 over names and contents: of the lines "HASH  NAME" in the order of the names.

    Raises:
        OSError: a file cannot be read.
    """
    lines = "".join(f"{file_digest(path)}  {name}\n" for name, path in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_digest(pipe) -> str:
    """SHA-256 over the .safetensors files, names and contents, of the folder that a pipeline was loaded from.

    A pipeline that was put together in memory has no folder: the hash is over its components' weights.
    """
    folder = getattr(pipe, "folder", None)
    if folder is not None:
        return files_digest({path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")})
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return hashlib.sha256("".join(name + module_digest(modules[name]) for name in sorted(modules)).encode()).hexdigest()


def module_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of a module's parameters and buffers."""
    whole = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def configuration(pipe) -> dict[str, object]:
    """What a pipeline and its components are configured as, which weights alone do not tell (the noise schedule, for one)."""
    configs = {name: part.config for name, part in pipe.components.items() if hasattr(part, "config")}
    # transformers' configurations are objects, diffusers' are mappings
    parts = {name: config.to_dict() if hasattr(config, "to_dict") else dict(config) for name, config in configs.items()}
    return {"pipeline": {name: value for name, value in pipe.config.items() if not name.startswith("_")}, **parts}


def settings_digest(settings: object) -> str:
    """SHA-256 over anything that can be written as JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def versions(optional: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what the figures depend on, Python and the hash of this package's own code included.

    Args:
        optional: further packages; those that are not installed are left out.
    """
    found = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    for name in optional:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    code = {path.relative_to(_PACKAGE).as_posix(): path for pattern in _CODE for path in _PACKAGE.glob(pattern)}
    return found | {"sisrm": __version__, "sisrm_code": files_digest(code)[:16]}
