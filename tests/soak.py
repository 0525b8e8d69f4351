"""`make soak`: hundreds of jobs on one running app; memory and disk must stay flat.

    python tests/soak.py [JOBS] [--leak MB]

The app is `python app.py` on a tiny model, so that what grows is the app's, not the model's. Four clients at a time ask for pictures of
several sizes and formats; every tenth sends a file that is no image, every seventh goes away without waiting for its answer. Exit status 1
where memory is not flat (`is_flat`), the disk holds more than its bound, or a client got another answer than it should. With --leak every
job keeps so many megabytes, which must be found: the exit status says whether the measurement can be trusted.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
from conftest import tiny_pipe
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
API = "/gradio_api"
MEGABYTES = 4
READINGS = 30  # of memory, spread evenly over the jobs

GROWTH = 0.2
"""Megabytes a job by which memory may seem to grow: the noise of a reading (about 10 MB) over a third of 300 jobs is half of it."""

CEILING = 1200
"""Megabytes that the process may hold; libraries and the tiny model take 700."""

LEAKING = """
import runpy, sys
from sisrm.ui.handlers import Handlers
upscale, kept = Handlers.upscale, []
def leaking(*args, **options):
    kept.append(b"x" * round({leak} * 2**20))
    return upscale(*args, **options)
Handlers.upscale = leaking
runpy.run_path("app.py", run_name="__main__")
"""


def is_flat(memory: list[float], jobs: int) -> tuple[bool, float]:
    """-> (whether it is, megabytes of growth per job).

    The first third warms up: threads, caches and remembered sessions fill. After it the median of the last third is held against the
    median of the middle one, so that no single reading decides.

    Args:
        memory: readings in megabytes, evenly spread over the jobs.
        jobs: how many there were.
    """
    third = len(memory) // 3
    middle, last = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    growth = (last - middle) / (jobs / 3)
    return growth <= GROWTH and max(memory) <= CEILING, growth


def main(jobs: int, leak: float = 0.0) -> int:
    with tempfile.TemporaryDirectory() as folder:
        uploads = Path(folder) / "uploads"
        tiny_pipe().save_pretrained(Path(folder) / "tiny")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ, "SISRM_PRESET": str(Path(folder) / "tiny"), "SISRM_DEVICE": "cpu", "SISRM_STORAGE_MB": str(MEGABYTES),
            "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(uploads), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        command = ["-c", LEAKING.format(leak=leak)] if leak else ["app.py"]
        with open(Path(folder) / "log", "w") as log:
            server = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            return soak(server, f"http://127.0.0.1:{port}", uploads, jobs)
        finally:
            server.terminate()
            server.wait(20)


def soak(server: subprocess.Popen, address: str, uploads: Path, jobs: int) -> int:
    """Run the jobs; print how it stands at every reading."""
    while not _answers(address):
        time.sleep(0.3)
    memory, started, counts = [], time.monotonic(), {"done": 0, "refused": 0, "left": 0}
    part = max(1, jobs // READINGS)
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, jobs, part):
            for kind in pool.map(lambda number: job(address, number), range(first, min(jobs, first + part))):
                counts[kind] += 1
            memory.append(resident(server.pid))
            disk = stored(uploads)
            seconds = time.monotonic() - started
            print(
                f"{sum(counts.values()):>5} jobs {counts}: {memory[-1]:.0f} MB memory, {disk:.1f} MB disk, {seconds:.0f} s",
                flush=True,
            )
    # one more look of the cleaner, when nothing is fresh any more
    time.sleep(float(os.environ.get("SOAK_REST", 125)))
    disk = stored(uploads)
    flat, growth = is_flat(memory, jobs)
    print(
        f"memory at most {max(memory):.0f} MB of {CEILING} MB, {growth:+.2f} MB a job after the first third of {GROWTH} MB allowed; "
        f"at rest {disk:.1f} MB on disk of {MEGABYTES} MB"
    )
    expected = {"refused": len(range(0, jobs, 10)), "left": len([n for n in range(jobs) if n % 7 == 0 and n % 10])}
    right = all(counts[kind] == count for kind, count in expected.items()) and sum(counts.values()) == jobs
    return 0 if flat and disk <= MEGABYTES and right else 1


def job(address: str, number: int) -> str:
    """One client -> "done", "refused" or "left"."""
    rng = np.random.default_rng(number)
    stream = io.BytesIO()
    side = 200 if number % 20 == 9 else int(rng.integers(16, 65))
    Image.fromarray(rng.integers(0, 255, (side, 64, 3), dtype=np.uint8)).save(
        stream, ("PNG", "JPEG", "WEBP")[number % 3]
    )
    content = b"no image" if number % 10 == 0 else stream.getvalue()
    with httpx.Client(base_url=address, timeout=120) as web:
        path = web.post(f"{API}/upload", files={"files": (f"{number}.png", content)}).json()[0]
        file = {"path": path, "orig_name": f"{number}.png", "meta": {"_type": "gradio.FileData"}}
        asked = web.post(f"{API}/call/upscale", json={"data": [file, 2, 1, 5, True, number]})
        asked.raise_for_status()
        where = f"{API}/call/upscale/{asked.json()['event_id']}"
        if number % 10 and number % 7 == 0:
            with web.stream("GET", where) as answer:
                next(answer.iter_bytes(), None)
            return "left"
        return "done" if "event: complete" in web.get(where).text else "refused"


def resident(process: int) -> float:
    """Megabytes of memory that a process holds."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def stored(folder: Path) -> float:
    """Megabytes in a folder that the app cleans at the same time."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total / 2**20


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=int, nargs="?", default=300)
    parser.add_argument("--leak", type=float, default=0.0, metavar="MB")
    given = parser.parse_args()
    status = main(given.jobs, given.leak)
    sys.exit(int(status == 0) if given.leak else status)
