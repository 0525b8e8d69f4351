"""python -m benchmarks.peers: SISRM, Real-ESRGAN x4plus' network, SeeSR's and OSEDiff's settings, in turns on this machine.

Every round times each of them once, so what slows the machine for a while slows all of them; a ratio is the median of the rounds'
own ratios. Where an image passes a part many times (50 steps) one pass is timed and multiplied, and the table says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import contestants
from benchmarks.contestants import Contestant
from sisrm.evaluation import complexity
from sisrm.evaluation.profile import matrix_rate
from sisrm.replay import Replay


def measure(entrants: list[Contestant], repeats: int, warm_up: int = 0) -> dict[str, dict]:
    """Time the entrants in `repeats` rounds after one to warm up, in which their operations are counted, and `warm_up` more. The first is
    compared with.

    Returns:
        name -> {"parameters", "gflops", "milliseconds", "fastest", "slowest": of one image; "ratio", "least_ratio", "most_ratio":
        times the first entrant's time, over the rounds; "parts": name -> {"milliseconds", "gflops": of one pass, "passes"}, "note"}.
    """
    works = {id(part.work): part.work for entrant in entrants for part in entrant.parts}
    operations = {key: _operations(work) for key, work in works.items()}
    for _ in range(warm_up):
        for work in works.values():
            work()
    rounds = []
    for _ in range(repeats):
        times = {}
        for key, work in works.items():
            started = time.perf_counter()
            work()
            times[key] = 1000 * (time.perf_counter() - started)
        rounds.append(times)
    report, first = {}, None
    for entrant in entrants:
        images = [sum(times[id(part.work)] * part.passes for part in entrant.parts) for times in rounds]
        first = first or images
        ratios = [mine / theirs for mine, theirs in zip(images, first)]
        report[entrant.name] = {
            "parameters": entrant.parameters,
            "gflops": sum(operations[id(part.work)] * part.passes for part in entrant.parts) / 1e9,
            **_spread("milliseconds", "fastest", "slowest", images, 1),
            **_spread("ratio", "least_ratio", "most_ratio", ratios, 3),
            "parts": {
                part.name: {
                    "milliseconds": round(statistics.median(times[id(part.work)] for times in rounds), 1),
                    "gflops": operations[id(part.work)] / 1e9,
                    "passes": part.passes,
                }
                for part in entrant.parts
            },
            "note": entrant.note,
        }
    return report


def _spread(middle: str, least: str, most: str, values: list[float], digits: int) -> dict[str, float]:
    ordered = (statistics.median(values), min(values), max(values))
    return {name: round(value, digits) for name, value in zip((middle, least, most), ordered)}


def _operations(work) -> int:
    """Floating-point operations of one call, attention on a CPU included."""
    with FlopCounterMode(display=False, custom_mapping=complexity.EXTRA_OPERATIONS) as counter:
        work()
    return counter.get_total_flops()


def table(report: dict[str, dict], facts: dict) -> str:
    """The report as Markdown."""
    lines = [
        f"One {facts['size']} x {facts['size']} image x4 on {facts['device']} in {facts['dtype']}, {facts['repeats']} rounds; a plain "
        f"matrix product reaches {facts['matrix_gflops_per_second']:,.0f} GFLOP/s.",
        "",
        "| | parameters | GFLOPs | time | fastest to slowest | times ours | least to most |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in report.items():
        lines.append(
            f"| {name} | {entry['parameters'] / 1e6:,.1f} M | {entry['gflops']:,.0f} | {entry['milliseconds'] / 1000:,.3f} s | "
            f"{entry['fastest'] / 1000:,.3f} to {entry['slowest'] / 1000:,.3f} | {entry['ratio']:,.2f} | "
            f"{entry['least_ratio']:,.2f} to {entry['most_ratio']:,.2f} |"
        )
    lines.append("")
    for name, entry in report.items():
        if len(entry["parts"]) > 1:
            sums = " + ".join(
                f"{part} {values['milliseconds'] / 1000:,.2f} s"
                + (f" x {values['passes']}" if values["passes"] > 1 else "")
                for part, values in entry["parts"].items()
            )
            lines.append(f"- {name}, {entry['note']}: {sums}")
    return "\n".join(lines).rstrip("\n") + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition(":")[2].strip())
    parser.add_argument(
        "--preset", metavar="NAME", help="ours: a preset's name or a pipeline's folder (default: compact)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument(
        "--compile",
        choices=("off", "graphs"),
        help="graphs: on a GPU the work of all of them is recorded as CUDA graphs (default: SISRM_COMPILE, or graphs)",
    )
    parser.add_argument("--size", type=int, default=128, metavar="N", help="side of the LR image (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="leave Stable Diffusion's networks out (2.6 GB, minutes on a CPU)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Time everything and print the table; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.size < 16:
        parser.error("--repeats from 1, --size from 16")
    from sisrm.presets import load_pipeline
    from sisrm.runtime import asked_acceleration

    pipe = load_pipeline(options.preset, options.device, compile=asked_acceleration(options.compile, "graphs"))
    pipe.set_progress_bar_config(disable=True)
    device, dtype = torch.device(pipe._execution_device), pipe.unet.dtype
    # Of their own, and without a limit: theirs and ours must not push each other out.
    replay = None if pipe.replay is None else Replay(limit=sys.maxsize)
    network = contestants.real_esrgan(options.size, device, dtype, replay)
    entrants = [contestants.ours(pipe, options.size), network]
    report = measure(entrants, options.repeats, complexity.calls_to_warm_up(pipe) - 1)
    if not options.quick:
        report |= _beside_stable_diffusion(entrants[0], options, device, dtype, replay)
    facts = {
        "size": options.size,
        "repeats": options.repeats,
        "device": complexity.device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "matrix_gflops_per_second": round(statistics.median(matrix_rate(device, dtype) for _ in range(5)), 1),
    }
    print(json.dumps({**facts, "entrants": report}, indent=2) if options.json else table(report, facts))
    return 0


def _beside_stable_diffusion(ours: Contestant, options, device: torch.device, dtype: torch.dtype, replay) -> dict[str, dict]:
    """SeeSR's and OSEDiff's rows, in rounds of their own with ours: they evict everything else from the processor's caches."""
    others = contestants.stable_diffusion(options.size, device, dtype, replay)
    report = measure([ours, *others], options.repeats, 0 if replay is None else complexity.WARM_UP - 1)
    gc.collect()
    return {name: entry for name, entry in report.items() if name != ours.name}


if __name__ == "__main__":
    sys.exit(main())
