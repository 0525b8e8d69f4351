"""`doctor`: what this machine has, what would run on it and why, and which weights are there."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil

from sisrm import __version__
from sisrm.commands import model

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "xformers",
    "safetensors",
    "huggingface_hub",
    "gradio",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `doctor`."""
    model.add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")


def run(options: argparse.Namespace) -> int:
    """Run `doctor`; returns the exit status: 0 when the chosen preset loads, else 2. Nothing is downloaded."""
    report = examine(options)
    print(json.dumps(report, indent=2) if options.json else table(report))
    return 0 if report["loads"] == "yes" else 2


def examine(options: argparse.Namespace) -> dict[str, object]:
    """Everything `doctor` tells: machine, versions, memory, presets, and how the chosen preset loads."""
    from sisrm.errors import SISRMError
    from sisrm.presets import PRESETS, default_preset
    from sisrm.runtime import choose_acceleration, choose_attention_backend, choose_device, choose_dtype, describe

    device = choose_device(options.device)
    # Components that take turns are known once they are loaded.
    acceleration = choose_acceleration(model.asked_compile(options), device, in_turns=False)
    dtype = choose_dtype(device)
    backend = choose_attention_backend(device, dtype)
    chosen = options.preset or default_preset()
    report: dict[str, object] = {
        "sisrm": __version__,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "device": _name_of(device),
        "dtype": str(dtype).removeprefix("torch."),
        "attention": f"{backend.name}: {backend.reason}",
        "compile": f"{acceleration.name}: {acceleration.reason}",
        "free_memory": _free_memory(device),
        "presets": {preset.name: _state_of(preset) for preset in PRESETS.values()},
        "sisrm_weights": os.environ.get("SISRM_WEIGHTS") or "not set",
        "preset": chosen,
    }
    if chosen in PRESETS and not PRESETS[chosen].ready():
        return report | {"loads": "no: " + report["presets"][chosen], "parts": {}}
    try:
        pipe = model.load(options)
    except SISRMError as error:
        return report | {"loads": f"no: {error}", "parts": {}}
    trained = describe(pipe)["trained_parts"]
    return report | {
        "compile": f"{pipe.acceleration.name}: {pipe.acceleration.reason}",
        "loads": "yes",
        "parts": {name: "trained" if learnt else "not trained" for name, learnt in trained.items()},
    }


def table(report: dict[str, object]) -> str:
    """The report as lines of "name: value"."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key}: {entry}" for key, entry in value.items())]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def _state_of(preset) -> str:
    """One line: ready, or what would have to be downloaded, from where, at which commit."""
    absent = preset.missing()
    pins = ", ".join(
        f"{part.repository}@{part.revision[:12]}" for part in (*preset.needs, *filter(None, [preset.fast]))
    )
    state = "ready" if preset.ready() else "not assembled; it is, from public parts, when it is first used"
    if absent:
        state += "; to be downloaded: " + ", ".join(absent)
    return state + (f" (pinned: {pins})" if pins else "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _name_of(device) -> str:
    import torch

    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _free_memory(device) -> dict[str, str]:
    """GiB free: of the GPU, of the machine where the system tells, of the disk that the weights are kept on."""
    import torch
    from huggingface_hub import constants

    found = {}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found["gpu"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB"
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found["memory"] = f"{os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    place = constants.HF_HOME
    while not os.path.exists(place):
        place = os.path.dirname(place)
    found["disk"] = f"{shutil.disk_usage(place).free / 2**30:.1f} GiB"
    return found
