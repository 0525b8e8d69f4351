"""What large pictures cost: each size in a process of its own, whose peak of memory is then that picture's; from file to file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from sisrm.errors import ParameterError, SISRMError
from sisrm.resize import SCALE

MOST = 256
"""Megapixels of the result of the largest photo that is accepted by default."""

KEPT = 6
"""Bytes that each pixel of a result takes at the end: the picture, which Pillow keeps with four, its class map and its M."""

_RUN = """
import json, sys, tempfile, time
from pathlib import Path
import torch
from sisrm import load_pipeline
from sisrm.evaluation import complexity
from sisrm.images import read_photo, write_png
preset, device, side, settings = sys.argv[1], sys.argv[2] or None, int(sys.argv[3]), json.loads(sys.argv[4])
pipe = load_pipeline(preset, device, compile=sys.argv[5])
pipe.set_progress_bar_config(disable=True)
device = torch.device(pipe._execution_device)
with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / "photo.png"
    complexity.probe_image(side).save(source)
    started = time.perf_counter()
    output = pipe(read_photo(source).image, generator=torch.Generator("cpu").manual_seed(0), **settings)
    write_png(output.images[0], Path(folder) / "result.png")
    seconds = time.perf_counter() - started
peak = complexity.peak_memory(device) + complexity.held_by_recordings(pipe)
print(json.dumps({"tiles": output.tiles, "seconds": seconds, "peak_memory_mb": peak / complexity.MEBIBYTE}))
"""


def measure(
    preset: str,
    megapixels: Sequence[float],
    device: str | None = None,
    settings: dict | None = None,
    compile: str = "off",
) -> list[dict]:
    """One run for each size.

    Args:
        preset: a preset's name or a pipeline folder.
        megapixels: of the results, 2**20 pixels each, of square pictures; 0.004 to MOST.
        device: None: a GPU if there is one.
        settings: keyword arguments of the call.
        compile: as in `sisrm.presets.load_pipeline`.
    Returns:
        Per size: {"input", "output": sides in pixels, "megapixels": of the result, "tiles", "seconds": from file to file without loading
        the model, "peak_memory_mb": of the whole process, or of the allocator on CUDA}.
    Raises:
        ParameterError: a size is out of range. SISRMError: a run failed.
    """
    rows = []
    for size in megapixels:
        if not 0.004 <= size <= MOST:
            raise ParameterError("--megapixels", size, f"numbers from 0.004 to {MOST}, the megapixels of the results")
    for size in megapixels:
        side = round((size * 2**20) ** 0.5 / SCALE)
        call = [sys.executable, "-c", _RUN, preset, device or "", str(side), json.dumps(settings or {}), compile]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise SISRMError(f"{SCALE * side} x {SCALE * side} pixels failed: {last}")
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({"input": side, "output": SCALE * side, "megapixels": size, **found})
    return rows


def table(rows: Sequence[dict]) -> str:
    """`measure` as Markdown."""
    lines = [
        "| result | photo | tiles | seconds | per megapixel | peak memory | of it the result itself |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = KEPT * row["output"] ** 2 / 2**20
        lines.append(
            f"| {row['megapixels']:g} MP | {row['input']} x {row['input']} | {row['tiles']} | {row['seconds']:.1f} | "
            f"{row['seconds'] / row['megapixels']:.1f} s | {row['peak_memory_mb']:,.0f} MB | {kept:,.0f} MB |"
        )
    return "\n".join(lines) + "\n"
