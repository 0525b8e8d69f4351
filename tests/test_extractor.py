"""`extractor`: figures against hand-computed ones, the reliability chart, and the command on real files."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image
from safetensors.torch import save_file

from sisrm import cli
from sisrm.errors import ParameterError
from sisrm.evaluation import extractor_report, reliability
from sisrm.evaluation.extractor import Reading, Reference, judge, read, reading_of, see, sources_of
from sisrm.evaluation.extractor_report import Row
from sisrm.evaluation.teacher import Teacher

NAMES = ["agreement", "sure_agreement", "mean_iou"]
NAMES += [f"{kind}_{rank}" for rank in (1, 3, 5, 10) for kind in ("precision", "recall")]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """Random weights of the real architecture, strong enough that it sees several classes, some of them surely."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = Teacher().requires_grad_(False).eval()
        for module in teacher.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    return teacher


def reference_of(classes, sure=True) -> Reference:
    classes = np.array(classes, np.uint8)
    return Reference(classes, np.broadcast_to(np.array(sure, bool), classes.shape))


def row(model: str, source: str, image: str, agreement: float, scores=(), right=(), present=2) -> Row:
    figures = {name: agreement for name in NAMES}
    return Row("set", image, source, model, figures, list(scores), list(right), present)


# Figures of one reading


def test_figures_by_hand():
    # The teacher: six pixels of class 4, two of class 2. Three of its six and both of its two are met.
    reference = reference_of([[4, 4, 4, 4], [4, 4, 2, 2]], [[True, True, True, False], [False, False, False, True]])
    reading = Reading(np.array([[4, 4, 9, 2], [9, 4, 2, 2]], np.uint8), [2, 9, 8, 4, 1, 0, 3, 5, 6, 7], [0.1] * 10)
    figures = judge(reading, reference)
    assert list(figures) == [name for name in NAMES]
    assert figures["agreement"] == pytest.approx(5 / 8)
    assert figures["sure_agreement"] == pytest.approx(3 / 4)
    assert figures["mean_iou"] == pytest.approx((3 / 6 + 2 / 3) / 2)
    assert [figures[f"precision_{rank}"] for rank in (1, 3, 5, 10)] == pytest.approx([1, 1 / 3, 2 / 5, 2 / 10])
    assert [figures[f"recall_{rank}"] for rank in (1, 3, 5, 10)] == pytest.approx([0.5, 0.5, 1, 1])


def test_classes_below_one_percent_are_not_asked_for():
    classes = np.full((20, 20), 7)
    classes[0, :3] = 5  # 0.75 %
    classes[1, :4] = 6  # exactly 1 %
    assert reference_of(classes).present == {6, 7}
    assert math.isnan(judge(Reading(classes, [7] * 10, [0.1] * 10), reference_of(classes, False))["sure_agreement"])


def test_the_teachers_own_reading_is_the_ceiling():
    reference = reference_of([[4, 4], [4, 2]])
    own = reading_of(reference)
    assert own.labels[:2] == [4, 2] and own.scores[:3] == [0.75, 0.25, 0] and len(own.labels) == 10
    figures = judge(own, reference)
    assert figures["agreement"] == figures["sure_agreement"] == figures["mean_iou"] == figures["recall_3"] == 1
    assert figures["precision_3"] == pytest.approx(2 / 3), "two classes cannot fill three places"


# The two readers


def test_not_sure_is_no_choice_of_the_teacher(teacher, photo):
    seen = see(teacher, photo)
    assert seen.classes.shape == seen.sure.shape == (20, 24) and seen.sure.any()
    bias = teacher.head.bias.clone()
    try:
        teacher.head.bias[0] += 100
        unsure = see(teacher, photo)
        assert np.array_equal(unsure.classes, seen.classes) and not unsure.sure.any()
        teacher.head.bias[8] += 200
        assert (see(teacher, photo).classes == 7).all() and see(teacher, photo).sure.all()
    finally:
        teacher.head.bias.copy_(bias)


def test_the_teachers_map_lies_on_the_photo_as_its_grid_does(teacher):
    # 129 x 129 needs no resizing: every fourth pixel is a point of the teacher's 33 x 33 grid.
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (129, 129, 3), dtype=np.uint8))
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255 * 2 - 1
        grid = teacher(pixels)[0][0, 1:].argmax(0).numpy()
    assert len(np.unique(grid)) > 1
    assert np.array_equal(see(teacher, photo).classes[::4, ::4], grid)


def test_a_damaged_image_is_read_as_the_pipeline_reads_it(tiny_pipeline, photo):
    reading, seen = read(tiny_pipeline, photo, (80, 96)), tiny_pipeline.segment(photo, top_k=10)
    assert np.array_equal(reading.classes, seen.class_map[0])
    assert len(np.unique(reading.classes)) > 1
    count = len(seen.labels[0])
    assert reading.labels[:count] == [label.index for label in seen.labels[0]]
    assert reading.scores[:count] == pytest.approx([label.score for label in seen.labels[0]])
    assert len(reading.labels) == 10 and read(tiny_pipeline, photo, (20, 24)).classes.shape == (20, 24)


