"""`upscale` started again: finished results stay, everything else is made; several processes share the photos, and may die."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_pipe
from launching import environment, launched
from PIL import Image

from sisrm import cli
from sisrm.commands import model, restore
from sisrm.commands.resume import Requests
from sisrm.errors import OutOfMemory
from sisrm.made_with import read_made_with


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipe().save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    """Five photos and one file that is none."""
    (tmp_path / "photos").mkdir()
    for index in range(5):
        photo.rotate(60 * index).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "words.png").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture
def upscale(weights, capsys):
    """Run `upscale` in this process; -> the names of the photos that were worked on, after a check of the exit status."""

    def run(source: Path, output: Path, *more: object, status: int = 0) -> list[str]:
        arguments = ["upscale", source, "-o", output, "--preset", weights, "--device", "cpu", *more]
        assert cli.main(list(map(str, arguments))) == status
        return [Path(photo).name for photo, told in told_of(capsys.readouterr().out) if told != "finished before"]

    return run


def told_of(output: str) -> list[tuple[str, str]]:
    """(photo, what became of it) from the lines of the command."""
    lines = [line.partition(" -> ") for line in output.splitlines() if " -> " in line]
    return [(photo, rest.partition(": ")[2]) for photo, _, rest in lines]


def test_a_second_run_does_what_is_new(upscale, photos, tmp_path, photo, monkeypatch):
    output = tmp_path / "out"
    everything = [f"{index}.png" for index in range(5)]
    assert upscale(photos, output, "--seed", 1, status=2) == everything
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(model, "load", None)  # no model is loaded for nothing
        assert upscale(photos, output, "--seed", 1, status=2) == []
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()}
    photo.rotate(10).save(photos / "3.png")
    (output / "1.png").unlink()
    photo.resize((96, 80)).save(output / "0.png")  # something else of that name
    assert upscale(photos, output, "--seed", 1, status=2) == ["0.png", "1.png", "3.png"]
    assert (output / "0.png").read_bytes() == before["0.png"][0] and (output / "1.png").read_bytes() == before["1.png"][
        0
    ]
    assert (output / "3.png").read_bytes() != before["3.png"][0]


def test_other_settings_seeds_and_weights_are_other_results(upscale, photos, tmp_path, weights, monkeypatch):
    one, output = photos / "0.png", tmp_path / "out"

    def made(*more: object) -> bool:
        return upscale(one, output, *more) == ["0.png"]

    assert made() and not made()
    assert made("--seed", 1) and not made("--seed", 1) and made("--seed", 2) and made() and not made()
    assert made("--steps", 1) and made("--steps", 1, "--no-mff") and made("--labels", "sky") and made()
    assert made("--overwrite") and made("--overwrite") and not made()
    other = tmp_path / "other"
    tiny_pipe(trained=False).save_pretrained(other)
    assert made("--preset", other) and not made("--preset", other)
    values = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(values | {"top_k": 1}))
    assert made("--preset", other), "the defaults of the weights have changed"


@pytest.mark.parametrize("name", ["one.png", "one.webp", "one.jpg"])
def test_a_single_result_of_any_kind_is_known_again(upscale, photos, tmp_path, name):
    target = tmp_path / name
    assert upscale(photos / "0.png", target) == ["0.png"] and upscale(photos / "0.png", target) == []
    settings = read_made_with(target)
    assert settings["num_inference_steps"] == 2 and len(settings["request"]) == 32
    os.rename(photos / "0.png", photos / "renamed.png")
    assert upscale(photos / "renamed.png", target) == []


def test_what_lies_beside_a_result_must_be_there_too(upscale, photos, tmp_path):
    one, output = photos / "0.png", tmp_path / "out"
    assert upscale(one, output, "--seed", 1) == ["0.png"]
    extras = ["--seed", 1, "--figure", "--save-steps", 0.5]
    assert upscale(one, output, *extras) == ["0.png"] and upscale(one, output, *extras) == []
    (output / "0_0.5T.png").unlink()
    assert upscale(one, output, *extras) == ["0.png"] and upscale(one, output, *extras) == []
    assert upscale(one, output, *extras, "--boxes", "0,0,8", "8,8,8") == ["0.png"]
    assert upscale(one, output, "--seed", 1) == []


def test_other_files_carry_no_settings(tmp_path, photo):
    (tmp_path / "words.png").write_text("no photo")
    photo.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x010E] = "[1, 2]"
    photo.save(tmp_path / "camera.jpg", exif=exif)
    for name in ("words.png", "plain.png", "camera.jpg", "missing.png"):
        assert read_made_with(tmp_path / name) == {}


DEADLY = """
    import os, signal, sys
    from sisrm import cli, whole_files

    replace, written = os.replace, []

    def deadly(source, target):
        written.append(target)
        if os.environ["RANK"] == "1" and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)  # a whole temporary file, and no result
        replace(source, target)

    whole_files.os.replace = deadly
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_two_processes_share_the_photos_and_a_dead_one_loses_nothing(upscale, photos, tmp_path, weights):
    """The second process is killed in the middle of its second result; the same command started again does the rest."""
    (tmp_path / "deadly.py").write_text(textwrap.dedent(DEADLY))
    output = tmp_path / "out"
    arguments = ["-v", "upscale", photos, "-o", output, "--preset", weights, "--device", "cpu", "--seed", 4]

    def launch(*start: object) -> subprocess.CompletedProcess:
        command = launched(*start, *arguments)
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)

    killed = launch(tmp_path / "deadly.py")
    assert killed.returncode != 0 and "Signal 9 (SIGKILL)" in killed.stderr
    first = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}
    assert "1.png" in first and "3.png" not in first and set(first) < {f"{index}.png" for index in range(5)}
    assert all(np.asarray(Image.open(output / name)).shape == (80, 96, 3) for name in first), "no half results"
    assert len(list(output.glob(".*.tmp"))) == 1, "the rest of the one that was killed"

    done = launch("-m", "sisrm")
    assert "process 0 of 2 has 3 of 6 photos" in done.stderr and "process 1 of 2 has 3 of 6 photos" in done.stderr
    assert done.stderr.count("words.png: this is not an image") == 1 and done.returncode != 0, done.stderr
    told = {Path(photo).name: what for photo, what in told_of(done.stdout)}
    assert len(told_of(done.stdout)) == len(told) == 5, "each photo once"
    assert {name for name, what in told.items() if what == "finished before"} == set(first)
    assert {name: (output / name).stat().st_mtime_ns for name in first} == first
    assert not list(output.glob(".*"))
    # what the two have made is what one process makes
    (photos / "words.png").unlink()
    assert upscale(photos, output, "--seed", 4) == []
    assert upscale(photos, tmp_path / "one", "--seed", 4) == [f"{index}.png" for index in range(5)]
    for index in range(5):
        assert (tmp_path / "one" / f"{index}.png").read_bytes() == (output / f"{index}.png").read_bytes()


