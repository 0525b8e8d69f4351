"""What the commands with a model share: their options, loading it quietly, and the seed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sisrm.errors import ParameterError
from sisrm.startup import swift_imports

FLAGS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance-scale",
    "top_k": "--top-k",
    "labels": "--labels",
    "shares": "--save-steps",
    "preset": "--preset",
    "fast": "--fast",
    "scheduler": "--scheduler",
    "tile_size": "--tile-size",
    "device": "--device",
    "compile": "--compile",
}
"""How the command line spells the pipeline's parameters, for error messages."""

_CALL_OPTIONS = ("num_inference_steps", "guidance_scale", "top_k", "use_mff", "labels", "extend_labels", "tile_size")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--preset, --device and --compile, which every command with a model takes."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--preset", metavar="NAME", help="a preset's name, or a folder that holds a pipeline (default: compact)"
    )
    add_device_argument(model)


def add_device_argument(parser) -> None:
    """--device and --compile, of a parser or a group of options."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument(
        "--compile",
        choices=("off", "graphs", "inductor"),
        help="graphs: CUDA graphs for sizes that come again, on a GPU; inductor: torch.compile too, minutes on the first photo; "
        "off: neither (default: SISRM_COMPILE, or graphs)",
    )


def add_call_arguments(parser: argparse.ArgumentParser) -> None:
    """The settings of the pipeline call that upscale and evaluate share."""
    call = parser.add_argument_group("settings", "Each one left out has the default that the weights carry.")
    call.add_argument(
        "--fast",
        action="store_const",
        const=True,
        help="few steps through a consistency LoRA, for presets that have one (default: SISRM_FAST=1)",
    )
    call.add_argument(
        "--steps", type=int, metavar="N", dest="num_inference_steps", help="denoising steps; more is slower"
    )
    call.add_argument(
        "--scheduler",
        choices=("ddim", "unipc"),
        help="how a step is taken: ddim, or unipc of second order (default: the weights' own, ddim)",
    )
    call.add_argument("--guidance-scale", type=float, metavar="X", help="how strongly the prompt guides; 1 is off")
    call.add_argument(
        "--top-k", type=int, metavar="K", help="at most how many labels the prompt takes from what is seen"
    )
    call.add_argument(
        "--tile-size",
        type=int,
        metavar="N",
        help="largest side of a tile in pixels of the photo, 64 to 1024; smaller takes less memory and more time",
    )
    call.add_argument(
        "--mff",
        action=argparse.BooleanOptionalAction,
        dest="use_mff",
        default=True,
        help="limit local control to the labels' regions (mask feature fusion); --no-mff applies it everywhere",
    )


def call_options(options: argparse.Namespace) -> dict:
    """The keyword arguments for the pipeline call that were given on the command line."""
    return {name: getattr(options, name) for name in _CALL_OPTIONS if getattr(options, name, None) is not None}


def asked_compile(options: argparse.Namespace) -> str:
    """What --compile, or SISRM_COMPILE, asks for; CUDA graphs where neither does. Raises ParameterError: SISRM_COMPILE is no such name."""
    from sisrm.runtime import asked_acceleration

    return asked_acceleration(options.compile, "graphs")


def load(options: argparse.Namespace):
    """The pipeline that --preset, --device and --compile ask for. It shows a bar per image on a terminal and none elsewhere.

    Raises:
        ParameterError, WeightsError: see `sisrm.presets.load_pipeline`.
    """
    with swift_imports():
        import diffusers
        import transformers

        from sisrm.presets import load_pipeline
    from sisrm.schedulers import choose_scheduler

    # Bars and remarks of the libraries would bury the lines about files that cannot be used.
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        if not options.verbose:
            library.utils.logging.set_verbosity_error()
    fast = getattr(options, "fast", None)
    pipe = load_pipeline(options.preset, options.device, fast=fast, compile=asked_compile(options))
    if getattr(options, "scheduler", None):
        pipe.scheduler = choose_scheduler(options.scheduler, pipe.scheduler)
    pipe.set_progress_bar_config(disable=None, leave=False)
    return pipe


def weights_folder(options: argparse.Namespace) -> Path:
    """The folder of the pipeline that `load` would take, assembled or downloaded where that is needed.

    Raises:
        ParameterError: there is no such preset or folder. WeightsError: it could not be assembled.
    """
    from sisrm.presets import PRESETS, default_preset

    name = options.preset or default_preset()
    if name not in PRESETS and not Path(name).is_dir():
        raise ParameterError("preset", name, f"one of {', '.join(PRESETS)}, or a folder that holds a pipeline")
    return PRESETS[name].folder() if name in PRESETS else Path(name)


def weights_identity(options: argparse.Namespace) -> list[object]:
    """What tells the weights and their configuration from others: hashes, and whether the fast mode is on.

    A published folder's list of checksums stands for its weights, as they are checked against it when they are loaded.
    """
    from sisrm.evaluation.identity import files_digest
    from sisrm.weights import CHECKSUMS, weight_files

    folder = weights_folder(options)
    sums = folder / CHECKSUMS
    files = [*folder.glob("*.json"), *folder.glob("*/*.json"), *([sums] if sums.is_file() else weight_files(folder))]
    fast = getattr(options, "fast", None)
    return [
        files_digest({path.relative_to(folder).as_posix(): path for path in files}),
        os.environ.get("SISRM_FAST") == "1" if fast is None else fast,
    ]


def generator(seed: int | None):
    """A seeded generator; None lets the pipeline draw a fresh seed.

    Raises:
        ParameterError: the seed does not fit into 64 bits.
    """
    import torch

    if seed is None:
        return None
    if not 0 <= seed < 2**63:
        raise ParameterError("--seed", seed, "an integer from 0 to 9223372036854775807")
    return torch.Generator("cpu").manual_seed(seed)
