"""A session in a browser: presets, a patch first, cancelling, formats, settings back from a result or a link, the one-click ablation.

Skipped where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import time

import numpy as np
from browsing import WAIT, needs_chromium, read_result, result_source, run, upload, visit, wait_for_another
from PIL import Image
from serving import eventually

pytestmark = needs_chromium


def value_of(page, name: str) -> float:
    return float(page.locator(f"#{name} input[type=number]").input_value())


def set_value(page, name: str, value: object) -> None:
    field = page.locator(f"#{name} input[type=number]").first
    field.fill(str(value))
    field.press("Tab")


def wait_for_value(page, selector: str, value: str) -> None:
    page.wait_for_function(
        "([selector, value]) => document.querySelector(selector)?.value === value", arg=[selector, value], timeout=WAIT
    )


def chosen_preset(page) -> str | None:
    return page.evaluate("document.querySelector('#preset input:checked')?.value ?? null")


def wait_for_preset(page, name: str | None) -> None:
    page.wait_for_function(
        "name => (document.querySelector('#preset input:checked')?.value ?? null) === name", arg=name, timeout=WAIT
    )


def download(page, button: str):
    with page.expect_download(timeout=WAIT) as event:
        page.locator(f"#{button}").click()
    return event.value


def test_presets_and_the_dice_set_the_controls(browser, app_url):
    with visit(browser, app_url) as page:
        assert value_of(page, "detail_strength") == 1
        page.get_by_label("Vivid").check()
        wait_for_value(page, "#detail_strength input[type=number]", "1.35")
        page.get_by_label("Faithful").check()
        wait_for_value(page, "#detail_strength input[type=number]", "0.5")
        page.get_by_label("Balanced").check()
        wait_for_value(page, "#detail_strength input[type=number]", "1")
        assert chosen_preset(page) == "balanced"
        before = page.locator("#seed input").input_value()
        page.locator("#dice").click()
        page.wait_for_function("before => document.querySelector('#seed input').value !== before", arg=before)
        assert 0 <= int(page.locator("#seed input").input_value()) < 2**32


def test_the_preset_follows_the_sliders(browser, app_url):
    with visit(browser, app_url) as page:
        assert chosen_preset(page) == "balanced"
        for value, name in ((1.2, None), (1, "balanced"), (0.5, None), (1, "balanced")):
            set_value(page, "detail_strength", value)
            wait_for_preset(page, name)
        page.get_by_label("Vivid").check()
        wait_for_value(page, "#detail_strength input[type=number]", "1.35")
        wait_for_preset(page, "vivid")
        set_value(page, "steps", 3)  # of no preset
        wait_for_value(page, "#steps input[type=range]", "3")
        page.wait_for_timeout(300)  # nothing tells that nothing will come of it
        assert chosen_preset(page) == "vivid"
        set_value(page, "guidance_scale", 7)
        wait_for_preset(page, None)
        page.get_by_label("Vivid").check()
        # The values follow the choice by way of the server.
        page.wait_for_function("document.querySelector('#guidance_scale input[type=number]').value < 7", timeout=WAIT)
        wait_for_preset(page, "vivid")
    with visit(browser, f"{app_url}/?detail_strength=1.3&seed=2") as page:
        wait_for_preset(page, None)


def test_a_job_is_cancelled_and_the_model_is_free(browser, app_url, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (1200, 1600, 3), dtype=np.uint8)).save(tmp_path / "large.png")
    with visit(browser, app_url) as page:
        before = result_source(page)
        upload(page, tmp_path / "large.png")
        set_value(page, "steps", 20)
        page.locator("#run").click()
        cancel = page.locator("#cancel")
        cancel.wait_for(timeout=WAIT)
        page.wait_for_selector("#live [role=progressbar]", timeout=WAIT)
        page.wait_for_function("document.querySelector('#live').innerText.includes('Step 1 of 20')", timeout=3 * WAIT)
        assert page.locator("#run").is_disabled()
        cancel.click()
        page.wait_for_function("document.querySelector('#live').innerText.includes('Cancelled')", timeout=WAIT)
        # The 20 steps take minutes, a tile a fraction of a second.
        eventually(lambda: not page.request.get(f"{app_url}/healthz", timeout=WAIT).json()["working"], 30)
        cancel.wait_for(state="hidden", timeout=WAIT)
        assert page.locator("#run").is_enabled() and result_source(page) == before


def test_a_patch_is_tried_where_the_visitor_points(browser, app_url, tmp_path):
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    Image.fromarray(np.stack([np.broadcast_to(ramp, (200, 300))] * 3, -1)).save(tmp_path / "ramp.png")
    with visit(browser, app_url) as page:
        upload(page, tmp_path / "ramp.png")
        seen = []
        for place in (0.25, 0.75):
            box = page.locator("#photo img").bounding_box()
            page.mouse.click(box["x"] + place * box["width"], box["y"] + 0.5 * box["height"])
            page.wait_for_function("document.querySelector('#live').innerText.includes('Try a patch')", timeout=WAIT)
            before = result_source(page)
            page.locator("#sample").click()
            wait_for_another(page, before)
            page.wait_for_function("document.querySelector('#live').innerText.trim() === ''", timeout=WAIT)
            assert "A patch of the photo" in page.locator("#made").inner_text()
            size = page.evaluate(
                "(i => [i.naturalWidth, i.naturalHeight])(document.querySelector('#viewer .after img'))"
            )
            assert size == [512, 512]
            seen.append(
                page.evaluate("""async () => {
                    const image = document.querySelector('#viewer .before img'), canvas = document.createElement('canvas');
                    await image.decode();
                    canvas.width = canvas.height = 1;
                    canvas.getContext('2d').drawImage(image, 0, 0, 1, 1);
                    return canvas.getContext('2d').getImageData(0, 0, 1, 1).data[0];
                }""")
            )
        assert seen[1] > seen[0] + 60
        # What can be downloaded is the patch; a new photo's patch is its middle again.
        assert read_result(page)["crop"]["left"] > 150
        Image.new("RGB", (400, 200), "teal").save(tmp_path / "teal.png")
        upload(page, tmp_path / "teal.png")
        before = result_source(page)
        page.locator("#sample").click()
        wait_for_another(page, before)
        assert read_result(page)["crop"]["left"] == 136


def test_formats_and_the_picture_of_both(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        assert download(page, "download").suggested_filename == "garden-4x.png"
        both = download(page, "both")
        with Image.open(both.path()) as image:
            assert image.format == "JPEG" and image.width > 190
        for label, kind, name in (("webp", "WEBP", "garden-4x.webp"), ("jpeg", "JPEG", "garden-4x.jpg")):
            page.locator("#format").get_by_label(label).check()
            deadline = time.monotonic() + 60
            while (got := download(page, "download")).suggested_filename != name:
                assert time.monotonic() < deadline, got.suggested_filename
            with Image.open(got.path()) as image:
                assert image.format == kind and image.size == (96, 80)
        page.locator("#output_scale").get_by_label("2").check()
        page.locator("#format").get_by_label("png").check()
        run(page)
        assert read_result(page)["output_size"] == [48, 40]


def test_settings_come_back_from_a_result_and_from_a_link(browser, app_url, garden, tmp_path):
    with visit(browser, app_url) as page:
        upload(page, garden)
        set_value(page, "steps", 3)
        set_value(page, "detail_strength", 1.2)
        page.locator("#mff input").uncheck()
        page.locator("#seed input").fill("4711")
        page.locator("#seed input").press("Tab")
        run(page)
        label = read_result(page)["labels"][0]["name"]
        before = result_source(page)
        page.get_by_role("button", name=f"Take {label} out").click()
        page.get_by_role("button", name="Enlarge again").click()
        wait_for_another(page, before)
        report = read_result(page)
        assert report["settings"]["muted_labels"] == [label]
        download(page, "download").save_as(tmp_path / "result.png")
        page.locator("#more button").first.click()
        page.wait_for_function(
            "document.querySelector('#link textarea, #link input')?.value.startsWith('http')", timeout=WAIT
        )
        link = page.locator("#link textarea, #link input").first.input_value()
    assert link.startswith(app_url) and "garden" not in link and "seed=4711" in link
    for address, file in ((link, None), (app_url, tmp_path / "result.png")):
        with visit(browser, address) as page:
            if file is not None:
                upload(page, file)
                page.wait_for_function("document.querySelector('#live').innerText.includes('restored')", timeout=WAIT)
            wait_for_value(page, "#seed input", "4711")
            assert value_of(page, "steps") == 3 and value_of(page, "detail_strength") == 1.2
            assert not page.locator("#mff input").is_checked()
            if file is None:
                upload(page, garden)
                run(page)
                assert read_result(page)["settings"] == report["settings"]


def test_the_ablation_shows_every_variant(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        page.locator("#modules button").first.click()
        page.locator("#compare").click()
        page.wait_for_function("document.querySelectorAll('#variants figure').length === 4", timeout=WAIT)
        names = page.locator("#variants figcaption b").all_inner_texts()
        assert names == ["Full model", "Without MFF", "Without SCA", "Without SAPE"]
        assert page.locator("#variants img").count() == 8
        assert "differs by" in page.locator("#variants figcaption").last.inner_text()


def test_a_page_whose_upload_is_refused_says_why_and_takes_the_next_one(browser, app, url, garden, monkeypatch):
    page = browser.new_page(locale="zh-CN")
    page.goto(url)
    page.wait_for_selector("#run", timeout=WAIT)
    with monkeypatch.context() as patch:
        patch.setattr(app.storage, "_free", lambda: 0)
        page.locator("#photo input[type=file]").set_input_files(garden)
        page.get_by_text("服务器暂时没有空间").wait_for(timeout=WAIT)
        assert page.locator("#photo img").count() == 0
    upload(page, garden)
    page.close()
