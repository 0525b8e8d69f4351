"""The command line: real runs of `python -m sisrm` on files, and what it says about what it cannot use."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image

from sisrm import cli, presets
from sisrm.commands import restore as restoring
from sisrm.errors import ImageError
from sisrm.images import read_image, read_photo
from sisrm.ui.handlers import Handlers
from sisrm.ui.results import restore

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A folder with a saved pipeline of tiny components."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipe().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    """Two good photos of different formats, and three files that cannot be used."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.save(folder / "a.png")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.webp", lossless=True)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is cut")
    photo.resize((20, 8)).save(folder / "small.png")
    (folder / "words.png").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess:
    """`python -m sisrm ARGUMENTS` as a user's shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "sisrm", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_is_done_and_unusable_files_are_named(weights, photos, tmp_path):
    output = tmp_path / "results"
    done = run("upscale", photos, tmp_path / "none.png", "--output", output, "--preset", weights, "--seed", 7)
    assert done.returncode == 2
    assert sorted(os.listdir(output)) == ["a.png", "b.png"]
    assert pixels(output / "a.png").shape == pixels(output / "b.png").shape == (80, 96, 3)
    complaints = done.stderr.splitlines()
    assert [Path(line.split(": ")[0]).name for line in complaints] == [
        "broken.jpg",
        "small.png",
        "words.png",
        "none.png",
    ]
    assert "20 x 8" in complaints[1] and "not an image" in complaints[2] and "no such file" in complaints[3]
    assert [line.split(" -> ")[0] for line in done.stdout.splitlines()] == [
        str(photos / "a.png"),
        str(photos / "b.webp"),
    ]


def test_a_file_equals_the_pipeline_call(weights, photos, tmp_path):
    target = tmp_path / "deep" / "out.png"
    done = run(
        "upscale", photos / "a.png", "--output", target, "--preset", weights, "--device", "cpu", "--steps", 1,
        "--guidance-scale", 2.5, "--top-k", 2, "--no-mff", "--labels", "sky, tree", "--extend-labels", "--seed", 11,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = presets.load_pipeline(weights, "cpu")(
        read_image(photos / "a.png"), num_inference_steps=1, guidance_scale=2.5, top_k=2, use_mff=False,
        labels=["sky", "tree"], extend_labels=True, generator=torch.Generator("cpu").manual_seed(11),
    )  # fmt: skip
    assert np.array_equal(pixels(target), np.asarray(result.images[0]))
    made_with = json.loads(Image.open(target).text["sisrm"])
    assert made_with["seed"] == 11 and made_with["num_inference_steps"] == 1 and made_with["use_mff"] is False
    assert made_with["labels"][:2] == ["sky", "tree"] and len(made_with["labels"]) > 2
    assert str(tmp_path) not in Image.open(target).text["sisrm"]
    # Dropped into the app it gives its settings back, and they make the same picture again.
    handlers = Handlers(presets.load_pipeline(weights, "cpu"), {})
    restored = restore(target, handlers.defaults)
    assert restored.steps == 1 and restored.extra_labels == ("sky", "tree") and not restored.mff and restored.seed == 11
    again = handlers.upscale(read_photo(photos / "a.png"), restored, tmp_path)
    assert np.array_equal(pixels(target), pixels(again.result))
    assert made_with["settings"] == again.report["settings"] and made_with["version"] == again.report["version"]


def test_a_result_of_a_call_that_the_app_does_not_offer_restores_nothing(weights, photos, tmp_path):
    target = tmp_path / "out.png"
    done = run("upscale", photos / "a.png", "--output", target, "--preset", weights, "--steps", 21)
    assert done.returncode == 0, done.stderr
    assert json.loads(Image.open(target).text["sisrm"])["settings"]["steps"] == 21
    assert restore(target, Handlers(presets.load_pipeline(weights, "cpu"), {}).defaults) is None


def test_complexity_prints_json_alone(weights):
    done = run("complexity", "--preset", weights, "--size", 16, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"parameters", "gflops", "peak_memory_mb", "milliseconds", "components"} <= set(report)
    assert report["parameters"] > 0 and report["gflops"] > 0


def test_help_needs_no_model_and_shows_examples():
    code = (
        "import sys\nfrom sisrm.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'diffusers', 'gradio'} & set(sys.modules)\n"
    )
    for command, words in {
        "upscale": [
            "--output",
            "--steps",
            "--guidance-scale",
            "--top-k",
            "--no-mff",
            "--labels",
            "--seed",
            "--device",
            "--save-steps",
            "--figure",
            "--reference",
            "--boxes",
        ],
        "segment": ["--output", "--top-k", "--preset"],
        "evaluate": ["--degrade", "--method", "--teacher", "--limit"],
        "complexity": ["--size", "--json"],
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", code, command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert f"python -m sisrm {command}" in done.stdout and "examples:" in done.stdout
        assert all(word in done.stdout for word in words)


def test_train_has_help_of_its_own():
    done = run("train", "--help")
    assert done.returncode == 0, done.stderr
    assert all(
        word in done.stdout for word in ("autoencoder", "segmenter", "sape", "it2ic", "--data", "--output", "--resume")
    )


# The commands from here on run in this process, which is quicker; the runs above hold that both are the same.


def refused(capsys, *arguments: object) -> str:
    """Run a command that must end with status 2 and one line on stderr; returns that line."""
    try:
        status = cli.main([*map(str, arguments)])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize("arguments, named", [
    (["--steps", "0"], "--steps"),
    (["--steps", "many"], "--steps"),
    (["--guidance-scale", "nan"], "--guidance-scale"),
    (["--guidance-scale", "1000"], "--guidance-scale"),
    (["--top-k", "-1"], "--top-k"),
    (["--seed", "-1"], "--seed"),
    (["--seed", str(2**64)], "--seed"),
    (["--labels", "sky, unicornfish"], "--labels"),
    (["--device", "abacus"], "--device"),
    (["--nonsense"], "--nonsense"),
    (["--save-steps", "0.5", "1.5"], "--save-steps is 1.5; accepted: numbers above 0 and below 1"),
    (["--save-steps", "0"], "--save-steps is 0.0"),
    (["--save-steps", "nan"], "--save-steps is nan"),
    (["--save-steps", "half"], "--save-steps"),
    (["--figure", "--boxes", "1,2", "3,4,5"], "--boxes is '1,2'; accepted: X,Y,SIDE"),
    (["--figure", "--boxes", "1,2,0", "3,4,5"], "--boxes is '1,2,0'"),
    (["--boxes", "1,2,3", "3,4,5"], "together with --figure"),
    (["--reference", "HR"], "together with --figure"),
    (["--figure", "--boxes", "1,2,3", "20,4,5"], "the box 20,4,5 does not lie inside its 24 x 20 pixels"),
    (["--figure", "--reference", "nowhere.png"], "nowhere.png: there is no such file"),
])  # fmt: skip
def test_a_wrong_setting_is_one_line(capsys, weights, photos, tmp_path, arguments, named):
    line = refused(capsys, "upscale", photos / "a.png", "-o", tmp_path / "out", "--preset", weights, *arguments)
    assert named in line
    assert not list(tmp_path.glob("out/*"))


def test_wrong_presets_are_named(capsys, photos, tmp_path):
    upscale = ["upscale", photos / "a.png", "-o", tmp_path / "out", "--preset"]
    assert "--preset" in refused(capsys, *upscale, "gigantic")
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in refused(capsys, *upscale, tmp_path / "empty")


def test_unusable_inputs_alone_load_no_model(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for argument, reason in {
        "none.png": "no such file",
        "empty": "no image in this folder",
        "*.jpg": "no file matches",
    }.items():
        line = refused(capsys, "upscale", tmp_path / argument, "-o", tmp_path / "out", "--preset", "never loaded")
        assert line.startswith(str(tmp_path / argument)) and reason in line


def test_patterns_folders_and_files_are_each_done_once(capsys, weights, photos, tmp_path):
    for name in ("broken.jpg", "small.png", "words.png"):
        (photos / name).unlink()
    output = tmp_path / "out"
    arguments = ["upscale", photos / "*.png", photos, photos / "b.webp", "-o", output, "--preset", weights]
    assert cli.main([*map(str, arguments)]) == 0
    assert [Path(line.split(" -> ")[0]).name for line in capsys.readouterr().out.splitlines()] == ["a.png", "b.webp"]
    assert sorted(os.listdir(output)) == ["a.png", "b.png"]


def test_a_file_whose_name_looks_like_a_pattern(capsys, weights, photos, tmp_path):
    (photos / "a.png").rename(photos / "a[1].png")
    assert cli.main(["upscale", str(photos / "a[1].png"), "-o", str(tmp_path / "out"), "--preset", weights]) == 0
    assert os.listdir(tmp_path / "out") == ["a[1].png"]


def test_same_seed_same_file_other_seed_other_file(weights, photos, tmp_path):
    for folder, seed in (("one", 3), ("two", 3), ("three", 4)):
        arguments = ["upscale", photos / "a.png", "-o", tmp_path / folder, "--preset", weights, "--seed", seed]
        assert cli.main([*map(str, arguments)]) == 0
    one, two, three = (pixels(tmp_path / folder / "a.png") for folder in ("one", "two", "three"))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


def test_results_are_written_while_the_next_photo_is_worked_on(capsys):
    writing, next_began = threading.Event(), threading.Event()

    def work(path: Path) -> restoring.Done:
        def write() -> str:
            if path.name == "a":
                writing.set()
                assert next_began.wait(20), "the next photo waits for this one's file"
            if path.name == "b":
                raise ImageError("b", "the disk is full")
            return f"{path} is written"

        if path.name == "b":
            assert writing.wait(20)
            next_began.set()
        if path.name == "c":
            raise ImageError("c", "not a photo")
        return restoring.Done(write, 100)

    assert restoring._each([Path(name) for name in "abcd"], [], work) == 2
    told = capsys.readouterr()
    assert told.out.splitlines() == ["a is written", "d is written"]
    assert sorted(told.err.splitlines()) == ["b: the disk is full", "c: not a photo"]


def test_a_large_result_is_written_before_the_next_photo_is_begun(capsys):
    order = []

    def work(path: Path) -> restoring.Done:
        order.append(f"work {path}")
        return restoring.Done(lambda: order.append(f"write {path}") or "", restoring.WRITTEN_BEHIND + 1)

    assert restoring._each([Path("a"), Path("b")], [], work) == 0
    assert order == ["work a", "write a", "work b", "write b"]


def test_results_never_overwrite_inputs_or_each_other(capsys, weights, photos, tmp_path):
    before = (photos / "a.png").read_bytes()
    assert "would overwrite" in refused(capsys, "upscale", photos / "a.png", "-o", photos, "--preset", weights)
    assert (photos / "a.png").read_bytes() == before
    read_image(photos / "a.png").save(photos / "a.bmp")
    output = tmp_path / "out"
    assert (
        cli.main(["upscale", str(photos / "a.bmp"), str(photos / "a.png"), "-o", str(output), "--preset", weights]) == 2
    )
    assert "already" in capsys.readouterr().err
    assert os.listdir(output) == ["a.png"]


def test_results_never_overwrite_another_input(capsys, weights, photos):
    read_image(photos / "a.png").save(photos / "a.bmp")
    read_image(photos / "a.png").save(photos / "b_figure.png")
    before = {name: (photos / name).read_bytes() for name in os.listdir(photos)}
    inputs = [photos / name for name in ("a.bmp", "a.png", "b.webp", "b_figure.png")]
    arguments = ["upscale", *inputs[:2], "-o", photos, "--preset", weights]
    assert cli.main([*map(str, arguments)]) == 2
    assert capsys.readouterr().err.count("would overwrite") == 2
    arguments = ["upscale", *inputs[2:], "-o", photos, "--figure", "--preset", weights]
    assert cli.main([*map(str, arguments)]) == 2
    assert f"{photos / 'b.webp'}: the result would overwrite" in capsys.readouterr().err
    assert {name: (photos / name).read_bytes() for name in os.listdir(photos)} == before


@pytest.mark.parametrize("inputs, output, accepted", [
    (["a.png", "b.webp"], "one.png", "a folder"),
    (["a.png"], "one.bmp", "ending in .png"),
    (["a.png"], "photos/notes.txt", "a folder"),
])  # fmt: skip
def test_outputs_of_the_wrong_kind_are_refused(capsys, photos, tmp_path, inputs, output, accepted):
    files = [photos / name for name in inputs]
    line = refused(capsys, "upscale", *files, "-o", tmp_path / output, "--preset", "never loaded")
    assert line.startswith("--output") and accepted in line


def test_an_output_that_cannot_be_made_is_named(capsys, weights, photos):
    line = refused(capsys, "upscale", photos / "a.png", "-o", photos / "notes.txt" / "out", "--preset", weights)
    assert str(photos / "notes.txt") in line


def test_segment_writes_what_the_model_sees(capsys, weights, photos, tmp_path):
    output = tmp_path / "seen"
    assert cli.main(["segment", str(photos / "a.png"), "-o", str(output), "--preset", weights, "--top-k", "2"]) == 0
    assert sorted(os.listdir(output)) == ["a.json", "a_classes.png", "a_overlay.png"]
    seen = presets.load_pipeline(weights, "cpu").segment(read_image(photos / "a.png"), top_k=2)
    assert np.array_equal(pixels(output / "a_classes.png"), seen.class_map[0])
    assert pixels(output / "a_overlay.png").shape == (80, 96, 3)
    found = json.loads((output / "a.json").read_text())
    assert found["prompt"] == seen.prompt[0] and len(found["labels"]) == 2
    assert [label["unsure"] for label in found["labels"]] == [False, False]
    assert sum(entry["share"] for entry in found["classes"]) == pytest.approx(1)
    assert found["prompt"] in capsys.readouterr().out


def test_evaluate_prints_its_table(capsys, weights, photos, tmp_path, photo):
    for name, image in {"HR": photo.resize((96, 80)), "LR": photo, "peer": photo.resize((96, 80))}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        image.save(tmp_path / "set" / name / "a.png")
    arguments = ["evaluate", tmp_path / "set", "-o", tmp_path / "figures", "--preset", weights]
    assert cli.main([*map(str, arguments), "--method", f"peer={tmp_path / 'set' / 'peer'}", "--steps", "1"]) == 0
    table = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| bicubic", "| peer", "| ours"]
    summary = json.loads((tmp_path / "figures" / "summary.json").read_text())
    assert summary["methods"]["peer"]["psnr_y"] == 100 and summary["model"]["device"] == "cpu"
    assert summary["settings"]["ours"]["num_inference_steps"] == 1 and summary["settings"]["ours"]["top_k"] == 3
    assert "NAME=FOLDER" in refused(capsys, *arguments, "--no-ours", "--method", "peer")
    assert "DIR" in refused(capsys, "evaluate", photos)