# Means, bars, floors


def test_keeps_is_measured_by_the_best_reading_of_hr():
    rows = [
        row("teacher", "HR", "a", 1.0),
        row("teacher", "LR", "a", 0.9),
        row("before", "HR", "a", 0.8),
        row("after", "HR", "a", 0.6),
        row("after", "LR", "a", 0.4),
        row("after", "LR", "b", math.nan),
    ]
    summary = extractor_report.summarise(rows)
    assert [(entry["source"], entry["model"], entry["images"]) for entry in summary] == [
        ("HR", "teacher", 1),
        ("LR", "teacher", 1),
        ("HR", "before", 1),
        ("HR", "after", 1),
        ("LR", "after", 2),
    ]
    assert [entry["keeps"] for entry in summary] == [None, 0.9, None, None, pytest.approx(0.5)]
    assert summary[4]["agreement"] == pytest.approx(0.4), "an image without a figure does not count"


def test_margin_is_a_paired_interval():
    rows = [row("before", "LR", image, value) for image, value in zip("abc", (0.1, 0.5, 0.9))]
    rows += [row("after", "LR", image, value) for image, value in zip("cba", (0.93, 0.52, 0.11))]
    found = extractor_report.margin(rows, "set", "LR")
    # Gains 0.01, 0.02, 0.03: standard deviation 0.01, Student's t of 4.303 at two degrees of freedom.
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert found["mean"] == pytest.approx(0.02)
    assert (found["low"], found["high"]) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-5)
    assert extractor_report.margin(rows, "set", "HR") is None


def test_bars_say_whether_they_are_met():
    rows = [row("before", "HR", "a", 0.64), row("after", "HR", "a", 0.66)]
    rows += [row("before", "LR", image, 0.5) for image in "ab"]
    rows += [row("after", "LR", image, value) for image, value in zip("ab", (0.56, 0.58))]
    bars = extractor_report.bars_of(rows, extractor_report.summarise(rows))
    assert [(bar["bar"], bar["source"], bar["met"]) for bar in bars] == [
        ("agreement", "HR", True),
        ("precision_3", "HR", False),
        ("keeps", "LR", True),  # 0.57 / 0.66
        ("margin over before", "LR", False),  # 0.07, of 0.06 and 0.08: 12.7 standard errors of 0.01 are more
        ("precision_3", "LR", False),
    ]
    assert bars[3]["figure"] == pytest.approx(0.07) and bars[3]["interval"] == "-0.057 to +0.197"


