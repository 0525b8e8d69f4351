"""The app in a browser, as several test files need it: `python app.py` on a tiny model's folder, and a page that watches itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 30_000


@contextmanager
def running_app(weights: Path, temporary: Path) -> Iterator[str]:
    """app.py in a process of its own, on a free port, with a folder of weights as its preset."""
    (temporary / "uploads").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "SISRM_PRESET": str(weights),
        "SISRM_DEVICE": "cpu",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(temporary / "uploads"),
        "OMP_NUM_THREADS": "1",
    }
    log = temporary / "app.log"
    with open(log, "w") as stream:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(address, timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def chromium():
    """The browser."""
    with playwright_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield instance
        instance.close()


@contextmanager
def visit(browser, url, **options):
    """The app's page; on leaving, it must have asked no third party for anything and have logged no error."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options})
    page = context.new_page()
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        page.wait_for_selector("#run", timeout=WAIT)
        # The first screen shows a finished example.
        page.wait_for_function("document.querySelector('#viewer .after img')?.naturalWidth > 0", timeout=WAIT)
        yield page
        assert hosts == {url.split("/")[2]}
        assert not errors
    finally:
        context.close()


def upload(page, path: Path) -> None:
    page.locator("#photo input[type=file]").set_input_files(path)
    page.wait_for_selector("#photo img", timeout=WAIT)


def result_source(page) -> str | None:
    return page.locator("#viewer .after img").get_attribute("src")


def run(page) -> None:
    """Press the button and wait for a new result."""
    before = result_source(page)
    page.locator("#run").click()
    wait_for_another(page, before)


def wait_for_another(page, before: str | None) -> None:
    """Wait until the viewer shows another result than `before`."""
    page.wait_for_function(
        "before => document.querySelector('#viewer .after img').getAttribute('src') !== before",
        arg=before,
        timeout=WAIT,
    )
    page.wait_for_function("document.querySelector('#viewer .after img').naturalWidth > 0", timeout=WAIT)


def read_result(page) -> dict:
    """Download the result; the report that is embedded in it."""
    with page.expect_download(timeout=WAIT) as event:
        page.locator("#download").click()
    with Image.open(event.value.path()) as image:
        return json.loads(image.text["sisrm"])


def sideways(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
