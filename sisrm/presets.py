"""Named presets: the one place that knows which weights a name stands for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sisrm.errors import ParameterError, WeightsError
from sisrm.pipeline import SISRMPipeline
from sisrm.runtime import choose_device, choose_dtype, prepare

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Preset:
    """title and summary are for people; location is a folder that holds a pipeline."""

    name: str
    title: str
    summary: str
    location: Path


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "compact", "SISRM compact", "this project's own weights, bundled, for any CPU or GPU", ASSETS / "compact"
        ),
    )
}


def default_preset() -> str:
    """SISRM_PRESET, or "compact"."""
    return os.environ.get("SISRM_PRESET") or "compact"


def load_pipeline(
    preset: str | None = None, device: str | None = None, dtype: torch.dtype | None = None
) -> SISRMPipeline:
    """A pipeline ready to run.

    Args:
        preset: a name in PRESETS or a folder that holds a pipeline; None: `default_preset()`.
        device: "cpu", "cuda", "cuda:N"; None chooses. dtype: None chooses by device.
    Raises:
        ParameterError: no such preset, folder or device. WeightsError: the folder's weights are missing or do not fit.
    """
    name = preset or default_preset()
    folder = PRESETS[name].location if name in PRESETS else Path(name)
    if name not in PRESETS and not folder.is_dir():
        raise ParameterError("preset", name, f"one of {', '.join(PRESETS)}, or a folder that holds a pipeline")
    check_folder(folder)
    where = choose_device(device)
    precision = dtype or choose_dtype(where)
    try:
        pipe = SISRMPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, dtype=precision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder.name}: {str(error).splitlines()[0]}") from error
    pipe.preset = name if name in PRESETS else folder.name
    pipe.weights = PRESETS[name].summary if name in PRESETS else f"the folder {folder.name}"
    return prepare(pipe, where)


def check_folder(folder: Path) -> None:
    """Raise WeightsError, naming the file, when a component of the pipeline folder has no configuration or no weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise WeightsError(
            f"{folder.name}: model_index.json is missing; expected a folder written by SISRMPipeline.save_pretrained"
        )
    for name, entry in json.loads(index.read_text()).items():
        if (
            name.startswith("_")
            or not isinstance(entry, list)
            or entry[0] is None
            or "Tokenizer" in entry[1]
            or name == "scheduler"
        ):
            continue
        if not (folder / name / "config.json").is_file() or not list((folder / name).glob("*.safetensors")):
            raise WeightsError(f"{folder.name}/{name}: expected config.json and a .safetensors file")