def test_labels_by_score_by_hand():
    rows = [
        row("after", "LR", "a", 0, [0.45, 0.12, 0.06], [True, True, False], present=4),
        row("after", "LR", "b", 0, [0.12, 0.11, 0.01], [False, True, True], present=2),
        row("after", "HR", "a", 0, [0.99, 0.99, 0.99], [False] * 3),
        row("before", "LR", "a", 0, [0.99, 0.99, 0.99], [False] * 3),
    ]
    table = {entry["floor"]: entry for entry in extractor_report.labels_by_score(rows, prompt_labels=2)}
    assert sum(entry["labels"] for entry in table.values()) == 4, "the third label is not in the prompt"
    assert (table[0.1]["labels"], table[0.1]["right"]) == (3, pytest.approx(2 / 3))
    assert (table[0.0]["kept"], table[0.0]["precision"], table[0.0]["unsure"]) == (2, 0.75, 0)
    assert table[0.0]["recall"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    # From 0.15 on only the first label of each is left, and that of the second photo lies below.
    assert (table[0.15]["kept"], table[0.15]["precision"], table[0.15]["unsure"]) == (1, 0.5, 0.5)
    assert table[0.15]["recall"] == pytest.approx((1 / 4 + 0) / 2)
    assert table[0.2]["labels"] == 0 and table[0.2]["right"] is None


def test_what_the_floor_leaves_of_the_prompts_by_hand():
    rows = [
        row("teacher", "HR", "a", 0, [0.6, 0.3, 0.1], [True, True, True]),
        row("after", "HR", "a", 0, [0.45, 0.12, 0.06], [True, True, False]),
        row("after", "HR", "b", 0, [0.09, 0.08, 0.01], [False, True, True]),
    ]
    teacher, after = extractor_report.summarise(rows, prompt_labels=2, floor=0.1)
    assert (after["prompt_labels"], after["prompt_precision"]) == (1.5, pytest.approx(2 / 3)), "the first label stays"
    assert teacher["prompt_labels"] is teacher["prompt_precision"] is None, "areas are not scores"
    everything = extractor_report.summarise(rows, prompt_labels=3)[1]
    assert (everything["prompt_labels"], everything["prompt_precision"]) == (3, pytest.approx(4 / 6))
    assert everything["precision_3"] == after["precision_3"], "precision at k knows no floor"


# Reliability


def test_bins_and_calibration_error_by_hand():
    bins = reliability.bins_of([0.05, 0.15, 0.1, 1.0], [False, True, False, True])
    assert [entry.count for entry in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (bins[1].score, bins[1].right) == (pytest.approx(0.125), 0.5)
    # |0 - 0.05| once, |0.5 - 0.125| twice, |1 - 1| once, of four labels
    assert reliability.calibration_error(bins) == pytest.approx((0.05 + 2 * 0.375) / 4)
    assert reliability.calibration_error(reliability.bins_of([], [])) is None


def test_the_chart_shows_the_bars_at_their_height():
    bins = reliability.bins_of([0.75] * 4, [True, True, True, False])
    chart = np.asarray(reliability.draw({"one": bins, "none": reliability.bins_of([], [])}))
    bar = np.array([0x3B, 0x7D, 0xD8])
    rows, columns = np.nonzero((chart == bar).all(-1))
    # The bin from 0.7 to 0.8 of an axis of 400 pixels that starts at x 74 and ends at y 478; a bar of 0.75 is 300 high.
    assert (columns.min(), columns.max()) == (74 + 280 + 2, 74 + 320 - 2)
    assert rows.min() == pytest.approx(478 - 300, abs=1) and rows.max() == pytest.approx(478, abs=2)


# The command


@pytest.fixture(scope="module")
def files(tmp_path_factory, teacher):
    """Weights, a teacher, and two folders: `real` with LR, `sharp` without."""
    root = tmp_path_factory.mktemp("extractor")
    tiny_pipe().save_pretrained(root / "tiny")
    weights = {name: weight.half().contiguous() for name, weight in teacher.state_dict().items()}
    save_file(weights, root / "teacher.safetensors")
    rng = np.random.default_rng(0)
    for name in ("real/HR", "real/LR", "sharp/HR"):
        (root / name).mkdir(parents=True)
        for image in ("a", "b", "c"):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((16, 16) if name.endswith("LR") else (64, 64)).save(root / name / f"{image}.png")
    return root


def test_the_command_writes_the_same_figures_everywhere(files, capsys):
    output = files / "out"
    words = ["extractor", files / "real", files / "sharp", "--teacher", files, "--preset", files / "tiny", "--limit", 2]
    words += ["--before", files / "tiny", "--degradation", "light, heavy", "--output", output, "--device", "cpu"]
    assert cli.main([str(word) for word in words]) == 0
    assert capsys.readouterr().out == (output / "table.md").read_text()
    summary = json.loads((output / "summary.json").read_text())
    rows = list(csv.DictReader(open(output / "per_image.csv")))
    readings = {"real": ["HR", "LR"], "sharp": ["HR", "LR light", "LR heavy"]}
    who = ("teacher", "before", "after")
    expected = {(group, source, model) for group in readings for source in readings[group] for model in who}
    assert {(entry["group"], entry["source"], entry["model"]) for entry in summary["figures"]} == expected
    assert {row["image"] for row in rows} == {"a", "b"} and len(rows) == 2 * len(expected)
    for entry in summary["figures"]:
        mine = [row for row in rows if all(row[key] == entry[key] for key in ("group", "source", "model"))]
        assert entry["images"] == len(mine) == 2
        for name in NAMES:
            assert entry[name] == pytest.approx(sum(float(row[name]) for row in mine) / 2)
    margins = [bar for bar in summary["bars"] if bar["bar"] == "margin over before"]
    assert len(margins) == 3 and all(bar["figure"] == 0 and not bar["met"] for bar in margins), "it is the same model"
    assert summary["reliability"]["HR photos"]["bins"] and set(summary["models"]) == {"before", "after"}
    counts = [sum(entry["count"] for entry in panel["bins"]) for panel in summary["reliability"].values()]
    assert counts == [2 * 2 * 10, 3 * 2 * 10]
    assert summary["protocol"]["label_floor"] == 0 and summary["figures"][1]["prompt_labels"] == 3
    assert [entry["degradation"] for entry in summary["protocol"]["groups"]["sharp"]] == ["light", "heavy"]
    assert str(files) not in json.dumps(summary)
    assert Image.open(output / "reliability.png").size == (1000, 552)


@pytest.mark.parametrize("options, named", [
    (["--degradation", "mild"], "--degradation"),
    (["--degradation", ","], "--degradation"),
    (["--limit", "0"], "--limit"),
    (["--degrade", "-1"], "--degrade"),
    (["--teacher", "nowhere"], "nowhere"),
    (["--before", "nowhere"], "--before"),
    (["--preset", "nowhere"], "--preset"),
])  # fmt: skip
def test_what_cannot_be_used_is_named_before_any_reading(files, capsys, options, named):
    words = ["extractor", str(files / "sharp"), "--teacher", str(files), "--preset", str(files / "tiny")]
    assert cli.main([*words, "--output", str(files / "refused"), *options]) == 2
    assert named in capsys.readouterr().err and not (files / "refused").exists()


def test_folders_need_hr_and_names_of_their_own(files, capsys, tmp_path):
    with pytest.raises(ParameterError, match="HR"):
        sources_of(tmp_path, ["light"], 0, None)
    twice = ["extractor", str(files / "real"), str(files / "real"), "--teacher", str(files)]
    assert cli.main(twice) == 2
    assert "called real" in capsys.readouterr().err
