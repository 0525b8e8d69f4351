"""`ablate`: table 2 of the paper, the model with its modules taken out one by one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sisrm.commands import model
from sisrm.commands.evaluate import add_metric_arguments, add_pair_arguments, measure_table
from sisrm.errors import ParameterError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `ablate`."""
    add_pair_arguments(parser, "runs/ablate")
    add_metric_arguments(parser)
    settings = parser.add_argument_group("settings", "Each one left out has the default that the weights carry.")
    settings.add_argument("--steps", type=int, metavar="N", dest="num_inference_steps", help="denoising steps")
    settings.add_argument("--guidance-scale", type=float, metavar="X", help="how strongly the prompt guides; 1 is off")
    settings.add_argument("--top-k", type=int, metavar="K", help="how many labels the prompt takes from what is seen")
    settings.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="of the noise; every variant runs with each, and their spread says what counts (default: 0 1 2)",
    )
    model.add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run `ablate`; returns the exit status. A module that gives nothing is told in the table and is no error."""
    from sisrm.evaluation import ablation

    if len(set(options.seeds)) != len(options.seeds):
        raise ParameterError("--seeds", options.seeds, "each seed once")

    def methods(pipe, device):
        return ablation.ablation_methods(pipe, options.seeds, model.call_options(options))

    def show(summary: dict, output: Path) -> None:
        compared = ablation.compare(summary["methods"], options.seeds)
        table = ablation.ablation_table(compared, options.seeds)
        report = {
            "variants": compared,
            "switches": ablation.VARIANTS,
            "seeds": options.seeds,
            "order_of_the_paper": {name: ablation.order_holds(compared, name) for name in compared["full"]},
            "paper": ablation.PAPER,
            **{key: summary[key] for key in ("protocol", "definitions", "skipped_metrics", "model", "versions")},
        }
        (output / "ablation.json").write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
        (output / "ablation.md").write_text(table, encoding="utf-8")
        print(table, end="")

    measure_table(options, methods, options.seeds, show)
    return 0
