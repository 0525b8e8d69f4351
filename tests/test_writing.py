"""While results are written: the model is free, Cancel counts, and nothing is deleted that is in use. And the examples stay."""

from __future__ import annotations

import io
import json
import os
import time

import pytest
from conftest import tiny_pipe
from PIL import Image
from test_http import API, FILE, call, harmless, photo_bytes, upload

from sisrm.errors import Interrupted
from sisrm.images import Photo
from sisrm.ui import endpoints
from sisrm.ui import handlers as handlers_module
from sisrm.ui.blocks import build_app
from sisrm.ui.callbacks import Steps
from sisrm.ui.endpoints import UNFINISHED, result_folder
from sisrm.ui.guard import MAX_UPLOADS
from sisrm.ui.handlers import Handlers
from sisrm.ui.progress import Watch
from sisrm.ui.storage import KEEP_SECONDS, Storage


@pytest.mark.parametrize("files", [0, 1, 2])
def test_cancel_ends_a_job_that_writes_while_the_model_is_free(photo, tmp_path, monkeypatch, files):
    handlers = Handlers(tiny_pipe(), {})
    watch, written, busy = Watch(handlers.pace), [], []
    write = handlers_module.write_image

    def counted(*given):
        written.append(write(*given))
        busy.append(handlers.busy)
        if len(written) == files:
            watch.cancelled.set()
        return written[-1]

    monkeypatch.setattr(handlers_module, "write_image", counted)
    if not files:  # cancelled as soon as the model is done
        monkeypatch.setattr(watch, "enter", lambda part: part == "writing" and watch.cancelled.set())
    with pytest.raises(Interrupted):
        handlers.upscale(Photo(photo), handlers.check({"steps": 1, "seed": 0}), tmp_path, watch=watch)
    assert len(written) == files and not any(busy)


def test_a_preview_of_many_tiles_is_not_finished_for_nobody(tmp_path):
    handlers = Handlers(tiny_pipe(), {})
    watch, steps = Watch(handlers.pace, previews=True), []

    class Eager(Steps):
        def __call__(self, pipe, index, timestep, values):
            finish = values["preview"]

            def preview(report):
                def after_tile(done, total):
                    steps.append((done, total))
                    watch.cancelled.set()
                    report(done, total)

                return finish(report=after_tile)

            return super().__call__(pipe, index, timestep, {**values, "preview": preview})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sisrm.ui.model.Steps", Eager)
        patch.setattr(watch, "wants_preview", lambda tiles: True)
        settings = handlers.check({"steps": 3, "guidance_scale": 1.0, "tile_size": 64, "seed": 0})
        with pytest.raises(Interrupted):
            handlers.upscale(Photo(Image.new("RGB", (200, 40), "teal")), settings, tmp_path, watch=watch)
    assert [done for done, _ in steps] == [1] and steps[0][1] > 2


def test_the_folder_of_a_result_that_is_being_made_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    storage = Storage(tmp_path, most=1, needed=lambda: set(UNFINISHED))
    with result_folder() as folder:
        (folder / "painted.png").write_bytes(b"12")
        for path in (folder / "painted.png", folder):
            os.utime(path, (time.time() - 100,) * 2)
        storage.clean()
        assert (folder / "painted.png").exists()
    assert folder.name not in UNFINISHED
    storage.clean()
    assert not folder.exists()


def test_the_page_examples_stay(tmp_path, garden, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    app = build_app(tiny_pipe(), [garden])
    kept = [path for path in (tmp_path / "files").rglob("*.png") if path.name == garden.name]
    assert kept
    old = time.time() - KEEP_SECONDS - 60
    for path in (tmp_path / "files").rglob("*"):
        os.utime(path, (old, old))
    os.utime(kept[0].parent, (old, old))
    Storage(tmp_path / "files", most=1, needed=app.needed).clean()
    assert kept[0].exists()


def test_every_spelling_of_a_boundary_is_counted(web):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nx\r\n'
    for spelled in ("Boundary=b", 'xboundary=z; boundary="b"', "BOUNDARY=b; charset=utf-8"):
        headers = {"Content-Type": f"multipart/form-data; {spelled}"}
        for count, status in ((MAX_UPLOADS, 200), (MAX_UPLOADS + 1, 400)):
            answer = web.post(f"{API}/upload", content=part * count + b"--b--\r\n", headers=headers)
            assert answer.status_code == status, (spelled, answer.text)


def test_memory_that_runs_out_before_the_model_is_told(web, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    given, file = [], json.dumps({"path": upload(web, photo_bytes(tmp_path)), "meta": FILE})
    with monkeypatch.context() as patch:
        patch.setattr("sisrm.ui.api.open_upload", full)
        patch.setattr(endpoints, "release_memory", lambda: given.append(1))
        text = harmless(call(web, f"[{file}, 1, 1, 2, true, 1]"))
    assert "not enough memory" in text and given
    assert call(web, f"[{file}, 1, 1, 2, true, 1]").startswith("event: complete")


def test_the_report_says_that_the_first_frame_alone_was_used(web, photo):
    held = io.BytesIO()
    photo.save(held, "GIF", save_all=True, append_images=[photo.rotate(90).resize(photo.size)])
    file = json.dumps({"path": upload(web, held.getvalue(), "a.gif"), "meta": FILE})
    for endpoint, values in (("upscale", "1, 1, 2, true, 1"), ("segment", "2")):
        text = call(web, f"[{file}, {values}]", endpoint)
        report = json.loads(text.split("data: ", 1)[1])[-1]
        assert [notice["code"] for notice in report["notices"]] == ["first_frame"], endpoint