def test_names_that_clash_are_known_in_every_process(upscale, photos, tmp_path, photo, capsys):
    (photos / "words.png").unlink()
    photo.save(photos / "2.bmp")
    assert upscale(photos, tmp_path / "out", status=2) == ["0.png", "1.png", "2.bmp", "3.png", "4.png"]
    assert upscale(photos, tmp_path / "out", status=2) == []
    assert sorted(os.listdir(tmp_path / "out")) == [f"{index}.png" for index in range(5)]


def test_a_result_of_the_largest_photo_is_known_again(tmp_path):
    """By its header: Pillow takes as many pixels for a decompression bomb."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 16384, 16384, 8, 2, 0, 0, 0)
    text, pixels = b'sisrm\0{"request": "a"}', zlib.compress(bytes(1000))
    parts = ((b"IHDR", size), (b"tEXt", text), (b"IDAT", pixels), (b"IEND", b""))
    (tmp_path / "r.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert Requests.answered(tmp_path / "r.png", "a") and not Requests.answered(tmp_path / "r.png", "b")
    assert read_made_with(tmp_path / "r.png") == {}, "of a visitor's file as little is read as ever"


def test_memory_that_runs_out_for_one_photo_does_not_end_the_others(tmp_path, capsys):
    def work(path):
        if path.name == "large.png":
            raise OutOfMemory("there is not enough memory")
        return restore.Done(lambda: f"{path} done")

    assert restore._each([tmp_path / "large.png", tmp_path / "small.png"], [], work) == 1
    told = capsys.readouterr()
    assert "small.png done" in told.out and "large.png: there is not enough memory" in told.err
