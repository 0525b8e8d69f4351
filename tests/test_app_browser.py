"""The app in a browser: `python app.py` on a tiny model's folder, driven by Chromium through Playwright.

Skipped where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import tiny_pipe
from PIL import Image

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ROOT = Path(__file__).resolve().parent.parent
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 30_000


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """app.py in a process of its own, on a free port, with the tiny pipeline's folder as its preset."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipe().save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "SISRM_PRESET": str(folder),
        "SISRM_DEVICE": "cpu",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads")),
        "OMP_NUM_THREADS": "1",
    }
    log = tmp_path_factory.mktemp("log") / "app.log"
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


@pytest.fixture(scope="module")
def browser():
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
    page.wait_for_function(
        "before => document.querySelector('#viewer .after img').getAttribute('src') !== before",
        arg=before,
        timeout=WAIT,
    )
    page.wait_for_function("document.querySelector('#viewer .after img').naturalWidth > 0", timeout=WAIT)


def sideways(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture
def photo_file(tmp_path, photo):
    photo.save(tmp_path / "garden.png")
    return tmp_path / "garden.png"


def test_an_example_in_a_click_and_its_panels(browser, url):
    examples = sorted((ROOT / "examples").glob("*.png"))
    with visit(browser, url) as page:
        assert page.title() == "SISRM"
        assert "cpu" in page.locator("#runtime").inner_text() and "tiny" in page.locator("#runtime").inner_text()
        items = page.locator("#examples .gallery-item")
        assert items.count() == len(examples) >= 6
        items.nth(2).click()
        page.wait_for_selector("#semantics .chip", timeout=WAIT)
        page.wait_for_function("document.querySelector('#viewer .after img').naturalWidth > 0", timeout=WAIT)
        size = page.evaluate(
            "['after', 'before'].map(name => document.querySelector(`#viewer .${name} img`)).map(i => [i.naturalWidth, i.naturalHeight])"
        )
        with Image.open(examples[2]) as small:
            assert size == [[4 * small.width, 4 * small.height]] * 2
        assert page.locator("#semantics .chip").count() == 3
        assert "%" in page.locator("#semantics .chip").first.inner_text()
        assert page.locator("#semantics .legend li").count() >= 1
        assert page.locator("#overlay img").get_attribute("src")
        assert "pixels in" in page.locator("#made").inner_text()


def test_upload_settings_and_download(browser, url, photo_file):
    with visit(browser, url, accept_downloads=True) as page:
        upload(page, photo_file)
        run(page)
        with page.expect_download(timeout=WAIT) as event:
            page.locator("#download").click()
        download = event.value
        assert download.suggested_filename == "garden-4x.png"
        first = Image.open(download.path())
        assert first.size == (96, 80) and '"steps": 2' in first.text["sisrm"]

        for slider, value in (("steps", "4"), ("guidance", "3.5"), ("top_k", "5")):
            field = page.locator(f"#{slider} input[type=number]")
            field.fill(value)
            field.press("Tab")
        page.locator("#mff input").uncheck()
        page.locator("#labels input").fill("boat")
        page.locator("#labels input").press("Enter")
        page.locator("#seed input").fill("77")
        page.locator("#seed input").press("Tab")
        run(page)
        with page.expect_download(timeout=WAIT) as event:
            page.locator("#download").click()
        second = Image.open(event.value.path())
        expected = (
            '"settings": {"steps": 4, "guidance_scale": 3.5, "top_k": 5, "mff": false, "seed": 77, "labels": ["boat"]}'
        )
        assert expected in second.text["sisrm"]
        assert not np.array_equal(np.asarray(first), np.asarray(second))

        page.locator("#randomise input").check()
        run(page)
        page.wait_for_function("document.querySelector('#seed input').value !== '77'", timeout=WAIT)


def test_before_and_after_can_be_compared_and_zoomed(browser, url, photo_file):
    with visit(browser, url) as page:
        upload(page, photo_file)
        run(page)
        viewer = page.locator("#viewer")

        def state() -> tuple[float, float, float, str]:
            """Zoom and offset of both pictures, which move together, and where the line is."""
            moves = page.evaluate("[...document.querySelectorAll('#viewer .layer img')].map(i => i.style.transform)")
            assert moves[0] == moves[1]
            matrix = page.evaluate("m => { const d = new DOMMatrix(m); return [d.a, d.e, d.f] }", moves[0])
            return (
                *matrix,
                page.evaluate("document.querySelector('#viewer .viewer').style.getPropertyValue('--split')"),
            )

        fitted = state()
        viewer.get_by_label("Zoom in").click()
        viewer.get_by_label("Zoom in").click()
        zoomed = state()
        assert zoomed[0] == pytest.approx(fitted[0] * 2.25, rel=0.01)
        box = viewer.locator(".stage").bounding_box()
        x, y = box["x"] + 0.75 * box["width"], box["y"] + 0.6 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 60, y - 40, steps=3)
        page.mouse.up()
        panned = state()
        assert panned[1] == pytest.approx(zoomed[1] - 60, abs=1) and panned[2] == pytest.approx(zoomed[2] - 40, abs=1)
        assert panned[3] == "50%"
        viewer.get_by_role("button", name="1:1").click()
        assert viewer.locator(".level").inner_text() == f"{round(100 * state()[0])}%"
        viewer.get_by_role("button", name="Fit").click()
        assert state()[:3] == pytest.approx(fitted[:3], abs=0.5)

        page.mouse.move(box["x"] + box["width"] / 2, y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.25 * box["width"], y, steps=4)
        page.mouse.up()
        assert float(state()[3].rstrip("%")) == pytest.approx(25, abs=1)
        split = viewer.get_by_role("slider")
        split.focus()
        for _ in range(4):
            split.press("ArrowRight")
        assert float(state()[3].rstrip("%")) == pytest.approx(27, abs=1)
        page.mouse.move(x, y)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -100)
        page.keyboard.up("Control")
        page.wait_for_function("document.querySelector('#viewer .viewer').classList.contains('zoomed')", timeout=WAIT)


def test_a_photo_that_cannot_be_used_is_answered_with_the_reason(browser, url, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dot.png")
    with visit(browser, url) as page:
        toast = page.locator(".toast-body")
        page.locator("#run").click()
        toast.wait_for(timeout=WAIT)
        assert "Choose a photo first" in toast.inner_text()
        toast.get_by_role("button", name="Close", exact=True).click()
        toast.wait_for(state="detached", timeout=WAIT)
        upload(page, tmp_path / "dot.png")
        page.locator("#run").click()
        toast.wait_for(timeout=WAIT)
        assert "dot.png: 8 x 8 pixels are too few" in toast.inner_text()
        assert result_source(page) is None


def test_on_a_phone_in_the_dark_in_chinese(browser, url, photo_file):
    phone = {
        "viewport": {"width": 390, "height": 844},
        "locale": "zh-CN",
        "color_scheme": "dark",
        "has_touch": True,
        "is_mobile": True,
    }
    with visit(browser, url, **phone) as page:
        assert sideways(page) <= 0
        assert "放大" in page.locator("#run").inner_text() and "照片" in page.locator("#heading").inner_text()
        background = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        )
        assert max(background) < 60
        upload(page, photo_file)
        run(page)
        assert "像素" in page.locator("#made").inner_text()
        assert sideways(page) <= 0
        # What comes first on the screen: the photo, then the result, then the settings.
        tops = [page.locator(f"#{area}").bounding_box()["y"] for area in ("input", "output", "controls")]
        assert tops == sorted(tops) and tops[2] > tops[1] + 300
