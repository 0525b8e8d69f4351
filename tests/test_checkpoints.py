"""Which checkpoints a training goes on from, and that none is lost to a run that begins anew."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from conftest import tiny_pipe
from test_training import settings

from sisrm import cli
from sisrm.errors import ParameterError
from sisrm.training.autoencoder import AutoencoderStage
from sisrm.training.checkpoints import require_no_checkpoint
from sisrm.training.data import Photos
from sisrm.training.loop import train


@pytest.fixture
def photos(tmp_path, photo) -> Photos:
    (tmp_path / "photos").mkdir()
    photo.resize((96, 80)).save(tmp_path / "photos" / "a.png")
    return Photos([str(tmp_path / "photos")])


@pytest.mark.parametrize(
    "name, begun, asked",
    [("seed", 0, 1), ("batch", 2, 3), ("optimizer", "adamw", "muon"), ("stage", "it2ic", "autoencoder"), ("--crop", 24, 32)],
)
def test_a_checkpoint_of_another_run_is_not_gone_on_from(photos, tmp_path, name, begun, asked):
    (tmp_path / "checkpoint").mkdir()
    of_stage = name in ("stage", "--crop")
    kept = settings(tmp_path, **({} if of_stage else {name: begun}))
    kind = {"stage": "autoencoder", "--crop": 32} | ({name: begun} if of_stage else {})
    state = {"step": 1, "seconds": 1.0, **kind, "settings": asdict(kept)}
    (tmp_path / "checkpoint/progress.json").write_text(json.dumps(state))
    changed = replace(kept, resume=True, **({} if of_stage else {name: asked}))
    with pytest.raises(ParameterError, match=f"{name} is {asked!r}; accepted: {begun}, which .* was begun with"):
        train(AutoencoderStage(tiny_pipe().vae, crop=32), photos, changed)


def test_a_run_goes_on_with_another_length_and_rate(photos, tmp_path):
    def run(**changes):
        tiny_pipe().save_pretrained(tmp_path / "model")
        train(AutoencoderStage(tiny_pipe().vae, crop=32), photos, settings(tmp_path, **changes))

    run(steps=1)
    run(steps=2, resume=True, minutes=5.0, learning_rate=3e-4, checkpoint_minutes=9.0)
    assert json.loads((tmp_path / "checkpoint/progress.json").read_text())["step"] == 2


def test_a_new_run_does_not_write_over_a_checkpoint(tmp_path, capsys):
    for name in ("checkpoint", "checkpoint.new"):
        output = tmp_path / name
        (output / name).mkdir(parents=True)
        require_no_checkpoint(output)  # half a one
        (output / name / "progress.json").write_text("{}")
        command = ["train", "autoencoder", "--data", str(tmp_path), "--output", str(output), "--model", "compact"]
        assert cli.main(command) == 2
        assert "--output is" in (told := capsys.readouterr().err) and "--resume" in told
        assert not (output / "model").exists()
