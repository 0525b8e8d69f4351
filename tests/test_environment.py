"""Settings from the environment, GRADIO_* and SISRM_*: each takes effect in the real app, and README lists ours."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time

import httpx
import pytest
from app_process import ROOT, free_port, running
from conftest import tiny_pipe
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny-one"
    tiny_pipe().save_pretrained(folder)
    return folder


def test_every_setting_takes_effect(weights, tmp_path, photo):
    allowed, uploads = tmp_path / "allowed", tmp_path / "elsewhere"
    for folder in (allowed, uploads / secrets.token_hex(32)):
        folder.mkdir(parents=True)
    (allowed / "note.txt").write_text("allowed")
    (tmp_path / "private.txt").write_text("private")
    old = next(uploads.iterdir())
    (old / "result.png").write_bytes(b"0" * 2_000_000)
    for path in (old / "result.png", old):
        os.utime(path, (time.time() - 600,) * 2)
    port = free_port()
    settings = {
        "SISRM_PRESET": str(weights), "SISRM_MAX_PIXELS": "450", "SISRM_STORAGE_MB": "1", "GRADIO_SERVER_NAME": "127.0.0.2",
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ROOT_PATH": "/tools/sisrm", "GRADIO_ALLOWED_PATHS": str(allowed),
        "GRADIO_TEMP_DIR": str(uploads),
    }  # fmt: skip
    photo.save(tmp_path / "large.png")
    photo.crop((0, 0, 20, 20)).save(tmp_path / "small.png")
    with running(tmp_path / "app", **settings) as address:
        assert address == f"http://127.0.0.2:{port}"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
        assert httpx.get(f"{address}/healthz").json()["preset"] == "tiny-one"
        assert httpx.get(f"{address}/config").json()["root"].endswith("/tools/sisrm")
        assert httpx.get(f"{address}/gradio_api/file={allowed / 'note.txt'}").text == "allowed"
        assert httpx.get(f"{address}/gradio_api/file={tmp_path / 'private.txt'}").status_code in (403, 404)
        assert not old.exists(), "SISRM_STORAGE_MB: what is above it goes, the oldest first"
        before = set(uploads.iterdir())
    # A client follows the root path, where a proxy would be: without one it is asked for directly.
    del settings["GRADIO_ROOT_PATH"]
    with running(tmp_path / "app", **settings) as address:
        client = Client(address, verbose=False, download_files=str(tmp_path / "down"))
        with pytest.raises(AppError, match="450"):
            client.predict(handle_file(tmp_path / "large.png"), api_name="/upscale")
        path, report = client.predict(handle_file(tmp_path / "small.png"), api_name="/upscale")
        assert Image.open(path).size == (80, 80) and report["device"] == "cpu"
        assert set(uploads.iterdir()) - before, "GRADIO_TEMP_DIR: where uploads and results lie"


def test_what_cannot_be_meant_ends_the_start_with_one_line(weights, tmp_path):
    environment = {
        **os.environ, "SISRM_PRESET": str(weights), "SISRM_DEVICE": "cpu", "GRADIO_SERVER_PORT": str(free_port()),
        "GRADIO_TEMP_DIR": str(tmp_path), "OMP_NUM_THREADS": "1",
        "SISRM_STORAGE_MB": "plenty",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90
    )
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and said.startswith("error: ") and "'plenty'; accepted: a positive integer" in said
    assert "Traceback" not in done.stderr


def test_readme_lists_exactly_the_settings_that_the_code_reads():
    sources = [ROOT / "app.py", *(ROOT / "sisrm").rglob("*.py")]
    read = {name for path in sources for name in re.findall(r"\b(?:SISRM|SPACES)_[A-Z][A-Z_]*\b", path.read_text())}
    table = (ROOT / "README.md").read_text().split("## Settings from the environment")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `((?:SISRM|SPACES)_[A-Z_]+)`", table, flags=re.MULTILINE))
    assert listed == read
    assert {"GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH", "GRADIO_TEMP_DIR"} <= set(
        re.findall(r"`(GRADIO_[A-Z_]+)`", table)
    )
