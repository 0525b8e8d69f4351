"""The semantic panel in a browser: what is laid over the photo, the labels as chips, the legend and the brush.

Skipped where Chromium or Playwright is not installed.
"""

from __future__ import annotations

import pytest
from browsing import WAIT, at_rest, needs_chromium, read_result, result_source, run, upload, visit, wait_for_another
from PIL import Image

pytestmark = needs_chromium


def chips(page) -> list[str]:
    """The labels in the prompt, as the chips show them."""
    return page.evaluate(
        "[...document.querySelectorAll('#semantics .chip .keep[aria-pressed=true]')].map(b => b.firstChild.textContent)"
    )


def enlarge_again(page) -> dict:
    """Press the panel's own button; returns the new result's report."""
    before = result_source(page)
    page.get_by_role("button", name="Enlarge again").click()
    wait_for_another(page, before)
    return read_result(page)


def enlarge_again_with(page, name: str) -> dict:
    """The same after putting a label that was taken out back in."""
    page.locator("#semantics .chip.off .keep", has_text=name).click()
    return enlarge_again(page)


def test_the_overlay_is_looked_at_without_another_run(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        # The panel's own look at the photo has a request of its own.
        page.wait_for_function("document.querySelector('#semantics .photo').naturalWidth === 96", timeout=WAIT)
        run(page)
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        panel = page.locator("#semantics")

        def opacity(layer: str) -> float:
            return float(panel.locator(f".{layer}.layer").evaluate("e => getComputedStyle(e).opacity"))

        assert opacity("regions") == pytest.approx(0.55)
        slider = panel.get_by_label("Opacity")
        slider.focus()
        slider.press("End")
        assert opacity("regions") == 1
        panel.get_by_role("button", name="Mask M").click()
        assert panel.locator(".mask.layer").is_visible() and not panel.locator(".regions.layer").is_visible()
        assert panel.locator(".mask.layer").evaluate("i => i.naturalWidth") == 96
        assert "mask M" in panel.locator(".picture").get_attribute("aria-label")
        page.wait_for_timeout(300)  # for what would come of it
        assert not [address for address in asked if "queue" in address or "run" in address]


def test_a_chip_is_removed_and_comes_back(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        predicted = chips(page)
        assert predicted == [label["name"] for label in read_result(page)["labels"]]
        panel = page.locator("#semantics")
        assert not panel.locator(".changed").is_visible()
        panel.get_by_role("button", name=f"Take {predicted[0]} out").click()
        assert chips(page) == predicted[1:] and panel.locator(".changed").is_visible()
        report = enlarge_again(page)
        assert report["settings"]["muted_labels"] == [predicted[0]]
        assert predicted[0] not in [label["name"] for label in report["labels"]]
        assert (
            chips(page) == [label["name"] for label in report["labels"]] and not panel.locator(".changed").is_visible()
        )
        struck = panel.locator(".chip.off .keep")
        assert struck.inner_text().startswith(predicted[0])
        struck.click()
        panel.get_by_role("button", name="Undo").click()
        assert predicted[0] not in chips(page)
        struck.click()
        report = enlarge_again(page)
        assert report["settings"]["muted_labels"] == [] and chips(page) == predicted


def test_edits_stay_until_they_are_changed(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        name = chips(page)[0]
        page.get_by_role("button", name=f"Take {name} out").click()
        for _ in range(3):
            run(page)
            assert read_result(page)["settings"]["muted_labels"] == [name] and name not in chips(page)
        page.locator("#semantics .chip.off .keep").click()
        run(page)
        assert read_result(page)["settings"]["muted_labels"] == [] and name in chips(page)


def test_own_labels_are_chips_and_restored_ones_can_be_taken_out(browser, app_url, garden):
    with visit(browser, f"{app_url}/?labels=boat&extra_labels=sea") as page:
        upload(page, garden)
        page.wait_for_function("document.querySelector('#semantics .photo').naturalWidth === 96", timeout=WAIT)
        assert chips(page) == ["sea", "boat"]
        page.get_by_role("button", name="Take sea out").click()
        run(page)
        settings = read_result(page)["settings"]
        assert settings["labels"] == ["boat"] and settings["extra_labels"] == [] and chips(page) == ["boat"]
        page.get_by_role("button", name="Take boat out").click()
        run(page)
        report = read_result(page)
        assert report["settings"]["muted_labels"] == ["boat"] and "boat" not in report["prompt"]


def test_the_example_can_be_changed_where_it_is_shown(browser, app_url):
    with visit(browser, app_url) as page:
        page.wait_for_selector("#semantics .chip", timeout=WAIT)
        name = chips(page)[0]
        page.get_by_role("button", name=f"Take {name} out").click()
        assert enlarge_again(page)["settings"]["muted_labels"] == [name]
        assert page.locator("#photo img").count() == 0 and name not in chips(page)
        report = enlarge_again_with(page, name)
        assert report["settings"]["muted_labels"] == []


def test_labels_are_offered_as_soon_as_a_photo_is_chosen(browser, app_url, garden):
    with visit(browser, app_url) as page:
        shown = result_source(page)
        upload(page, garden)
        panel = page.locator("#semantics")
        page.wait_for_function("document.querySelector('#semantics .photo').naturalWidth === 96", timeout=WAIT)
        predicted = chips(page)
        assert predicted and result_source(page) == shown
        assert panel.locator(".views .mask").is_disabled() and panel.locator(".legend li").count() >= 1
        panel.get_by_role("button", name=f"Take {predicted[0]} out").click()
        panel.get_by_role("button", name="Enlarge with these").click()
        wait_for_another(page, shown)
        report = read_result(page)
        assert report["settings"]["muted_labels"] == [predicted[0]] and report["segmentation_reused"] is True
        assert panel.locator(".views .mask").is_enabled()
        panel.get_by_role("button", name=f"Take {chips(page)[0]} out").click()
        assert panel.get_by_role("button", name="Enlarge again").is_visible()


def test_a_photo_that_cannot_be_used_is_told_at_once(browser, app_url, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dot <b>.png")
    with visit(browser, app_url) as page:
        page.locator("#photo input[type=file]").set_input_files(tmp_path / "dot <b>.png")
        page.wait_for_function("document.querySelector('#live').innerText.includes('8 x 8 pixels')", timeout=WAIT)
        assert page.locator("#live b").count() == 0 and page.locator("#semantics .panel.empty").count() == 1


def test_a_label_is_added_by_search_and_a_region_by_a_click(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        predicted, panel = chips(page), page.locator("#semantics")
        field = panel.get_by_label("Add a label")
        assert len(set(panel.locator("#class-names option").evaluate_all("all => all.map(o => o.value)"))) == 150
        field.fill("no such thing")
        field.press("Enter")
        assert "There is no label no such thing" in panel.locator(".of-add").inner_text()
        field.fill("Boat")
        field.press("Enter")
        assert chips(page) == ["boat", *predicted]
        row = panel.locator(".legend button[aria-pressed=false]").first
        region = row.locator(".name").inner_text()
        row.click()
        assert region in chips(page)
        report = enlarge_again(page)
        assert report["settings"]["extra_labels"] == ["boat", region]
        assert {"boat", region} <= {label["name"] for label in report["labels"]}
        # The largest region fills the picture's middle or a corner of it: a click on it is a click on its row.
        picture = panel.locator(".picture")
        picture.hover()
        pointed = panel.locator(".pointed").inner_text()
        before = chips(page)
        picture.click()
        name = pointed.removeprefix("\u2713 ")
        assert (name in before) == pointed.startswith("\u2713") and (name in chips(page)) != (name in before)


def test_a_brushed_region_is_protected_and_added(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        panel = page.locator("#semantics")
        # The largest region that no label is of: with its label, local control has its place there.
        panel.locator(".legend button[aria-pressed=false]").first.click()
        share = enlarge_again(page)["local_control_share"]
        panel.locator(".brush summary").click()

        def paint(kind: str, height: float) -> None:
            panel.locator(".picture").scroll_into_view_if_needed()
            box = at_rest(page, panel.locator(".picture"))
            panel.locator(".kinds").get_by_role("button", name=kind).click()
            page.mouse.move(box["x"] + 4, box["y"] + height * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] - 4, box["y"] + height * box["height"], steps=6)
            page.mouse.up()

        panel.get_by_label("Size").press("End")
        paint("Protect", 0.5)
        report = enlarge_again(page)
        assert report["region"]["protect"] > 0.15 and report["region"]["add"] == 0
        assert report["local_control_share"] < share
        for height in (0.1, 0.3, 0.5, 0.7, 0.9):
            paint("Add", height)
        report = enlarge_again(page)
        assert report["region"]["add"] > 0.8 and report["local_control_share"] > 0.8
        panel.get_by_role("button", name="Clear").click()
        assert enlarge_again(page)["region"] is None


def test_another_photo_begins_without_edits(browser, app_url, garden, tmp_path):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        name = chips(page)[0]
        page.get_by_role("button", name=f"Take {name} out").click()
        page.locator("#photo").get_by_label("Remove Image").click()
        page.wait_for_function("document.querySelector('#semantics .panel').classList.contains('empty')", timeout=WAIT)
        upload(page, garden)
        run(page)
        assert read_result(page)["settings"]["muted_labels"] == []
