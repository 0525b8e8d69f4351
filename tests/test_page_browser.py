"""The page when things come in another order than thought: refused photos, patches after results, clicks that come twice.

Skipped where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import pytest
from browsing import WAIT, needs_chromium, read_result, result_source, run, upload, visit, wait_for_another
from PIL import Image
from serving import eventually
from test_session_browser import download

pytestmark = needs_chromium


@pytest.fixture
def wide(tmp_path):
    Image.linear_gradient("L").resize((300, 200)).convert("RGB").save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def wait_for_words(page, selector: str, words: str, there: bool = True) -> None:
    page.wait_for_function(
        "([selector, words, there]) => document.querySelector(selector).innerText.includes(words) === there",
        arg=[selector, words, there],
        timeout=WAIT,
    )


def downloaded_as(page, ending: str):
    """What the button gives, once it has this ending."""
    return eventually(lambda: got if (got := download(page, "download")).suggested_filename.endswith(ending) else None)


def try_a_patch(page) -> None:
    before = result_source(page)
    page.locator("#sample").click()
    wait_for_another(page, before)
    wait_for_words(page, "#made", "A patch of the photo")


def test_a_patch_has_a_download_a_link_and_details_of_its_own(browser, app_url, wide):
    with visit(browser, app_url) as page:
        upload(page, wide)
        run(page)
        whole = read_result(page)
        assert whole["output_size"] == [1200, 800]
        page.locator("#seed input").fill("77")
        page.locator("#seed input").press("Tab")
        try_a_patch(page)
        page.locator("#format").get_by_label("webp").check()
        with Image.open(downloaded_as(page, ".webp").path()) as image:
            assert image.format == "WEBP" and image.size == (512, 512)
        page.locator("#format").get_by_label("png").check()
        downloaded_as(page, ".png")
        page.locator("#more button").first.click()
        page.wait_for_function(
            "document.querySelector('#link textarea, #link input')?.value.includes('seed=77')", timeout=WAIT
        )
        # To the whole picture and back.
        for words, size in (("300 x 200", [1200, 800]), ("A patch of the photo", [512, 512])):
            page.locator("#viewer .recent button[aria-pressed=false]").click()
            wait_for_words(page, "#made", words)
            assert read_result(page)["output_size"] == size


def test_what_was_said_of_a_photo_goes_with_it(browser, app_url, garden, tmp_path):
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "tiny.png")
    for locale, words in (("en-US", "too few"), ("zh-CN", "像素过少")):
        with visit(browser, app_url, locale=locale) as page:
            upload(page, tmp_path / "tiny.png")
            wait_for_words(page, "#live", words)
            upload(page, garden)
            wait_for_words(page, "#live", words, there=False)
            run(page)
            assert page.locator("#live").inner_text().strip() == ""


def test_a_second_click_starts_nothing(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        page.wait_for_selector("#semantics .chip", timeout=WAIT)
        joined = []
        page.on("request", lambda request: joined.append(request.post_data_json) if "queue/join" in request.url else None)
        before = result_source(page)
        page.locator("#run").dblclick()
        wait_for_another(page, before)
        page.wait_for_timeout(500)  # a job that waited for the first one to end would be sent now
        assert len({str(body["data"]) + str(body["fn_index"]) for body in joined}) == len(joined) > 0
        assert page.locator("#cancel").is_hidden()
