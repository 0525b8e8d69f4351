"""The endpoints as scripts meet them: a stable schema, every parameter, progress, cancelling, patches, health."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import eventually

from sisrm import __version__
from sisrm.images import Photo
from sisrm.ui.api import FEWEST_VALUES
from sisrm.ui.endpoints import uploads
from sisrm.ui.regions import paint
from sisrm.ui.settings import CONTROLS

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).with_name("api_schema.json")
API = "/gradio_api"


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8))
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    small.resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def slow(app, monkeypatch):
    """Steps of half a second; what is given has for each one whether it began after the job had been cancelled."""
    steps, watches, work = [], [], app.handlers.upscale

    def noted(photo, settings, folder, name, watch, *args, **options):
        watches.append(watch)
        return work(photo, settings, folder, name, watch, *args, **options)

    def wait(*_):
        steps.append(watches[-1].cancelled.is_set())
        time.sleep(0.5)

    monkeypatch.setattr(app.handlers, "upscale", noted)
    hook = app.handlers.pipe.unet.register_forward_pre_hook(wait)
    yield steps
    hook.remove()


def stopped(app, steps: list[bool], left_at: int) -> bool:
    """Whether the model came free with the step that it was at, or one more, once the server knew that the client was gone; for that it
    has a few seconds, and the whole job takes longer."""
    eventually(lambda: not app.handlers.busy, 60)
    return sum(steps) <= 1 and len(steps) <= left_at + 10 < 20


def results() -> set[str]:
    """The folders that jobs have made; an upload lies in one of its own. One may vanish meanwhile, which os.walk does not mind."""
    return {folder for folder, _, names in os.walk(uploads()) if names != ["photo.png"]} - {str(uploads())}


def schema(client) -> dict:
    """What scripts rely on: names, order, types, ranges, defaults."""
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    kept = ("parameter_name", "parameter_has_default", "parameter_default", "label", "type")
    described = {
        name: {
            "parameters": [{key: entry.get(key) for key in kept} for entry in endpoint["parameters"]],
            "returns": [entry["label"] for entry in endpoint["returns"]],
            "description": endpoint["description"],
        }
        for name, endpoint in named.items()
    }
    for endpoint in described.values():
        for entry in endpoint["parameters"]:
            if "image" in entry["label"]:
                entry["type"] = "image"  # Gradio's own description of a file, which changes with its version
    return json.loads(json.dumps(described))


def test_the_schema_is_the_committed_one(client):
    found = schema(client)
    if os.environ.get("SISRM_WRITE_SCHEMA"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8")), (
        "SISRM_WRITE_SCHEMA=1 writes the new one; scripts rely on the old"
    )


def test_old_names_stay_first_and_everything_but_the_image_has_a_default(client):
    found = schema(client)
    names = {endpoint: [entry["parameter_name"] for entry in found[endpoint]["parameters"]] for endpoint in found}
    assert names["/upscale"] == ["image", *CONTROLS, "region", "format"]
    assert names["/upscale"][:6] == ["image", "steps", "guidance_scale", "top_k", "mff", "seed"]
    assert len(names["/upscale"][:6]) == FEWEST_VALUES["upscale"]
    assert names["/segment"] == ["image", "top_k"] and names["/preview"] == ["image", "x", "y", *CONTROLS, "region"]
    for endpoint in found.values():
        first, *others = endpoint["parameters"]
        assert not first["parameter_has_default"] and all(entry["parameter_has_default"] for entry in others)
        for name in (entry["parameter_name"] for entry in others):
            assert f"{name}" in endpoint["description"]


def test_every_parameter_arrives(client, photo_file, tmp_path):
    region = np.zeros((40, 48), np.int8)
    region[:20], region[30:] = 1, -1
    paint(region).save(tmp_path / "region.png")
    values = {
        "steps": 3, "guidance_scale": 2.5, "top_k": 4, "mff": True, "seed": 11, "sca": False, "sape": True, "labels": ["sea", "boat"],
        "extra_labels": ["sky"], "muted_labels": ["boat"], "start_strength": 0.4, "detail_strength": 0.75,
        "controlnet_conditioning_scale": 0.5, "color_fix": "adain", "color_fix_strength": 0.5, "tile_size": 128, "output_scale": 3,
    }  # fmt: skip
    assert values.keys() == CONTROLS.keys()
    path, report = client.predict(
        handle_file(photo_file),
        **values,
        region=handle_file(tmp_path / "region.png"),
        format="webp",
        api_name="/upscale",
    )
    assert report["settings"] == values and report["region"] == {"add": 0.5, "protect": 0.25}
    assert [label["name"] for label in report["labels"]] == ["sky", "sea"] and report["output_size"] == [144, 120]
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.size == (144, 120)
    assert {"torch", "diffusers", "gradio"} <= report["versions"].keys() and report["version"] == __version__


def test_older_scripts_by_position_still_work(app, client, photo_file):
    path, report = client.predict(handle_file(photo_file), 2, 2.0, 2, True, 5, api_name="/upscale")
    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=30) as web:
        uploaded = web.post(f"{API}/upload", files={"files": ("photo.png", photo_file.read_bytes())}).json()[0]
        file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}, "orig_name": "photo.png"}
        event = web.post(f"{API}/call/upscale", json={"data": [file, 2, 2.0, 2, True, 5]}).json()["event_id"]
        text = web.get(f"{API}/call/upscale/{event}").text
    result = json.loads(re.search(r"event: complete\ndata: (.*)", text).group(1))
    assert result[1]["settings"] == report["settings"]
    assert result[1]["settings"]["tile_size"] == app.handlers.defaults.tile_size


BAD = {
    "sca": 1, "sape": "x", "labels": "sky", "extra_labels": ["no such thing"], "muted_labels": 5, "start_strength": 0, "detail_strength": 3,
    "controlnet_conditioning_scale": -1, "color_fix": "red", "color_fix_strength": None, "tile_size": 63, "output_scale": 5,
    "format": "gif",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_by_name(client, photo_file, name):
    with pytest.raises(AppError, match=f"{name} is .*accepted: "):
        client.predict(handle_file(photo_file), **{name: BAD[name]}, api_name="/upscale")


def test_a_region_opens_no_other_file(app, photo_file):
    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=30) as web:
        for region in ("/etc/hostname", {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}, 5):
            data = [None, 1, 1, 2, True, 1, *[0] * 12, region, "png"]
            event = web.post(f"{API}/call/upscale", json={"data": data}).json()["event_id"]
            answer = web.get(f"{API}/call/upscale/{event}").text
            assert answer.startswith("event: error") and socket.gethostname() not in answer


def test_progress_through_the_client(app, client, photo_file):
    passes, seen = [], [(0, 5, "")]

    def until_seen(*_):  # the job goes on when the client knows how far it is, however slow the machine
        eventually(lambda: max(index for index, *_ in seen) == len(passes), 60)
        passes.append(None)

    hook = app.handlers.pipe.unet.register_forward_pre_hook(until_seen)
    try:
        job = client.submit(handle_file(photo_file), steps=5, guidance_scale=1.0, api_name="/upscale")
        while not job.done():
            for unit in job.status().progress_data or []:
                seen.append((unit.index or 0, unit.length, unit.desc))
            time.sleep(0.01)
    finally:
        hook.remove()
    assert job.result()[1]["settings"]["steps"] == 5
    assert {(step, 5) for step in (1, 2, 3, 4)} <= {(index, length) for index, length, _ in seen}
    assert any("3" in words and "5" in words for _, _, words in seen)


def test_cancel_through_the_client_frees_the_model_within_two_steps(app, client, photo_file, slow):
    before = results()
    job = client.submit(handle_file(photo_file), steps=20, guidance_scale=1.0, api_name="/upscale")
    eventually(lambda: len(slow) >= 3 and job.status().code.name == "PROGRESS", 60)
    job.cancel()
    assert stopped(app, slow, len(slow))
    eventually(lambda: results() == before, 60)  # a cancelled job leaves no files
    assert client.predict(handle_file(photo_file), steps=1, api_name="/upscale")[1]["settings"]["steps"] == 1


def test_a_lost_connection_frees_the_model_within_two_steps(app, photo_file, slow):
    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=30) as web:
        uploaded = web.post(f"{API}/upload", files={"files": ("photo.png", photo_file.read_bytes())}).json()[0]
        file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        event = web.post(f"{API}/call/upscale", json={"data": [file, 20, 1, 2, True, 5]}).json()["event_id"]
        with web.stream("GET", f"{API}/call/upscale/{event}"):
            eventually(lambda: len(slow) >= 3, 60)
        assert stopped(app, slow, len(slow))


def test_leaving_the_page_frees_the_model_within_two_steps(app, photo_file, slow):
    index, button = next((index, fn) for index, fn in app.fns.items() if fn.name == "enlarge")
    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=30) as web:
        uploaded = web.post(f"{API}/upload", files={"files": ("photo.png", photo_file.read_bytes())}).json()[0]
        data = [component.value for component in button.inputs]
        names = [component.elem_id for component in button.inputs]
        data[names.index("photo")] = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        data[names.index("steps")] = 20
        session = "left-early"
        web.post(f"{API}/queue/join", json={"data": data, "fn_index": index, "session_hash": session})
        with web.stream("GET", f"{API}/queue/data", params={"session_hash": session}):
            eventually(lambda: len(slow) >= 3, 60)
        assert stopped(app, slow, len(slow))


def test_a_patch_is_what_the_whole_job_sees_there(app, client, tmp_path):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)).resize(
        (200, 150), Image.Resampling.BICUBIC
    )
    image.save(tmp_path / "large.png")
    values = {"steps": 1, "guidance_scale": 1.0, "top_k": 3, "seed": 1, "extra_labels": ["sky"]}
    path, report = client.predict(handle_file(tmp_path / "large.png"), x=1.0, y=0.5, **values, api_name="/preview")
    assert report["crop"] == {"left": 72, "top": 11, "width": 128, "height": 128}
    assert Image.open(path).size == (512, 512) and json.loads(Image.open(path).text["sisrm"]) == report
    whole = app.handlers.labels_of(Photo(image), app.handlers.check(values))
    assert [label["name"] for label in report["labels"]] == [label.name for label in whole]
    assert report["labels"][1]["score"] is not None and report["settings"]["extra_labels"] == ["sky"]
    assert report["prompt"] == ", ".join(label.name for label in whole) and report["settings"]["labels"] == []
    for bad in (-0.1, 1.5, "left", None):
        with pytest.raises(AppError, match="x is .*accepted: a number from 0 to 1"):
            client.predict(handle_file(tmp_path / "large.png"), x=bad, y=0.5, api_name="/preview")


def test_health(app, client, photo_file):
    release = threading.Event()

    def wait(*_):
        release.wait(180)

    def state() -> tuple[int, bool]:
        answer = web.get("/healthz").json()
        return answer["queue"], answer["working"]

    with httpx.Client(base_url=app.local_url.rstrip("/"), timeout=30) as web:
        eventually(lambda: not app.handlers.busy, 60)
        answer = web.get("/healthz")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert answer.json() == {"status": "ok", "preset": None, "version": __version__, "queue": 0, "working": False}
        assert web.head("/healthz").status_code == 200 and web.post("/healthz").status_code == 405
        hook = app.handlers.pipe.unet.register_forward_pre_hook(wait)
        try:
            jobs = [
                client.submit(handle_file(photo_file), steps=1, guidance_scale=1.0, api_name="/upscale")
                for _ in range(3)
            ]
            eventually(lambda: state() == (2, True), 60)
            release.set()
            eventually(lambda: state() == (0, False), 60)
            assert all(job.result(60) for job in jobs)
        finally:
            release.set()
            hook.remove()


def test_the_example_script_runs(app, photo_file, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def script(*arguments):
        command = [sys.executable, str(ROOT / "examples" / "client.py"), app.local_url, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)

    # Two steps of this model are over before the script asks for the first time how far it is.
    done = script(photo_file, "x4.jpg", "--steps", 20, "--labels", "sky", "sea", "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert "x4.jpg: 192 x 160, seed 3" in done.stdout and "sky, sea" in done.stdout and "Step" in done.stderr
    with Image.open(tmp_path / "x4.jpg") as image:
        assert image.format == "JPEG" and image.size == (192, 160)
    refused = script(photo_file, "b.png", "--steps", 99)
    assert refused.returncode == 1 and "steps is 99; accepted: a whole number from 1 to 20" in refused.stderr
    assert not (tmp_path / "b.png").exists()
