"""`python -m sisrm doctor`, and the costs of full-size networks, here with tiny ones in their place."""

from __future__ import annotations

import json
from functools import partial

import pytest
from conftest import tiny_pipe

from sisrm import presets
from sisrm.cli import main
from sisrm.evaluation import complexity, full_size
from sisrm.runtime import AttentionBackend


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(presets.constants, "HF_HOME", str(tmp_path / "nothing" / "here"))
    monkeypatch.delenv("SISRM_PRESET", raising=False)


def test_doctor_tells_what_runs_and_why(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    for line in (
        "device: cpu",
        "attention: sdpa: xformers has no kernels for cpu",
        "compile: off: cpu has no CUDA graphs",
        "  torch: ",
        "  compact: ready",
        "loads: yes",
    ):
        assert line in told
    assert "  sca: trained" in told and "GiB" in told
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113" in told and "to be downloaded" in told


def test_doctor_downloads_nothing_and_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(presets, "fetch", None)
    assert main(["doctor", "--device", "cpu", "--preset", "sd", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["preset"] == "sd" and report["loads"].startswith("no: not assembled") and not report["parts"]


def test_doctor_names_untrained_parts_and_broken_folders(tmp_path, capsys):
    tiny_pipe(trained=False).save_pretrained(tmp_path / "mine")
    assert main(["doctor", "--device", "cpu", "--preset", str(tmp_path / "mine")]) == 0
    assert "  sca: not trained" in capsys.readouterr().out
    (tmp_path / "mine" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert main(["doctor", "--device", "cpu", "--preset", str(tmp_path / "mine")]) == 2
    assert "loads: no: mine/unet: expected" in capsys.readouterr().out


def test_costs_of_one_step_are_the_image_s(tiny_pipeline):
    report = full_size.measure(tiny_pipeline, {"num_inference_steps": 1, "guidance_scale": 1.0}, size=32)
    whole = complexity.measure(tiny_pipeline, 32, repeats=1)  # 2 steps, guidance 1.5
    assert report["gflops"] == pytest.approx(whole["gflops"], rel=1e-6)
    assert report["parameters"] == whole["parameters"]
    assert sum(part["gflops"] for part in report["components"].values()) == pytest.approx(report["gflops"])
    one = complexity.measure(tiny_pipeline, 32, repeats=1, options=dict(num_inference_steps=1, guidance_scale=1.0))
    assert report["settings"]["fast"]["gflops"] == pytest.approx(one["gflops"], rel=1e-3)
    assert report["settings"]["SeeSR's settings"]["seesr_ratio"] == 1.0 < report["settings"]["default"]["seesr_ratio"]


def test_pytorch_s_attention_is_timed_beside_xformers_and_undone(tiny_pipeline, photo, monkeypatch):
    outputs, switched = [], []
    timed = partial(full_size.attention_milliseconds, tiny_pipeline, lambda: outputs.append(tiny_pipeline(photo)), outputs, 1, 5.0)
    tiny_pipeline.attention_backend = AttentionBackend("sdpa", "")
    assert timed() == {"sdpa": 5.0} and not outputs
    for name in ("enable", "disable"):
        switch = f"{name}_xformers_memory_efficient_attention"
        monkeypatch.setattr(tiny_pipeline, switch, partial(switched.append, name))
    tiny_pipeline.attention_backend = AttentionBackend("xformers", "")
    times = timed()
    assert list(times) == ["xformers", "sdpa"] and times["xformers"] == 5.0 and 0 < times["sdpa"] != 5.0
    assert switched == ["disable", "enable"]


def test_warm_calls_are_timed_without_the_first(tiny_pipeline, photo):
    outputs, calls = [None], []

    def call():
        outputs.append(tiny_pipeline(photo))
        calls.append(1)
        if len(calls) <= complexity.WARM_UP:
            outputs[-1].timings.update(total=99.0, denoising=99.0)

    times = full_size.warm_milliseconds(call, outputs, repeats=3)
    assert 0 < times["denoising"] < times["milliseconds"] < 99_000 and len(outputs) == 3


def test_the_command_measures_random_weights(monkeypatch, capsys):
    monkeypatch.setattr(presets, "random_components", lambda *_: {k: v for k, v in tiny_pipe().components.items()})
    assert main(["complexity", "--preset", "sd", "--random-weights", "--size", "16", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "| default | 20 | 5.5 |" in told and "| fast | 4 | 1 |" in told and "| SeeSR's settings | 50 | 5.5 |" in told
    assert main(["complexity", "--preset", "compact", "--random-weights"]) == 2
    assert "--preset is 'compact'" in capsys.readouterr().err
