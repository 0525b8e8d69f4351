"""A training that is killed with SIGKILL at any write of a checkpoint: what is left is whole, and the same command with --resume ends where
an unbroken run does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from launching import environment
from PIL import Image
from safetensors.torch import load_file

# Imports once; each run is then a process of its own. Python tells an audit hook of every file that is opened, moved or deleted.
DRIVER = """
    import json, os, signal, sys
    from pathlib import Path

    import accelerate, sisrm.evaluation.teacher, sisrm.presets, sisrm.training.loop
    from sisrm import cli
    from sisrm.training.autoencoder import AutoencoderStage

    HALF_A_MODEL = -1

    def train(output, more, kill_at):
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        writes = [0]

        def look(event, arguments):
            writing = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
            if event == "open" and str(arguments[0]).startswith(output):
                mode, flags = arguments[1:]
                writing = "/logs/" not in arguments[0] and bool(flags & (os.O_WRONLY | os.O_RDWR))
            if writing:
                writes[0] += 1
                if writes[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        def half(stage, folder):
            save(stage, folder)
            weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
            os.truncate(weights, weights.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        if kill_at == HALF_A_MODEL:
            save = AutoencoderStage.save
            AutoencoderStage.save = half
        sys.addaudithook(look)
        status = cli.main([*sys.argv[1:], "--output", output, *more])
        Path(output, "writes").write_text(str(writes[0]))
        sys.stdout.flush()
        os._exit(status)

    for line in sys.stdin:
        print(json.dumps(train(**json.loads(line))), flush=True)
"""


@pytest.fixture
def shard(tmp_path):
    """Three photos."""
    with tarfile.open(tmp_path / "train-00.tar", "w") as archive:
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 255, (10, 12, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
            entry = tarfile.TarInfo(f"{index}.jpg")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))
    return tmp_path / "train-00.tar"


@pytest.fixture
def train(tmp_path, shard):
    """Runs `python -m sisrm train autoencoder`, killed before its write number `kill_at` (0: never; -1: where half of
    the model's weights are written); -> its status."""
    tiny_pipe().save_pretrained(tmp_path / "start")
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    command = [
        tmp_path / "driver.py",
        "train",
        "autoencoder",
        "--data",
        shard,
        "--model",
        tmp_path / "start",
        "--steps",
        STEPS,
    ]
    command += ["--batch", 2, "--crop", 32, "--workers", 0, "--ema", 0.5]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment(),
    )  # fmt: skip

    def run(output, *more: object, kill_at: int = 0) -> int:
        asked = {"output": str(output), "more": list(map(str, more)), "kill_at": kill_at}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return next(int(line) for line in process.stdout if line.strip().lstrip("-").isdecimal())

    yield run
    process.stdin.close()
    process.wait(20)


STEPS = 100  # more than the killed runs take together


def checkpoint_of(output):
    """The step of the checkpoint that a run would go on from, after a look at all of its files; None where there is none."""
    folders = [
        output / name for name in ("checkpoint.new", "checkpoint") if (output / name / "progress.json").is_file()
    ]
    if not folders:
        return None
    state = json.loads((folders[0] / "progress.json").read_text())
    assert load_file(folders[0] / "model.safetensors") and (folders[0] / "random_states_0.pkl").stat().st_size
    for name in ("optimizer.bin", "custom_checkpoint_0.pkl"):
        assert torch.load(folders[0] / name, weights_only=False)
    return state["step"]


def test_a_training_killed_at_any_write_leaves_whole_files_and_goes_on(train, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    weights = "model/vae/diffusion_pytorch_model.safetensors"
    assert train(whole, "--checkpoint-minutes", 1000) == 0
    expected = load_file(whole / weights)
    assert train(whole, "--resume") == 0
    writes = int((whole / "writes").read_text())  # of one checkpoint, and the model's
    assert 10 < writes < 60
    assert train(broken, "--checkpoint-minutes", 0, kill_at=5) == -9 and checkpoint_of(broken) is None
    assert train(broken, "--checkpoint-minutes", 0, kill_at=3 * writes) == -9
    steps = [checkpoint_of(broken)]
    # Every place once, and after each another early death, which meets what the first one left.
    for kill_at in [place for first in range(1, writes + 1) for place in (first, 2 + first % 3)] + [-1, 1, -1]:
        status = train(broken, "--checkpoint-minutes", 0, "--resume", kill_at=kill_at)
        assert status == -9, f"killed at write {kill_at}"
        steps.append(checkpoint_of(broken))
        assert steps[-1] is not None, f"killed at write {kill_at}: no checkpoint is left"
        assert load_file(broken / weights).keys() == expected.keys(), "no half weights"
        json.loads((broken / "model" / "vae" / "config.json").read_text())
    assert steps == sorted(steps) and writes // 4 < steps[-1] < STEPS, steps
    assert train(broken, "--resume", "--checkpoint-minutes", 1000) == 0
    assert sorted(os.listdir(broken)) == sorted(os.listdir(whole)), "nothing unfinished is left"
    assert checkpoint_of(broken) == STEPS
    found = load_file(broken / weights)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
