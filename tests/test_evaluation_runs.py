"""Evaluation: a run that is stopped goes on, and several processes give what one gives."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_pipe
from launching import environment, launched
from PIL import Image
from test_evaluation import textured

from sisrm import cli
from sisrm.evaluation.pairs import PairFolder
from sisrm.evaluation.parallel import Share
from sisrm.evaluation.runner import evaluate
from sisrm.evaluation.table import table_methods


@pytest.fixture
def folder(tmp_path):
    """DIR with three pairs and a peer's results on them."""
    for name in ("HR", "LR", "peer"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for seed in range(3):
        image = textured(seed, 64, 64)
        image.save(tmp_path / "set" / "HR" / f"p{seed}.png")
        image.resize((16, 16), Image.Resampling.BOX).save(tmp_path / "set" / "LR" / f"p{seed}.png")
        image.point(lambda value: max(0, value - 10)).save(tmp_path / "set" / "peer" / f"p{seed}.png")
    return tmp_path / "set"


class Watched(PairFolder):
    """Pairs that note which of them were read: a pair is read only when one of its rows is computed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.read = []

    def pair(self, name):
        self.read.append(name)
        return super().pair(name)


def run(pairs: PairFolder, output: Path, **options) -> list[str]:
    """Evaluate bicubic and the peer; -> names of the images that something was computed for."""
    watched = Watched(pairs) if isinstance(pairs, Path) else pairs
    evaluate(watched, output, table_methods(peers={"peer": watched.folder / "peer"}), **options)
    return watched.read


KILLED = """
import os, signal, sys
from pathlib import Path
from sisrm.evaluation.table import table_methods
from sisrm.evaluation.pairs import PairFolder
from sisrm.evaluation.runner import evaluate

class Deadly(PairFolder):
    def pair(self, name):
        if name == "p2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pair(name)

folder, output = map(Path, sys.argv[1:])
evaluate(Deadly(folder), output, table_methods(peers={"peer": folder / "peer"}))
"""


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path):
    assert run(folder, tmp_path / "whole") == ["p0", "p1", "p2"]
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder), str(killed)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (killed / "summary.json").exists()
    assert run(folder, killed) == ["p2"], "finished images are not computed again"
    for name in ("per_image.csv", "summary.json", "table.md"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert run(folder, killed) == []


def test_a_longer_run_takes_over_a_shorter_one(folder, tmp_path):
    assert run(Watched(folder, limit=1), tmp_path / "out") == ["p0"]
    assert run(folder, tmp_path / "out") == ["p1", "p2"]
    assert len((tmp_path / "out" / "per_image.csv").read_text().splitlines()) == 7


def test_only_what_is_unchanged_is_taken_over(folder, tmp_path):
    output = tmp_path / "out"
    run(folder, output)
    textured(8, 64, 64).save(folder / "peer" / "p1.png")
    assert run(folder, output) == ["p1"]
    textured(9, 16, 16).save(folder / "LR" / "p0.png")
    assert run(folder, output) == ["p0"]
    assert run(Watched(folder, degrade_seed=0), output) == ["p0", "p1", "p2"], "another protocol"
    assert run(Watched(folder, degrade_seed=1), output) == ["p0", "p1", "p2"], "another seed"
    assert run(Watched(folder, degrade_seed=0), output) == [], "and the first one is still there"
    for damaged in output.glob("cache/*/p2.json"):
        damaged.write_text('{"inputs": "')
    assert run(folder, output) == ["p2"]


def test_settings_and_weights_do_not_mix(folder, tmp_path):
    def computed(pipe, **options) -> list[str]:
        pairs = Watched(folder, limit=1)
        evaluate(pairs, tmp_path / "out", {"ours": table_methods(pipe, options)["ours"]})
        return pairs.read

    pipe = tiny_pipe()
    assert computed(pipe, num_inference_steps=1) == ["p0"] and computed(pipe, num_inference_steps=1) == []
    assert computed(pipe, num_inference_steps=2) == ["p0"] and computed(pipe, num_inference_steps=1) == []
    pipe.unet.conv_out.bias.data += 1
    assert computed(pipe, num_inference_steps=1) == ["p0"]


def test_wanted_pictures_are_written_although_the_row_is_known(folder, tmp_path):
    output = tmp_path / "out"
    run(folder, output)
    assert run(folder, output, save_images=True) == ["p0", "p1", "p2"]
    assert sorted(os.listdir(output / "bicubic")) == ["p0.png", "p1.png", "p2.png"]
    assert run(folder, output, save_images=True) == []


class Others:
    """What accelerate knows in the second of two processes."""

    process_index, num_processes = 1, 2


def test_images_are_dealt_out_by_number():
    assert Share().mine(range(5)) == [0, 1, 2, 3, 4] and Share().is_main
    assert Share(Others()).mine(range(5)) == [1, 3] and not Share(Others()).is_main


def test_two_processes_give_what_one_gives(folder, tmp_path, capsys):
    tiny_pipe().save_pretrained(tmp_path / "tiny")
    arguments = ["evaluate", str(folder), "--preset", str(tmp_path / "tiny"), "--device", "cpu", "--metrics", "psnr_y"]
    arguments += ["--method", f"peer={folder / 'peer'}", "--ours", "one step:num_inference_steps=1", "--output"]
    launch = launched("-m", "sisrm", "-v", *arguments, tmp_path / "two")
    done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert cli.main([*arguments, str(tmp_path / "one")]) == 0
    for name in ("per_image.csv", "summary.json", "table.md"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert "process 0 of 2 has 2 of 3 images" in done.stderr and "process 1 of 2 has 1 of 3 images" in done.stderr
    # one process tells it, once
    assert done.stdout == capsys.readouterr().out == (tmp_path / "one" / "table.md").read_text()
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert list(summary["methods"]) == ["bicubic", "peer", "ours", "one step"]
    assert len(list((tmp_path / "two").glob("cache/*/p?.json"))) == 12
