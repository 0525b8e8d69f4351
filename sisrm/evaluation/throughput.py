"""How long a folder of photos takes, one at a time and in batches, and how long the first result takes from a cold start."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from sisrm.errors import ParameterError, SISRMError
from sisrm.evaluation import complexity
from sisrm.images import read_photo, write_png

_COLD = """
import json, sys, time
started = time.perf_counter()
from sisrm import load_pipeline
from PIL import Image
imported = time.perf_counter()
pipe = load_pipeline(sys.argv[1], sys.argv[2] or None, compile=sys.argv[4])
loaded = time.perf_counter()
pipe.set_progress_bar_config(disable=True)
pipe(Image.new("RGB", (int(sys.argv[3]),) * 2, (90, 120, 60)))
print(json.dumps({"import": imported - started, "load": loaded - imported, "first_result": time.perf_counter() - started}))
"""


def folder_rates(pipe, batches: list[int], size: int = 128, photos: int = 16, repeats: int = 3) -> dict[int, dict]:
    """Photos per second on a folder of size x size photos, files read and written included.

    Args:
        batches: photos per call, each from 1. photos: how many there are; at least the largest batch is taken.
        repeats: passes over the folder with each batch, after one call to warm up.
    Returns:
        batch -> {"photos_per_second", "slowest", "fastest", "milliseconds": median per photo, "peak_memory_mb": of the process so
        far, or on CUDA of this batch}.
    Raises:
        ParameterError: a batch or `repeats` is below 1.
    """
    for name, values in (("--batch", batches), ("--repeats", [repeats])):
        if not values or min(values) < 1:
            raise ParameterError(name, values, "integers of at least 1")
    device = torch.device(pipe._execution_device)
    report = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as writer:
        count = max(photos, *batches)
        sources = [Path(folder) / f"{index:03}.png" for index in range(count)]
        for source in sources:
            complexity.probe_image(size).save(source)

        def work(chosen: list[Path]) -> list[Future]:
            generators = [torch.Generator("cpu").manual_seed(0) for _ in chosen]
            results = pipe([read_photo(source).image for source in chosen], generator=generators).images
            targets = [source.with_name("x4_" + source.name) for source in chosen]
            return [writer.submit(write_png, result, target) for result, target in zip(results, targets)]

        def settle(written: list[Future]) -> None:
            for entry in written:
                entry.result()

        for batch in batches:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            for _ in range(complexity.calls_to_warm_up(pipe)):
                settle(work(sources[:batch]))
            seconds = []
            for _ in range(repeats):
                started = time.perf_counter()
                written: list[Future] = []
                for first in range(0, count, batch):
                    found = work(sources[first : first + batch])
                    settle(written)  # as `upscale` does: results are written while the next call runs, and no more than that wait
                    written = found
                settle(written)
                seconds.append(time.perf_counter() - started)
            report[batch] = {
                "photos_per_second": round(count / statistics.median(seconds), 3),
                "slowest": round(count / max(seconds), 3),
                "fastest": round(count / min(seconds), 3),
                "milliseconds": round(1000 * statistics.median(seconds) / count, 1),
                "peak_memory_mb": round(
                    (complexity.peak_memory(device) + complexity.held_by_recordings(pipe)) / complexity.MEBIBYTE, 1
                ),
            }
    return report


def cold_start(
    preset: str, device: str | None = None, size: int = 128, repeats: int = 3, compile: str = "off"
) -> dict[str, float]:
    """Seconds of fresh processes: {"import", "load", "first_result": since the process began to import}, medians of `repeats`.

    Raises SISRMError when the process fails.
    """
    runs = []
    for _ in range(repeats):
        call = [sys.executable, "-c", _COLD, preset, device or "", str(size), compile]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise SISRMError(f"{preset}: the cold start failed: {last}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def table(rates: dict[int, dict]) -> str:
    """`folder_rates` as Markdown."""
    lines = [
        "| batch | photos per second | slowest to fastest pass | time per photo | peak memory |",
        "|---|---|---|---|---|",
    ]
    for batch, entry in rates.items():
        lines.append(
            f"| {batch} | {entry['photos_per_second']:.2f} | {entry['slowest']:.2f} to {entry['fastest']:.2f} | "
            f"{entry['milliseconds']:.0f} ms | {math.ceil(entry['peak_memory_mb']):,} MB |"
        )
    return "\n".join(lines) + "\n"
