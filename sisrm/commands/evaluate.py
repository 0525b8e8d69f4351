"""`evaluate`: methods against sharp originals, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from sisrm.commands import model
from sisrm.commands.files import complain
from sisrm.errors import ParameterError

_SETTINGS = {
    "num_inference_steps": int,
    "guidance_scale": float,
    "top_k": int,
    "use_mff": bool,
    "use_sca": bool,
    "use_sape": bool,
    "start_strength": float,
    "controlnet_conditioning_scale": float,
    "color_fix": str,
    "color_fix_strength": float,
    "seed": int,
}
"""What --ours can change, by the pipeline call's own names."""

_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
_TRUTH = {"true": True, "false": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    add_pair_arguments(parser, "runs/evaluate")
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a row for a folder of results, or for a 4x model that spandrel loads (.pth, .safetensors); may be repeated",
    )
    methods.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help=f"a further row for the model with other settings ({', '.join(_SETTINGS)}); may be repeated",
    )
    methods.add_argument("--no-ours", action="store_true", help="leave out the model's row of default settings")
    add_metric_arguments(parser)
    model.add_call_arguments(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the model's noise, for every image (default: 0)"
    )
    model.add_model_arguments(parser)


def add_pair_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """What every table is measured on, and the folder (`output` where none is given) that it goes to."""
    parser.add_argument("folder", metavar="DIR", help="a folder with HR and LR, or with HR alone and --degrade")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        default=output,
        help=f"folder for the figures; rows that it holds already are not computed again (default: {output})",
    )
    pairs = parser.add_argument_group("images")
    pairs.add_argument(
        "--protocol",
        metavar="NAME",
        default="folder",
        help="folder: DIR as it is; realsr: LR of 128 x 128; div2k-val: photos in DIR or DIR/HR, shortest side to 512, "
        "centre crop, seesr degradation (default: folder)",
    )
    pairs.add_argument(
        "--degrade", type=int, metavar="SEED", help="make LR from HR with this seed (div2k-val: 0 when left out)"
    )
    pairs.add_argument(
        "--degradation",
        metavar="NAME",
        default="seesr",
        help="its strength: light, camera, seesr or heavy (default: seesr)",
    )
    pairs.add_argument("--limit", type=int, metavar="N", help="only the first N images, by name")


def add_metric_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured beside PSNR-Y, SSIM-Y and gradient energy."""
    measures = parser.add_argument_group("metrics")
    measures.add_argument(
        "--metrics",
        metavar="A,B,...",
        help="of lpips, dists, maniqa, clipiqa, niqe only these (default: all that can be had); psnr_y, ssim_y and "
        "gradient_energy are always there",
    )
    measures.add_argument(
        "--teacher", metavar="PATH", help="a folder with teacher.safetensors: adds feature distance and class agreement"
    )
    measures.add_argument("--time", action="store_true", help="add the seconds that each picture takes on this machine")
    measures.add_argument("--save-images", action="store_true", help="also write the results into the output folder")


def run(options: argparse.Namespace) -> int:
    """Run `evaluate`; returns the exit status."""
    peers = _named(_peer(text) for text in options.method)
    variants = _named(_variant(text) for text in options.ours)

    from sisrm.evaluation.table import table_methods

    def methods(pipe, device):
        return table_methods(
            pipe,
            model.call_options(options),
            options.seed,
            peers=peers,
            variants=variants,
            ours=not options.no_ours,
            device=device,
        )

    seeds = [options.seed, *(changes["seed"] for changes in variants.values() if "seed" in changes)]
    measure_table(options, methods, seeds, with_model=bool(variants) or not options.no_ours, show=_show)
    return 0


def _show(summary: dict, output: Path) -> None:
    from sisrm.evaluation import report

    print(report.markdown_table(summary["methods"]), end="")


def measure_table(
    options: argparse.Namespace,
    methods: Callable[..., dict],
    seeds: list[int],
    show: Callable[[dict, Path], None],
    with_model: bool = True,
) -> None:
    """Measure methods as the options of `add_pair_arguments` and `add_metric_arguments` say.

    Args:
        methods: (pipeline or None, device) -> the rows, as `runner.evaluate` takes them.
        seeds: that will be used; refused ones are told before anything is loaded.
        show: gets the summary and the output folder, in the main process.
        with_model: whether the pipeline is needed.
    """
    from sisrm.evaluation import report, runner
    from sisrm.evaluation.methods import describe_model
    from sisrm.evaluation.parallel import shared
    from sisrm.evaluation.perceptual import PerceptualMetrics, skipped_line
    from sisrm.evaluation.protocols import open_pairs
    from sisrm.evaluation.teacher import load_teacher
    from sisrm.runtime import choose_device

    wanted = _metrics(options.metrics)
    pairs = open_pairs(options.protocol, Path(options.folder), options.degrade, options.degradation, options.limit)
    for seed in seeds:
        model.generator(seed)
    with shared(options.device) as share:
        options.device = options.device or share.device
        device = choose_device(options.device)
        teacher = None if options.teacher is None else load_teacher(options.teacher)
        pipe = None
        if with_model:
            pipe = model.load(options)
            pipe.set_progress_bar_config(disable=True)
        with share.main_first():
            perceptual = PerceptualMetrics(wanted, device)
        if perceptual.skipped and share.is_main:
            complain(skipped_line(perceptual.skipped, {name: report.METRICS[name].label for name in wanted}))
        summary = runner.evaluate(
            pairs,
            Path(options.output),
            methods(pipe, device),
            model=None if pipe is None else describe_model(pipe),
            teacher=teacher,
            perceptual=perceptual,
            save_images=options.save_images,
            timed=options.time,
            share=share,
        )
        if share.is_main:
            show(summary, Path(options.output))


def _peer(text: str) -> tuple[str, str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ParameterError("--method", text, "NAME=FOLDER, or NAME=FILE.pth, NAME=FILE.safetensors")
    return "--method", name, Path(path)


def _variant(text: str) -> tuple[str, str, dict[str, object]]:
    name, colon, listed = text.partition(":")
    settings = dict(_setting(part.strip()) for part in listed.split(",") if part.strip())
    if not (name and colon and settings):
        raise ParameterError("--ours", text, f"NAME:KEY=VALUE,... with the keys {', '.join(_SETTINGS)}")
    return "--ours", name, settings


def _setting(text: str) -> tuple[str, object]:
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in _SETTINGS:
        raise ParameterError("--ours", text, f"KEY=VALUE with one of the keys {', '.join(_SETTINGS)}")
    kind = _SETTINGS[key]
    try:
        return key, _TRUTH[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise ParameterError(f"--ours {key}", value, _KINDS[kind]) from None


def _named(entries: Iterable[tuple[str, str, object]]) -> dict:
    found = {}
    for flag, name, value in entries:
        if name in found:
            raise ParameterError(flag, name, "each name once")
        found[name] = value
    return found


def _metrics(text: str | None) -> list[str]:
    """The perceptual metrics that --metrics asks for, in the order of the table."""
    from sisrm.evaluation.perceptual import NAMES
    from sisrm.evaluation.report import METRICS

    if text is None:
        return list(NAMES)
    accepted = [name for name in METRICS if not name.startswith("teacher_") and name != "seconds"]
    given = [part.strip() for part in text.split(",") if part.strip()]
    for name in given:
        if name not in accepted:
            raise ParameterError("--metrics", name, f"names from {', '.join(accepted)}, with commas between them")
    return [name for name in NAMES if name in given]
