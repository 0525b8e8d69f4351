"""Where the time, the operations and the memory of one image go, stage by stage, and how near that is to what the machine can do."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from sisrm.errors import ParameterError
from sisrm.evaluation import complexity
from sisrm.evaluation.stages import OTHER, StageMeter, laps_of, memory_laps, time_laps, watched
from sisrm.images import read_photo, write_png

MATRIX_SIDE = 2048  # large enough that a product runs at full speed, small enough to be a tenth of a second
READING, WRITING = "decode file", "encode PNG"


def measure(pipe, size: int = 128, repeats: int = 5, options: dict | None = None) -> dict:
    """Profile one size x size photo, from its file to the result's, through `pipe`.

    Args:
        pipe: SISRMPipeline, ready to run.
        size: side of the low-resolution input in pixels, at least 16.
        repeats: timed runs, warm.
        options: further keyword arguments of the call; none means its default settings.
    Returns:
        stages: name -> {"milliseconds", "fastest", "slowest": of the timed runs, median and range; "gflops"; "memory_mb": peak
            above what was held before the call, None where the system does not tell}, in the order in which they run.
        milliseconds, fastest, slowest: of the whole call, without reading and writing files. gflops: of it.
        peak_memory_mb: see `complexity.peak_memory`.
        matrix_gflops_per_second: of a plain product of square matrices in the run's type, one before every timed run, the median.
        uncounted: attention kernels that the counter has no formula for.
        device, dtype, size, repeats.
    Raises:
        ParameterError: `size` or `repeats` is out of range.
    """
    if size < 16:
        raise ParameterError("--size", size, "an integer of at least 16")
    if repeats < 1:
        raise ParameterError("--repeats", repeats, "an integer of at least 1")
    device = torch.device(pipe._execution_device)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "photo.png", Path(folder) / "result.png"
        complexity.probe_image(size).save(source)

        def whole(meter: StageMeter) -> None:
            """From file to file, charged to `meter` by stages."""
            with watched(pipe, meter):
                with meter.stage(READING):
                    image = read_photo(source).image
                generator = torch.Generator("cpu").manual_seed(0)
                result = pipe(image, generator=generator, **(options or {})).images[0]
                with meter.stage(WRITING):
                    write_png(result, target)

        def timed() -> dict[str, float]:
            meter = StageMeter(time_laps(device))
            whole(meter)
            return meter.spent

        for _ in range(complexity.calls_to_warm_up(pipe)):
            timed()
        rates, runs = [], []
        for _ in range(repeats):
            rates.append(matrix_rate(device, pipe.unet.dtype))
            runs.append(timed())
        peak = complexity.peak_memory(device) + complexity.held_by_recordings(pipe)
        operations, uncounted = _operations(pipe, whole)
        memory = _memory(device, whole)
    stages = {}
    for name in sorted(runs[0], key=lambda name: name == OTHER):
        times = [run[name] for run in runs]
        bytes_above = memory.get(name)
        stages[name] = {
            **_spread(times),
            "gflops": operations.get(name, 0) / 1e9,
            "memory_mb": None if bytes_above is None else round(bytes_above / complexity.MEBIBYTE, 1),
        }
    calls = [sum(spent for name, spent in run.items() if name not in (READING, WRITING)) for run in runs]
    return {
        "stages": stages,
        **_spread(calls),
        "gflops": sum(stage["gflops"] for stage in stages.values()),
        "peak_memory_mb": round(peak / complexity.MEBIBYTE, 1),
        "matrix_gflops_per_second": round(statistics.median(rates), 1),
        "uncounted": uncounted,
        "device": complexity.device_name(device),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "size": size,
        "repeats": repeats,
    }


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "milliseconds": round(statistics.median(times), 2),
        "fastest": round(min(times), 2),
        "slowest": round(max(times), 2),
    }


def _operations(pipe, whole: Callable[[StageMeter], None]) -> tuple[dict[str, float], list[str]]:
    """Operations per stage, and the attention kernels that were not counted."""
    with complexity.countable(pipe):
        counter = FlopCounterMode(display=False, custom_mapping=complexity.EXTRA_OPERATIONS)
        watch = complexity.UncountedAttention(counter.flop_registry)
        with counter, watch:
            meter = StageMeter(laps_of(counter.get_total_flops))
            whole(meter)
    return meter.spent, sorted(watch.names)


def _memory(device: torch.device, whole: Callable[[StageMeter], None]) -> dict[str, float]:
    """Bytes per stage; empty where the system does not tell."""
    lap = memory_laps(device)
    if lap is None:
        return {}
    meter = StageMeter(lap, max)
    whole(meter)
    return meter.spent


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = MATRIX_SIDE) -> float:
    """GFLOP/s of one product of two side x side matrices."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(side, side, generator=generator).to(device, dtype)
    complexity.wait_for(device)
    started = time.perf_counter()
    matrix @ matrix
    complexity.wait_for(device)
    return 2 * side**3 / (time.perf_counter() - started) / 1e9


def table(name: str, report: dict) -> str:
    """A report as Markdown: the stages, then the whole call."""
    top = report["matrix_gflops_per_second"]
    lines = [
        f"{name}: {report['size']} x {report['size']} to {4 * report['size']} x {4 * report['size']}, {report['device']}, "
        f"{report['dtype']}, {report['repeats']} warm runs",
        "",
        "| stage | time | fastest to slowest | GFLOPs | GFLOP/s | of a matrix product | memory on top |",
        "|---|---|---|---|---|---|---|",
    ]
    whole = {**report, "memory_mb": None}
    for stage, entry in (report["stages"] | {"whole call, without files": whole}).items():
        rate = entry["gflops"] / entry["milliseconds"] * 1000 if entry["gflops"] else None
        memory = entry["memory_mb"]
        lines.append(
            f"| {stage} | {entry['milliseconds']:.1f} ms | {entry['fastest']:.1f} to {entry['slowest']:.1f} | "
            f"{entry['gflops']:.2f} | {'' if rate is None else f'{rate:.0f}'} | {'' if rate is None else f'{rate / top:.0%}'} | "
            f"{'' if memory is None else f'{memory:.0f} MB'} |"
        )
    lines += ["", f"A plain matrix product reaches {top:,.0f} GFLOP/s; peak memory {report['peak_memory_mb']:,.0f} MB."]
    if report["uncounted"]:
        lines += ["", "Not in the total, as the counter has no formula for them: " + ", ".join(report["uncounted"])]
    return "\n".join(lines) + "\n"
