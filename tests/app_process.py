"""app.py in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
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
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    log = temporary / "app.log"
    with open(log, "w") as stream:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield answering(server, log)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answering(server: subprocess.Popen, log: Path) -> str:
    """Wait until it answers. Its log tells where: Gradio takes the next port if another process was faster at the one that was free."""
    deadline = time.monotonic() + 120
    while True:
        said = log.read_text()
        assert server.poll() is None and time.monotonic() < deadline, said
        try:
            if (found := re.search(r"Running on local URL: +(http\S+)\s", said)) and healthy(found.group(1)):
                return found.group(1)
        except httpx.TransportError:
            pass
        time.sleep(0.3)


def healthy(address: str) -> bool:
    return httpx.get(f"{address}/healthz", timeout=5).status_code == 200
