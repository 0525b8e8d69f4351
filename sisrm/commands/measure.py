"""`evaluate` and `complexity`: figures, as files and as text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sisrm.commands import model
from sisrm.errors import ParameterError


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    parser.add_argument("folder", metavar="DIR", help="a folder with HR and LR, or with HR alone and --degrade")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        default="runs/evaluate",
        help="folder for the figures (default: runs/evaluate)",
    )
    pairs = parser.add_argument_group("images")
    pairs.add_argument("--degrade", type=int, metavar="SEED", help="make LR from HR with this seed")
    pairs.add_argument(
        "--degradation",
        metavar="NAME",
        default="seesr",
        help="its strength: light, camera, seesr or heavy (default: seesr)",
    )
    pairs.add_argument("--limit", type=int, metavar="N", help="only the first N images, by name")
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a row for a folder of results; may be repeated",
    )
    methods.add_argument("--no-ours", action="store_true", help="leave the model out")
    methods.add_argument("--save-images", action="store_true", help="also write the results into the output folder")
    parser.add_argument(
        "--teacher", metavar="PATH", help="a folder with teacher.safetensors: adds feature distance and class agreement"
    )
    model.add_call_arguments(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the model's noise, for every image (default: 0)"
    )
    model.add_model_arguments(parser)


def add_complexity_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `complexity`."""
    parser.add_argument(
        "--size", type=int, default=128, metavar="N", help="side of the input image in pixels (default: 128)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    model.add_model_arguments(parser)


def evaluate(options: argparse.Namespace) -> int:
    """Run `evaluate`; returns the exit status."""
    from sisrm.evaluation import report, runner
    from sisrm.evaluation.pairs import PairFolder
    from sisrm.evaluation.teacher import load_teacher

    folders = dict(_named_folder(text) for text in options.method)
    pairs = PairFolder(Path(options.folder), options.degrade, options.degradation, options.limit)
    model.generator(options.seed)  # refuses a wrong seed before anything is loaded
    teacher = None if options.teacher is None else load_teacher(options.teacher)
    pipe = None
    if not options.no_ours:
        pipe = model.load(options)
        pipe.set_progress_bar_config(disable=True)
    summary = runner.evaluate(
        pairs,
        Path(options.output),
        pipe=pipe,
        options=model.call_options(options),
        seed=options.seed,
        folders=folders,
        teacher=teacher,
        save_images=options.save_images,
    )
    print(report.markdown_table(summary["methods"]), end="")
    return 0


def complexity(options: argparse.Namespace) -> int:
    """Run `complexity`; returns the exit status."""
    from sisrm.evaluation import complexity as counting

    pipe = model.load(options)
    pipe.set_progress_bar_config(disable=True)
    report = counting.measure(pipe, options.size)
    print(json.dumps(report, indent=2) if options.json else counting.table(pipe.preset, report))
    return 0


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ParameterError("--method", text, "NAME=FOLDER")
    return name, Path(folder)
