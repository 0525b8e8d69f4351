"""The app in a browser, as several test files need it: `python app.py` on a tiny model's folder, and a page that watches itself."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from app_process import ROOT as ROOT
from PIL import Image

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 30_000


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


def at_rest(page, locator) -> dict:
    """Its place on the screen once three looks in a row agree: pictures above it may still arrive."""
    places = [None, None]
    for _ in range(WAIT // 100):
        places.append(locator.bounding_box())
        if places[-1] and places[-1] == places[-2] == places[-3]:
            return places[-1]
        page.wait_for_timeout(100)
    raise AssertionError(f"it does not come to rest: {places[-5:]}")


def sideways(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
