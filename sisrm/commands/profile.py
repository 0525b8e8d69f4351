"""`profile`: where one image's time goes, how a folder of them does, how long a cold start takes, and what large pictures cost."""

from __future__ import annotations

import argparse
import json

from sisrm.commands import model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `profile`."""
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[128],
        metavar="N",
        help="sides of the input image in pixels (default: 128)",
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of everything (default: 5)")
    parser.add_argument(
        "--batch", type=int, nargs="+", metavar="N", help="also time a folder of 16 photos, N photos a call"
    )
    parser.add_argument("--cold", action="store_true", help="also time fresh processes up to their first result")
    parser.add_argument(
        "--megapixels",
        type=float,
        nargs="+",
        metavar="N",
        help="time and memory of large pictures instead: one run for each of these sizes of the result, in a process of its own",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--steps", type=int, metavar="N", dest="num_inference_steps", help="denoising steps")
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="how strongly the prompt guides; 1 is off")
    model.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run `profile`; returns the exit status."""
    from sisrm.evaluation import profile, throughput

    if options.megapixels:
        return _large(options)
    pipe = model.load(options)
    pipe.set_progress_bar_config(disable=True)
    settings = model.call_options(options)
    report: dict = {"preset": pipe.preset, "settings": {**pipe.defaults, **settings}}
    report["profiles"] = [profile.measure(pipe, size, options.repeats, settings) for size in options.size]
    if options.batch:
        report["batches"] = throughput.folder_rates(pipe, options.batch, options.size[0], repeats=options.repeats)
    if options.cold:
        preset = options.preset or pipe.preset
        compile = model.asked_compile(options)
        report["cold_start"] = throughput.cold_start(preset, options.device, options.size[0], options.repeats, compile)
    print(json.dumps(report, indent=2) if options.json else _tables(report))
    return 0


def _large(options: argparse.Namespace) -> int:
    from sisrm.evaluation import large
    from sisrm.presets import default_preset

    settings = model.call_options(options)
    preset, compile = options.preset or default_preset(), model.asked_compile(options)
    rows = large.measure(preset, options.megapixels, options.device, settings, compile)
    print(json.dumps({"large": rows}, indent=2) if options.json else large.table(rows), end="\n" * options.json)
    return 0


def _tables(report: dict) -> str:
    from sisrm.evaluation import profile, throughput

    parts = [profile.table(report["preset"], entry) for entry in report["profiles"]]
    if "batches" in report:
        parts.append(throughput.table(report["batches"]))
    if "cold_start" in report:
        seconds = report["cold_start"]
        parts.append(
            f"From a cold start: {seconds['import']:.2f} s to import, {seconds['load']:.2f} s to load the weights, "
            f"first result after {seconds['first_result']:.2f} s.\n"
        )
    return "\n".join(parts).rstrip("\n")
