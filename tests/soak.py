"""`make soak`: hundreds of jobs on one running app; memory and disk must stay flat.

    python tests/soak.py [JOBS]

The app is `python app.py` on a tiny model, so that what grows is the app's, not the model's. Four clients at a time ask for pictures of
several sizes and formats; every tenth sends a file that is no image, every seventh goes away without waiting for its answer. Exit status 1
where memory grows by more than 10 % after the first third, or the disk holds more than its bound.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from conftest import tiny_pipe
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
API = "/gradio_api"
MEGABYTES = 4


def main(jobs: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        uploads = Path(folder) / "uploads"
        tiny_pipe().save_pretrained(Path(folder) / "tiny")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ, "SISRM_PRESET": str(Path(folder) / "tiny"), "SISRM_DEVICE": "cpu", "SISRM_STORAGE_MB": str(MEGABYTES),
            "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(uploads), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        with open(Path(folder) / "log", "w") as log:
            server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            return soak(server, f"http://127.0.0.1:{port}", uploads, jobs)
        finally:
            server.terminate()
            server.wait(20)


def soak(server: subprocess.Popen, address: str, uploads: Path, jobs: int) -> int:
    """Run the jobs in parts of a sixth; print how it stands after each."""
    while not _answers(address):
        time.sleep(0.3)
    memory, started, counts = [], time.monotonic(), {"done": 0, "refused": 0, "left": 0}
    part = max(1, jobs // 6)
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, jobs, part):
            for kind in pool.map(lambda number: job(address, number), range(first, min(jobs, first + part))):
                counts[kind] += 1
            memory.append(resident(server.pid))
            disk = sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) / 2**20
            seconds = time.monotonic() - started
            print(
                f"{sum(counts.values()):>5} jobs {counts}: {memory[-1]:.0f} MB memory, {disk:.1f} MB disk, {seconds:.0f} s",
                flush=True,
            )
    # one more look of the cleaner, when nothing is fresh any more
    time.sleep(float(os.environ.get("SOAK_REST", 125)))
    disk = sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) / 2**20
    growth = memory[-1] / memory[len(memory) // 3] - 1
    print(f"memory grew by {growth:.1%} after the first third; at rest {disk:.1f} MB on disk of {MEGABYTES} MB allowed")
    expected = {"refused": len(range(0, jobs, 10)), "left": len([n for n in range(jobs) if n % 7 == 0 and n % 10])}
    right = all(counts[kind] == count for kind, count in expected.items()) and sum(counts.values()) == jobs
    return 0 if growth < 0.1 and disk <= MEGABYTES and right else 1


def job(address: str, number: int) -> str:
    """One client -> "done", "refused" or "left"."""
    rng = np.random.default_rng(number)
    stream = io.BytesIO()
    side = int(rng.integers(16, 65))
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


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
