"""The app in a browser: `python app.py` on a tiny model's folder, driven by Chromium through Playwright.

Skipped where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from browsing import (
    ROOT,
    WAIT,
    at_rest,
    needs_chromium,
    read_result,
    result_source,
    run,
    sideways,
    upload,
    visit,
    wait_for_another,
)
from PIL import Image

pytestmark = needs_chromium


def test_an_example_in_a_click_and_its_panels(browser, app_url):
    examples = sorted((ROOT / "examples").glob("*.png"))
    with visit(browser, app_url) as page:
        assert page.title() == "SISRM"
        assert "cpu" in page.locator("#runtime").inner_text() and "tiny" in page.locator("#runtime").inner_text()
        items = page.locator("#examples .gallery-item")
        assert items.count() == len(examples) >= 6
        before, panel = result_source(page), page.locator("#semantics .photo").get_attribute("src", timeout=WAIT)
        items.nth(2).click()
        wait_for_another(page, before)
        page.wait_for_function(
            "before => document.querySelector('#semantics .photo').getAttribute('src') !== before",
            arg=panel,
            timeout=WAIT,
        )
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
        size = page.evaluate(
            "['after', 'before'].map(name => document.querySelector(`#viewer .${name} img`)).map(i => [i.naturalWidth, i.naturalHeight])"
        )
        with Image.open(examples[2]) as small:
            assert size == [[4 * small.width, 4 * small.height]] * 2
        first = read_result(page)
        names = page.locator("#semantics .chip .keep").evaluate_all("all => all.map(b => b.firstChild.textContent)")
        assert names == [label["name"] for label in first["labels"]] and len(names) == 3
        assert "%" in page.locator("#semantics .chip").first.inner_text()
        assert page.locator("#semantics .legend li").count() >= 1
        assert "pixels in" in page.locator("#made").inner_text() and "example" not in page.locator("#made").inner_text()
        before = result_source(page)
        items.nth(1).click()
        wait_for_another(page, before)
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
        with Image.open(examples[1]) as small:
            assert read_result(page)["input_size"] == list(small.size) != first["input_size"]
        other = result_source(page)
        items.nth(2).click()
        wait_for_another(page, other)
        assert result_source(page) == before and read_result(page) == first, "a second click computes nothing"


def test_the_first_screen_shows_a_finished_example(browser, app_url):
    with visit(browser, app_url) as page:
        assert "An example, made here" in page.locator("#made").inner_text()
        shown = page.evaluate(
            "['after', 'before'].map(n => { const i = document.querySelector(`#viewer .${n} img`); return i.naturalWidth })"
        )
        with Image.open(ROOT / "examples" / "launchpad.png") as small:
            assert shown == [4 * small.width] * 2
        assert page.locator("#semantics .chip").count() >= 1 and page.locator("#semantics .legend li").count() >= 1
        assert page.locator("#viewer .closeups canvas").count() == 6
        assert page.locator("#photo img").count() == 0


def test_earlier_states_are_shown_in_the_viewer(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        steps = page.locator("#viewer .steps button")
        assert [text.strip() for text in steps.all_inner_texts()] == ["0.5T", "0.2T", "Result"]
        result = result_source(page)
        steps.first.click()
        assert "state-0.5" in result_source(page) and "0.5T" in page.locator("#viewer .tag-after").inner_text()
        assert steps.first.get_attribute("aria-pressed") == "true"
        steps.last.click()
        assert result_source(page) == result


def test_upload_settings_and_download(browser, app_url, garden):
    with visit(browser, app_url, accept_downloads=True) as page:
        upload(page, garden)
        run(page)
        with page.expect_download(timeout=WAIT) as event:
            page.locator("#download").click()
        download = event.value
        assert download.suggested_filename == "garden-4x.png"
        first = Image.open(download.path())
        assert first.size == (96, 80) and '"steps": 2' in first.text["sisrm"]

        for slider, value in (("steps", "4"), ("guidance_scale", "3.5"), ("top_k", "5")):
            field = page.locator(f"#{slider} input[type=number]")
            field.fill(value)
            field.press("Tab")
        page.locator("#mff input").uncheck()
        page.get_by_role("button", name="Advanced").click()
        page.locator("#labels input").fill("boat")
        page.locator("#labels input").press("Enter")
        page.locator("#seed input").fill("77")
        page.locator("#seed input").press("Tab")
        run(page)
        with page.expect_download(timeout=WAIT) as event:
            page.locator("#download").click()
        second = Image.open(event.value.path())
        expected = {"steps": 4, "guidance_scale": 3.5, "top_k": 5, "mff": False, "seed": 77, "labels": ["boat"]}
        assert expected.items() <= json.loads(second.text["sisrm"])["settings"].items()
        assert not np.array_equal(np.asarray(first), np.asarray(second))

        page.locator("#randomise input").check()
        run(page)
        page.wait_for_function("document.querySelector('#seed input').value !== '77'", timeout=WAIT)


def test_before_and_after_can_be_compared_and_zoomed(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
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

        viewer.get_by_role("button", name="Close-ups").click()  # or a box's frame may lie under the mouse
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


def test_a_photo_that_cannot_be_used_is_answered_with_the_reason(browser, app_url, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dot.png")
    with visit(browser, app_url) as page:
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
        assert "An example" in page.locator("#made").inner_text()
        # The job had begun: all that it held is free again.
        page.wait_for_selector("#run:enabled", timeout=WAIT)
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
        assert page.locator("#sample").is_enabled() and page.locator("#live").inner_text().strip() == ""


def test_on_a_phone_in_the_dark_in_chinese(browser, app_url, garden):
    phone = {
        "viewport": {"width": 390, "height": 844},
        "locale": "zh-CN",
        "color_scheme": "dark",
        "has_touch": True,
        "is_mobile": True,
    }
    with visit(browser, app_url, **phone) as page:
        assert sideways(page) <= 0
        assert "放大" in page.locator("#run").inner_text() and "照片" in page.locator("#heading").inner_text()
        background = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        )
        assert max(background) < 60
        upload(page, garden)
        run(page)
        assert "像素" in page.locator("#made").inner_text()
        assert sideways(page) <= 0
        # What comes first on the screen: the photo, then the result, then the settings.
        tops = [page.locator(f"#{area}").bounding_box()["y"] for area in ("input", "output", "controls")]
        assert tops == sorted(tops) and tops[2] > tops[1] + 300


def test_close_ups_follow_their_boxes(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)

        def closeups() -> list[str]:
            return page.evaluate("[...document.querySelectorAll('#viewer .closeups canvas')].map(c => c.toDataURL())")

        page.wait_for_function(
            "new Set([...document.querySelectorAll('#viewer .closeups canvas')].map(c => c.toDataURL())).size > 4",
            timeout=WAIT,
        )
        first = closeups()
        red = page.get_by_role("button", name="Red box")
        page.wait_for_function("document.querySelector('#semantics .photo').naturalWidth > 0", timeout=WAIT)
        red.scroll_into_view_if_needed()
        where = at_rest(page, red)
        red.focus()
        for _ in range(3):
            red.press("ArrowLeft")
            red.press("ArrowUp")
        moved = at_rest(page, red)
        assert moved["x"] <= where["x"] and moved["y"] <= where["y"] and moved != where
        second = closeups()
        assert [a != b for a, b in zip(first, second)] == [True] * 3 + [False] * 3
        page.mouse.move(moved["x"] + 1, moved["y"] + 12)
        page.mouse.down()
        page.mouse.move(moved["x"] + 81, moved["y"] + 52, steps=3)
        page.mouse.up()
        assert red.bounding_box()["x"] > moved["x"] + 20 and red.bounding_box()["y"] > moved["y"] + 10
        page.get_by_role("button", name="Close-ups").click()
        assert not red.is_visible() and not page.locator("#viewer .closeups").is_visible()


def test_the_last_results_can_be_compared(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        recent = page.locator("#viewer .recent button")
        assert not recent.first.is_visible()
        first, line = result_source(page), page.locator("#made").inner_text()
        for seed in range(1, 5):
            page.locator("#seed input").fill(str(seed))
            page.locator("#seed input").press("Tab")
            run(page)
        assert recent.count() == 4 and "seed 4" in recent.last.inner_text()
        latest = result_source(page)
        assert first not in page.evaluate("[...document.querySelectorAll('#viewer .recent img')].map(i => i.src)")
        page.locator("#viewer").get_by_label("Zoom in").click()
        place = page.locator("#viewer .after img").get_attribute("style")
        recent.first.click()
        page.wait_for_function("document.querySelector('#made').innerText.includes('seed 1')", timeout=WAIT)
        assert result_source(page) not in (first, latest) and "seed 1" not in line
        assert page.locator("#viewer .after img").get_attribute("style") == place
        assert recent.first.get_attribute("aria-pressed") == "true"
