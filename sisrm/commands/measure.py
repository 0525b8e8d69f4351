"""`complexity`: what one image costs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from sisrm.commands import model
from sisrm.errors import ParameterError, SISRMError


def add_complexity_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `complexity`."""
    parser.add_argument(
        "--size", type=int, default=128, metavar="N", help="side of the input image in pixels (default: 128)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON in place of a table: one report, or one by each name"
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="presets' names, or folders that hold a pipeline (default: every preset)",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="the preset's full-size networks with random weights, which need no download (--preset sd)",
    )
    model.add_device_argument(parser)


def complexity(options: argparse.Namespace) -> int:
    """Run `complexity`; returns the exit status."""
    from sisrm.evaluation import complexity as counting
    from sisrm.presets import ready_presets

    names = options.preset or ready_presets()
    if options.random_weights:
        return _random_weights(names, options)
    if len(names) == 1:
        options.preset = names[0]
        pipe = model.load(options)
        pipe.set_progress_bar_config(disable=True)
        reports = {pipe.preset: counting.measure(pipe, options.size)}
    else:
        reports = {name: _measured_apart(name, options) for name in names}
    if options.json:
        print(json.dumps(reports if len(reports) > 1 else next(iter(reports.values())), indent=2))
    else:
        print(counting.table(reports), end="")
    return 0


def _random_weights(names: list[str], options: argparse.Namespace) -> int:
    """Full-size networks that were never trained: the work is the same."""
    from sisrm.evaluation import full_size
    from sisrm.presets import PRESETS, load_random

    if len(names) != 1:
        raise ParameterError("--preset", " ".join(names), "one preset, with --random-weights")
    pipe = load_random(names[0], options.device, model.asked_compile(options))
    report = full_size.measure(pipe, PRESETS[names[0]].fast_settings, options.size)
    print(json.dumps(report, indent=2) if options.json else full_size.table(names[0], report), end="\n" * options.json)
    return 0


def _measured_apart(name: str, options: argparse.Namespace) -> dict:
    """The report of one preset out of several, from a process of its own: the peak of memory is a process's."""
    call = [sys.executable, "-m", "sisrm", "complexity", "--preset", name, "--size", str(options.size), "--json"]
    for flag, value in (("--device", options.device), ("--compile", options.compile)):
        call += [flag, value] if value else []
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SISRMError(done.stderr.strip() or f"{name}: the measurement ended with status {done.returncode}")
    return json.loads(done.stdout)
