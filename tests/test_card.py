"""The card that tells how a job stands."""

from __future__ import annotations

import base64
import io
import json
import re
import threading

import pytest
from PIL import Image
from test_http import FILE, photo_bytes, press, upload

from sisrm.ui.card import card
from sisrm.ui.progress import Update


@pytest.mark.parametrize("lang, step, left", [("en", "Step 3 of 8", "about 12 s left"), ("zh", "第 3 步，共 8 步", "12")])
def test_it_names_the_step_the_share_and_the_time_that_is_left(lang, step, left):
    update = Update(stage="denoising", step=2, steps=8, seconds_left=12.3)
    html = card(update, lang, "1/4: ")
    assert step in html and left in html and "1/4: " in html
    assert 'aria-valuenow="25"' in html and "width:25%" in html and "<img" not in html
    assert left not in card(Update(stage="denoising", step=2, steps=8), lang)


def test_the_page_gets_previews_from_the_denoising_loop(app, web, tmp_path, monkeypatch):
    step, seen = app.handlers.pipe.scheduler.step, threading.Event()

    def slow(*given, **more):
        seen.wait(0.5)  # time for a reader of each step
        return step(*given, **more)

    monkeypatch.setattr(app.handlers.pipe.scheduler, "step", slow)
    text = press(app, web, {"path": upload(web, photo_bytes(tmp_path)), "meta": FILE}, steps=4)
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    told = "".join(json.dumps(event) for event in events)
    pictures = set(re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", told))
    assert len(pictures) >= 2  # they change with the steps
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.size == (96, 80)
    assert len({step for step in range(1, 5) if f"Step {step} of 4" in told}) >= 2
