"""The page for everybody: axe finds nothing serious, every control can be reached and named, nothing scrolls sideways.

Skipped where Chromium, Playwright or axe is not installed.
"""

from __future__ import annotations

import pytest
from browsing import WAIT, needs_chromium, run, sideways, upload, visit

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = needs_chromium

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {**PHONE, "locale": "zh-CN"}, {**PHONE, "color_scheme": "dark"}],
    ids=["light", "dark", "phone in Chinese", "phone in the dark"],
)
def test_axe_finds_nothing_serious(browser, app_url, garden, options):
    with visit(browser, app_url, **options) as page:
        upload(page, garden)
        run(page)
        page.locator("#semantics .brush summary").click()
        for area in ("#advanced", "#modules", "#more"):
            page.locator(f"{area} button").first.click()
            page.wait_for_selector(f"{area} button.open", timeout=WAIT)
        # Colours on their way are nobody's choice.
        moving = "a => a.playState === 'running' && a.effect.getComputedTiming().endTime < Infinity"
        page.wait_for_function(f"!document.getAnimations().some({moving})", timeout=WAIT)
        found = axe.Axe().run(page).response["violations"]
        serious = {
            f"{entry['id']}: {node['target']} {node['failureSummary'][:200]}"
            for entry in found
            if entry["impact"] in ("serious", "critical")
            for node in entry["nodes"]
        }
        assert not serious, "\n".join(sorted(serious))
        assert sideways(page) <= 0


def test_the_keyboard_alone_is_enough(browser, app_url, garden):
    with visit(browser, app_url) as page:
        upload(page, garden)
        run(page)
        reached = set()
        for _ in range(90):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "(e => [e.closest('[id]:not([id^=html-]):not([id^=range])')?.id, e.className.split(' ')[0]].join(' '))"
                    "(document.activeElement)"
                )
            )
        for part in ("run", "sample", "download", "seed", "steps", "dice"):
            assert any(entry.startswith(part) for entry in reached), (part, reached)
        for part in ("split", "box", "keep", "drop", "strength"):
            assert any(entry.endswith(" " + part) for entry in reached), (part, reached)
        chip = page.locator("#semantics .chip .keep").first
        chip.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#semantics .changed:not([hidden])", timeout=WAIT)
