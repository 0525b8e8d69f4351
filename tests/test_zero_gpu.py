"""ZeroGPU: the networks run in another process, which gets and gives nothing but pictures, numbers, arrays and our own errors."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from app_process import running
from conftest import tiny_pipe
from gradio_client import Client, handle_file
from PIL import Image

from sisrm import errors
from sisrm.errors import Interrupted, OutOfMemory, ParameterError
from sisrm.images import Photo
from sisrm.presets import load_pipeline
from sisrm.runtime import Acceleration, choose_attention_backend
from sisrm.ui.ahead_of_time import SECONDS
from sisrm.ui.handlers import Handlers
from sisrm.ui.jobs import Job
from sisrm.ui.model import Model, Request
from sisrm.ui.progress import Pace, Watch
from sisrm.ui.settings import Settings
from sisrm.ui.showcase import Showcase
from sisrm.ui.zero_gpu import FEWEST_SECONDS, MOST_SECONDS, ZeroGPU, gpu_seconds, model_for

STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture
def spaces(monkeypatch):
    """The environment of a ZeroGPU Space, with a stand-in for the package."""
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    import spaces

    yield spaces
    sys.modules.pop("spaces")


def without_networks(pipe):
    """No network of it can be run in this process."""
    here = os.getpid()

    def refuse(*_):
        assert os.getpid() != here, "a network ran in the app's own process"

    for part in (
        pipe.unet,
        pipe.controlnet,
        pipe.vae,
        pipe.segmenter,
        pipe.sape,
        pipe.image_encoder,
        pipe.text_encoder,
    ):
        part.register_forward_pre_hook(refuse)
    return pipe


@pytest.fixture
def both(spaces, monkeypatch):
    """The same pipeline on ZeroGPU, and in this process."""
    away = Handlers(without_networks(tiny_pipe()), {})
    monkeypatch.delenv("SPACES_ZERO_GPU")
    here = Handlers(tiny_pipe(), {})
    assert type(away.model) is ZeroGPU and type(here.model) is Model and here.model.live
    return away, here


def upscaled(handlers, image, folder, watch=None, region=None, **values):
    folder.mkdir(exist_ok=True, parents=True)
    settings = handlers.check({"steps": 2, "seed": 5, **values})
    return handlers.upscale(Photo(image), settings, folder, watch=watch, region=region, states=True)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_job_gives_the_same_in_the_other_process(both, spaces, photo, tmp_path):
    region = np.zeros((20, 24), np.float32)
    region[:5] = -1
    chosen = {"guidance_scale": 2.0, "extra_labels": ["sea"], "region": region}
    for number, values in enumerate((chosen, {"steps": 3, "sape": False})):
        done, right = (upscaled(entry, photo, tmp_path / f"{number}{entry.model.live}", **values) for entry in both)
        assert np.array_equal(pixels(done.result), pixels(right.result))
        assert np.array_equal(pixels(done.views.mask), pixels(right.views.mask))
        assert {share: pixels(path).tolist() for share, path in done.states.items()} == {
            share: pixels(path).tolist() for share, path in right.states.items()
        }
        assert set(done.states) == {0.5, 0.2}
        timings = [entry.report.pop("timings") for entry in (done, right)]
        assert timings[0].keys() == timings[1].keys() and all(seconds >= 0 for seconds in timings[0].values())
        assert done.report.pop("weights_hash") and right.report.pop("weights_hash")
        assert done.report == right.report and done.report["segmentation_reused"] is (number == 1)
    assert len(spaces.CALLS) == 2
    for call in spaces.CALLS:
        assert call["pid"] == os.getpid() != call["worker"]
        assert isinstance(call["seconds"], int) and FEWEST_SECONDS <= call["seconds"] <= MOST_SECONDS


def test_labels_are_chosen_without_another_call(both, spaces, photo, tmp_path):
    away, here = both
    for top_k, calls in ((2, 1), (3, 1)):
        reports = []
        for handlers in both:
            report = handlers.segment(Photo(photo), top_k, tmp_path).report
            reports.append({key: report[key] for key in ("labels", "prompt", "regions", "input_size", "settings")})
        assert reports[0] == reports[1] and len(spaces.CALLS) == calls
    muted = away.check({"muted_labels": [report["labels"][0]["name"]], "top_k": 3})
    assert away.labels_of(Photo(photo), muted) == here.labels_of(Photo(photo), muted)
    assert upscaled(away, photo, tmp_path).report["segmentation_reused"] and len(spaces.CALLS) == 2


def test_errors_come_back_as_what_they_are(both, spaces, photo, tmp_path):
    away = both[0]
    values = away.defaults.as_json() | {"steps": 300}
    beyond = Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    with pytest.raises(ParameterError) as caught:
        away.upscale(Photo(photo), beyond, tmp_path)
    assert caught.value.name == "num_inference_steps" and caught.value.value == 300 and "1 to 200" in str(caught.value)

    def fail(error):
        def hook(*_):
            raise error

        return away.pipe.unet.register_forward_pre_hook(hook)

    for error, kind, said in (
        (MemoryError(), OutOfMemory, "memory"),
        (RuntimeError("CUDA error: an illegal address"), gr.Error, "RuntimeError"),
        (KeyError("secret"), gr.Error, "KeyError"),
    ):
        broken = fail(error)
        with pytest.raises(kind) as caught:
            upscaled(away, photo, tmp_path)
        assert said in str(caught.value) and "secret" not in str(caught.value) and not away.busy
        broken.remove()
    assert upscaled(away, photo, tmp_path).result.exists()


def test_a_cancelled_job_ends_with_its_call(both, photo, tmp_path):
    away = both[0]
    watch = Watch(away.pace)
    job = Job(lambda own: upscaled(away, photo, tmp_path, watch=own, steps=20), watch)
    updates = job.updates()
    stages = []
    with pytest.raises(Interrupted):
        for update in updates:
            stages.append(update.stage)
            if update.stage == "away":
                job.cancel()
    assert "away" in stages and "denoising" not in stages and not away.busy
    assert upscaled(away, photo, tmp_path).result.exists()


def test_a_job_tells_how_long_it_takes_once_one_is_done(both, photo, tmp_path):
    away = both[0]
    for known in (False, True):
        job = Job(lambda own: upscaled(away, photo, tmp_path, watch=own), Watch(away.pace, previews=True))
        told = [update for update in job.updates() if update.stage == "away"]
        assert told and all((update.seconds_left is not None) is known for update in told)
        assert all(update.preview is None and update.step == 0 for update in told)


def test_the_time_asked_for_follows_the_work_within_bounds():
    def seconds(side=128, pace=None, states=False, **values) -> int:
        settings = Settings(**{"steps": 20, "guidance_scale": 5.5, "top_k": 5, "mff": True, "seed": 0, **values})
        return gpu_seconds(Request(Image.new("RGB", (side, side)), settings, states=states), pace or Pace())

    usual = seconds()
    assert FEWEST_SECONDS <= usual < MOST_SECONDS and isinstance(usual, int)
    assert seconds(256) < seconds(400) < MOST_SECONDS == seconds(4096)
    assert seconds(256, steps=4) < seconds(256) and seconds(256, guidance_scale=1.0) < seconds(256)
    assert seconds(512, states=True, steps=4) > seconds(512, steps=4)
    assert gpu_seconds(Request(Image.new("RGB", (4096, 4096))), Pace()) == FEWEST_SECONDS  # only looked at
    quick, slow = Pace(), Pace()
    for pace, each in ((quick, 1e-9), (slow, 1e-4)):
        for part in ("segmentation", "image_encoder", "denoising", "decode"):
            pace.note(part, 1, each)
    assert seconds(1024, quick) == FEWEST_SECONDS and seconds(128, slow) == MOST_SECONDS


def test_every_error_of_ours_survives_pickling():
    made = [
        errors.SISRMError("a"), errors.ParameterError("steps", 0, "1 to 200"), errors.ImageError("a.png", "is damaged"),
        errors.WeightsError("w"), errors.Interrupted("i"), errors.OutOfMemory("o"),
    ]  # fmt: skip
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SISRMError)}
    assert {type(error) for error in made} == kinds
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_without_the_package_everything_runs_here(monkeypatch, caplog):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert type(Handlers(tiny_pipe(), {}).model) is Model and "`spaces` is not installed" in caplog.text
    monkeypatch.setenv("SPACES_ZERO_GPU", "false")
    caplog.clear()
    assert type(Handlers(tiny_pipe(), {}).model) is Model and not caplog.text


def test_xformers_is_not_tried_where_there_is_no_gpu_yet(monkeypatch):
    import torch

    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    backend = choose_attention_backend(torch.device("cuda"), torch.float16)
    assert backend.name == "sdpa" and "ZeroGPU" in backend.reason


def test_no_gpu_is_asked_for_before_a_visitor_comes(both, spaces, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    kept = []

    class Kept:
        def keep(self, *entry):
            kept.append(entry)

    showcase = Showcase(both[0], tmp_path / "a.png", lambda: tmp_path, Kept())
    showcase.start()
    assert spaces.CALLS == []
    assert showcase.result().result.exists() and len(spaces.CALLS) == len(kept) == 1


def test_what_is_compiled_ahead_serves_photos_of_any_size_and_all_else_runs_as_it_is(spaces, photo):
    compiled, plain = tiny_pipe(), tiny_pipe()
    compiled.acceleration = Acceleration("inductor", "asked for, ahead of time")
    assert type(model_for(compiled, Pace())) is ZeroGPU
    assert [call["seconds"] for call in spaces.CALLS] == [SECONDS] and spaces.CALLS[0]["worker"] != os.getpid()
    steps = plain.defaults["num_inference_steps"]
    for size, settings, runs in (
        ((24, 20), {}, 2 * steps),
        ((64, 64), {}, 2 * steps),
        ((50, 90), {"use_mff": False, "num_inference_steps": 3}, 6),
        ((24, 20), {"guidance_scale": 1.0}, 0),
        ((24, 20), {"use_sca": False}, 0),
        ((24, 20), {"controlnet_conditioning_scale": 0.0}, 0),
        ((24, 20), {"controlnet_conditioning_scale": 0.5}, steps),  # of the U-Net: the strength is a constant of the ControlNet's
    ):
        results = []
        for pipe in (compiled, plain):
            generator = torch.Generator().manual_seed(1)
            results.append(pipe(photo.resize(size), generator=generator, output_type="pt", **settings).images)
        assert torch.allclose(*results, atol=1e-4), (size, settings)
        assert len(spaces.RUNS) == runs, (size, settings)
        spaces.RUNS.clear()


def test_an_app_that_cannot_be_compiled_runs_as_it_is(spaces, photo, monkeypatch, caplog):
    def stumble(network):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(spaces, "aoti_capture", stumble)
    pipe = tiny_pipe()
    pipe.acceleration = Acceleration("inductor", "asked for, ahead of time")
    model_for(pipe, Pace())
    assert pipe.acceleration.name == "off" and "compiling ahead of time failed" in caplog.text
    assert pipe(photo).images[0].size == (96, 80)


def test_the_app_on_zero_gpu(garden, tmp_path):
    """app.py in a process of its own, through its endpoints."""
    tiny_pipe().save_pretrained(tmp_path / "tiny")
    calls = tmp_path / "calls"
    paths = os.pathsep.join([str(STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": paths, "ZERO_GPU_CALLS": str(calls)}
    with running(tmp_path / "app", SISRM_PRESET=str(tmp_path / "tiny"), **settings) as address:
        client = Client(address, verbose=False, download_files=str(tmp_path / "down"))
        assert not calls.exists()
        path, report = client.predict(handle_file(garden), steps=2, seed=5, api_name="/upscale")
        sample, crop = client.predict(handle_file(garden), seed=5, api_name="/preview")
        _, segmented = client.predict(handle_file(garden), top_k=3, api_name="/segment")
        lines = [json.loads(line) for line in calls.read_text().splitlines()]
        assert "ZeroGPU lends the GPU" in json.dumps(client.config)
    here = Handlers(load_pipeline(str(tmp_path / "tiny"), "cpu"), {})
    assert np.array_equal(pixels(path), pixels(upscaled(here, Image.open(garden), tmp_path / "here").result))
    assert report["labels"] == segmented["labels"] and report["device"] == "cpu" and Image.open(sample).size == (96, 80)
    assert [label["name"] for label in crop["labels"]] == [label["name"] for label in report["labels"]]
    assert len(lines) == 2, "an enlargement and a patch; the labels were known"
    assert len({line["pid"] for line in lines}) == 1 and all(line["worker"] != line["pid"] for line in lines)
    assert all(line["visitor"] for line in lines), "the visitor's own day of GPU must pay"
