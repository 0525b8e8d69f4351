"""Waiting for the model: a script and a page are told their place and an estimate, and beyond the bound that the app is busy."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from browsing import WAIT, needs_chromium, upload
from gradio_client import handle_file
from PIL import Image
from serving import eventually

from sisrm.ui.serving import MAX_WAITING


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def held(app, monkeypatch):
    """Jobs on the model wait until what is given is set."""
    release, work = threading.Event(), app.handlers.upscale

    def wait(*args, **options):
        assert release.wait(90)
        return work(*args, **options)

    monkeypatch.setattr(app.handlers, "upscale", wait)
    yield release
    release.set()


def test_a_script_is_told_its_place_and_an_estimate(app, client, photo_file, request):
    ask = {"image": handle_file(photo_file), "steps": 1, "seed": 1, "api_name": "/upscale"}
    client.predict(**ask)  # so that the queue knows how long one takes
    held = request.getfixturevalue("held")
    jobs = [client.submit(**ask)]
    eventually(lambda: app.waiting() == 0 and jobs[0].status().code.name == "PROGRESS")
    for place in range(3):
        jobs.append(client.submit(**ask))
        eventually(lambda place=place: app.waiting() == place + 1)
    eventually(lambda: all(job.status().eta is not None for job in jobs[1:]))
    states = [job.status() for job in jobs[1:]]
    assert [state.rank for state in states] == [0, 1, 2] and states[2].queue_size == 3
    assert min(state.eta for state in states) >= 0
    assert states[0].eta < states[1].eta < states[2].eta
    held.set()
    assert all(job.result(60)[1]["seed"] == 1 for job in jobs)


def test_the_upload_of_a_waiting_job_stays_whatever_there_is(app, client, photo_file, held, upload_folder, monkeypatch):
    def ask():
        return client.submit(handle_file(photo_file), steps=1, seed=1, api_name="/upscale")

    jobs = [ask(), ask()]
    eventually(lambda: app.waiting() == 1)
    (upload,) = (path for name in app.needed() if (path := upload_folder / name / "photo.png").is_file())
    for path in (upload, upload.parent):
        os.utime(path, (1, 1))
    monkeypatch.setattr(app.storage, "most", 1)
    app.storage.clean()
    assert upload.exists()
    held.set()
    assert all(job.result(60)[1]["seed"] == 1 for job in jobs)
    eventually(lambda: not app.needed())
    app.storage.clean()
    assert not upload.exists()


def test_a_client_that_leaves_the_queue_is_forgotten_and_the_next_has_its_turn(
    app, client, web, photo_file, held, monkeypatch
):
    began, work = [], app.handlers.upscale

    def note(photo, settings, *args, **options):
        began.append(settings.seed)
        return work(photo, settings, *args, **options)

    monkeypatch.setattr(app.handlers, "upscale", note)
    first = client.submit(handle_file(photo_file), steps=1, seed=1, api_name="/upscale")
    eventually(lambda: began == [1])
    path = web.post("/gradio_api/upload", files={"files": ("a.png", photo_file.read_bytes())}).json()[0]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = web.post("/gradio_api/call/upscale", json={"data": [file, 1, 1, 2, True, 2]}).json()
    with web.stream("GET", f"/gradio_api/call/upscale/{asked['event_id']}") as answer:
        assert answer.status_code == 200
        last = client.submit(handle_file(photo_file), steps=1, seed=3, api_name="/upscale")
        eventually(lambda: app.waiting() == 2)
    eventually(lambda: app.waiting() == 1)
    held.set()
    assert [job.result(60)[1]["seed"] for job in (first, last)] == [1, 3] == began


@needs_chromium
def test_a_page_shows_the_place_in_the_queue_and_that_the_app_is_busy(
    app, client, browser, photo_file, request, monkeypatch
):
    def ask():
        return client.submit(handle_file(photo_file), steps=1, seed=1, api_name="/upscale")

    page = browser.new_page(locale="en-US")
    try:
        page.goto(app.local_url)
        page.wait_for_selector("#run", timeout=WAIT)
        upload(page, photo_file)
        page.locator("#run").click()
        page.wait_for_function("document.querySelector('#viewer .after img')?.naturalWidth > 0", timeout=WAIT)
        first = page.locator("#viewer .after img").get_attribute("src")
        held = request.getfixturevalue("held")
        jobs = [ask(), ask()]
        eventually(lambda: app.waiting() == 1)
        page.locator("#run").click()
        told = "document.querySelector('#live').innerText.match(/queue: 2\\/2 \\| [\\d.]+\\/[\\d.]+s/)"
        page.wait_for_function(told, timeout=WAIT)
        assert page.locator("#live").bounding_box()["height"] >= 30
        held.set()
        page.wait_for_function(
            "before => document.querySelector('#viewer .after img').getAttribute('src') !== before",
            arg=first,
            timeout=WAIT,
        )
        assert "queue" not in page.locator("#live").inner_text()
        assert all(job.result(60)[1]["seed"] == 1 for job in jobs)
        held.clear()
        jobs = [ask(), ask()]
        eventually(lambda: app.waiting() == 1)
        assert app._queue.max_size == MAX_WAITING
        monkeypatch.setattr(app._queue, "max_size", 1)
        page.locator("#run").click()
        page.wait_for_function("document.body.innerText.includes('This application is currently busy')", timeout=WAIT)
        held.set()
        assert all(job.result(60)[1]["seed"] == 1 for job in jobs)
        monkeypatch.undo()
        page.wait_for_function("!document.querySelector('#run').disabled", timeout=WAIT)
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
    finally:
        page.close()


@needs_chromium
def test_a_page_that_waits_can_give_up_its_place(app, client, browser, photo_file, held):
    page = browser.new_page(locale="en-US")
    try:
        page.goto(app.local_url)
        page.wait_for_selector("#run", timeout=WAIT)
        first = page.locator("#viewer .after img").get_attribute("src", timeout=WAIT)
        upload(page, photo_file)
        job = client.submit(handle_file(photo_file), steps=1, seed=1, api_name="/upscale")
        eventually(lambda: app.waiting() == 0 and job.status().code.name == "PROGRESS")
        page.locator("#run").click()
        eventually(lambda: app.waiting() == 1)
        page.locator("#cancel").click(timeout=WAIT)
        eventually(lambda: app.waiting() == 0)
        page.wait_for_function("document.querySelector('#live').innerText.includes('Cancelled')", timeout=WAIT)
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
        held.set()
        assert job.result(60)[1]["seed"] == 1
        assert page.locator("#viewer .after img").get_attribute("src") == first
        page.locator("#run").click()  # and may ask again
        page.wait_for_function(
            "before => document.querySelector('#viewer .after img').getAttribute('src') !== before",
            arg=first,
            timeout=WAIT,
        )
        page.wait_for_selector("#cancel", state="hidden", timeout=WAIT)
    finally:
        page.close()
