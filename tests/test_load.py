"""The running app under load: many clients at once, a full queue, a full disk, clients that leave."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from gradio.route_utils import GradioUploadFile
from PIL import Image

from sisrm.ui.serving import MAX_SESSIONS

API = "/gradio_api"
CLIENTS = 50
QUEUE = 32


def photo(number: int) -> bytes:
    """A small PNG that no other client has."""
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def request(app, number: int, wait: threading.Barrier | None = None) -> tuple[str, str]:
    """One client: uploads its photo, asks, reads the answer -> ("done", hash of the picture's pixels) or ("refused", why)."""
    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=120) as web:
        path = web.post(f"{API}/upload", files={"files": (f"{number}.png", photo(number))}).json()[0]
        file = {"path": path, "orig_name": f"{number}.png", "meta": {"_type": "gradio.FileData"}}
        if wait is not None:
            wait.wait(60)
        asked = web.post(f"{API}/call/upscale", json={"data": [file, 1, 1, 5, True, number]})
        if asked.status_code != 200:
            return "refused", f"{asked.status_code} {asked.text}"
        stream = web.get(f"{API}/call/upscale/{asked.json()['event_id']}").text
        event, _, data = stream.strip().split("event: ")[-1].partition("\ndata: ")
        if event != "complete":
            return "refused", data
        result, report = json.loads(data)
        assert report["seed"] == number
        picture = web.get(f"{API}/file={result['path']}")
        assert picture.status_code == 200
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
    assert pixels.shape == (64, 64, 3)
    return "done", hashlib.sha256(pixels.tobytes()).hexdigest()


def test_fifty_clients_get_their_own_pictures_or_a_refusal(app):
    alone = {number: request(app, number) for number in range(CLIENTS)}
    assert {kind for kind, _ in alone.values()} == {"done"} and len(set(alone.values())) == CLIENTS
    gate = threading.Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = dict(zip(range(CLIENTS), pool.map(lambda n: request(app, n, gate), range(CLIENTS)), strict=True))
    done = {number: answer for number, answer in answers.items() if answer[0] == "done"}
    assert done == {number: alone[number] for number in done}
    assert len(done) >= QUEUE
    for kind, why in answers.values():
        assert kind == "done" or "queue is full" in why.lower(), why


def test_a_full_queue_is_refused_in_a_sentence_and_empties_again(app, monkeypatch):
    release, running = threading.Event(), threading.Event()
    work = app.handlers.upscale

    def held(*args, **options):
        running.set()
        assert release.wait(60)
        return work(*args, **options)

    monkeypatch.setattr(app.handlers, "upscale", held)
    with ThreadPoolExecutor(CLIENTS) as pool:
        first = pool.submit(request, app, 0)
        assert running.wait(30)
        others = [pool.submit(request, app, number) for number in range(1, CLIENTS)]
        deadline = time.monotonic() + 60
        while sum(other.done() for other in others) < CLIENTS - 1 - QUEUE and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        refused = [other.result() for other in others if other.done()]
        release.set()
        answers = [first.result(), *(other.result() for other in others)]
    assert len(refused) == CLIENTS - 1 - QUEUE
    for kind, why in refused:
        assert kind == "refused" and why.startswith("503") and "Queue is full" in why and "Traceback" not in why
    assert [kind for kind, _ in answers].count("done") == 1 + QUEUE
    assert request(app, 0)[0] == "done"


def test_a_full_disk_is_told_and_leaves_nothing(app, upload_folder, monkeypatch):
    before = {path for path in upload_folder.rglob("*") if path.is_file()}
    save = Image.Image.save

    def full(image, target, *args, **options):
        # only what the app writes: the client's own photo goes into memory
        if isinstance(target, io.BytesIO) and image.size == (16, 16):
            return save(image, target, *args, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        kind, why = request(app, 7)
    assert kind == "refused" and "disk is full" in why and "Errno" not in why
    left = {path for path in upload_folder.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} <= {"7.png"}
    assert request(app, 7)[0] == "done"


def test_a_disk_that_is_full_during_an_upload_is_told(web, app, monkeypatch):
    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for lang, word in (("en", "disk is full"), ("zh-CN", "磁盘已满")):
        with monkeypatch.context() as patch:
            patch.setattr(GradioUploadFile, "write", full)
            answer = web.post(f"{API}/upload", files={"files": ("a.png", photo(1))}, headers={"Accept-Language": lang})
        assert answer.status_code == 507 and word in answer.text and "Errno" not in answer.text
        assert answer.headers["retry-after"] == "60"
    assert request(app, 1)[0] == "done"


def test_no_upload_begins_where_there_is_no_room_for_it(web, app, upload_folder, monkeypatch):
    before = set(upload_folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(app.storage, "_free", lambda: 0)
        answer = web.post(f"{API}/upload", files={"files": ("new.png", photo(1000))})
    assert answer.status_code == 507 and "no room" in answer.text
    assert set(upload_folder.iterdir()) == before
    assert request(app, 1)[0] == "done"


def test_of_many_visitors_only_the_latest_are_remembered(app):
    """Gradio would keep a copy of the page's settings of ten thousand."""
    for number in range(3):
        assert request(app, number)[0] == "done"
    holder = app.state_holder
    assert holder.capacity == MAX_SESSIONS
    for number in range(2 * MAX_SESSIONS):
        holder[f"visitor-{number}"]
    assert len(holder.session_data) <= MAX_SESSIONS and f"visitor-{2 * MAX_SESSIONS - 1}" in holder
    assert request(app, 1)[0] == "done"
