"""app.py in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(temporary: Path, **settings: str) -> Iterator[str]:
    """Its address, once it answers.

    Args:
        temporary: a folder for uploads and the log. settings: environment variables.
    """
    (temporary / "uploads").mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "SISRM_DEVICE": "cpu",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(free_port()),
        "GRADIO_TEMP_DIR": str(temporary / "uploads"),
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    log = temporary / "app.log"
    with open(log, "w") as stream:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    address = f"http://{environment['GRADIO_SERVER_NAME']}:{environment['GRADIO_SERVER_PORT']}"
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{address}/healthz", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(20)
