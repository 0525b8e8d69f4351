"""Evaluation: the rows of a table, what is written down, and how the best are marked."""

import csv
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_evaluation import textured

from sisrm.errors import ImageError, ParameterError
from sisrm.evaluation import metrics, report
from sisrm.evaluation.identity import files_digest, module_digest, weights_digest
from sisrm.evaluation.judge import Judge
from sisrm.evaluation.methods import bicubic, describe_model, from_pipeline
from sisrm.evaluation.pairs import PairFolder
from sisrm.evaluation.perceptual import NAMES, PerceptualMetrics
from sisrm.evaluation.runner import evaluate
from sisrm.evaluation.table import table_methods
from sisrm.evaluation.teacher import Teacher


@pytest.fixture
def folder(tmp_path):
    """DIR with two pairs and a peer's results on them."""
    for name in ("HR", "LR", "peer"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for seed in range(2):
        image = textured(seed, 64, 64)
        image.save(tmp_path / "set" / "HR" / f"p{seed}.png")
        image.resize((16, 16), Image.Resampling.BOX).save(tmp_path / "set" / "LR" / f"p{seed}.png")
        image.point(lambda value: max(0, value - 10)).save(tmp_path / "set" / "peer" / f"p{seed}.png")
    return tmp_path / "set"


def test_the_same_figures_are_written_everywhere(folder, tmp_path):
    output = tmp_path / "out"
    methods = table_methods(peers={"peer": folder / "peer"})
    torch.manual_seed(0)
    summary = evaluate(PairFolder(folder), output, methods, teacher=Teacher().eval(), save_images=True)
    assert summary == json.loads((output / "summary.json").read_text())
    rows = list(csv.DictReader(open(output / "per_image.csv")))
    expected_rows = [(image, method) for image in ("p0", "p1") for method in ("bicubic", "peer")]
    assert [(row["image"], row["method"]) for row in rows] == expected_rows
    for method, values in summary["methods"].items():
        expected = [name for name in report.METRICS if name not in (*NAMES, "seconds")]
        assert list(values) == expected == list(summary["definitions"])
        for name, mean in values.items():
            figures = [float(row[name]) for row in rows if row["method"] == method]
            assert mean == pytest.approx(sum(figures) / 2, abs=1e-9)
    # The peer is the reference made darker: its structure agrees, its brightness does not.
    assert summary["methods"]["peer"]["gradient_energy"] == pytest.approx(1, abs=0.01)
    assert summary["methods"]["bicubic"]["gradient_energy"] < 0.9
    pair = PairFolder(folder).pair("p0")
    expected = metrics.psnr_y(metrics.to_tensor(bicubic(pair)), metrics.to_tensor(pair.reference)).item()
    assert float(rows[0]["psnr_y"]) == pytest.approx(expected)
    saved = Image.open(output / "bicubic" / "p0.png")
    assert np.array_equal(np.asarray(saved), np.asarray(bicubic(pair)))
    assert not (output / "peer").exists(), "a folder of results is not written again"
    assert (output / "table.md").read_text() == report.markdown_table(summary["methods"])
    assert summary["model"] is None and summary["protocol"]["images"] == 2
    assert {"python", "torch", "torchmetrics", "numpy", "sisrm_code"} <= set(summary["versions"])


def test_the_model_takes_part_through_its_pipeline(folder, tiny_pipeline):
    pair = next(iter(PairFolder(folder)))
    method = from_pipeline(tiny_pipeline, seed=5, options={"num_inference_steps": 1})
    direct = tiny_pipeline(pair.low, num_inference_steps=1, generator=torch.Generator("cpu").manual_seed(5)).images[0]
    assert np.array_equal(np.asarray(method(pair)), np.asarray(direct))
    assert np.array_equal(np.asarray(method(pair)), np.asarray(direct)), "every image starts from the same seed"
    assert all(map(math.isfinite, Judge(pair.reference)(method(pair)).values()))


def test_the_order_of_methods_changes_no_figure(folder, tmp_path, tiny_pipeline):
    variants = {"other seed": {"seed": 9}, "one step": {"num_inference_steps": 1}}
    methods = table_methods(tiny_pipeline, {"top_k": 2}, 5, peers={"peer": folder / "peer"}, variants=variants)
    assert list(methods) == ["bicubic", "peer", "ours", "other seed", "one step"]
    first = evaluate(PairFolder(folder), tmp_path / "a", methods)
    backwards = {name: methods[name] for name in reversed(methods)}
    second = evaluate(PairFolder(folder), tmp_path / "b", backwards)
    assert list(second["methods"]) == list(backwards) and second["methods"] == first["methods"]
    read = [sorted((tmp_path / name / "per_image.csv").read_text().splitlines()) for name in "ab"]
    assert read[0] == read[1]
    # the settings did what they say
    assert len({tuple(values.values()) for values in first["methods"].values()}) == 5
    settings = first["settings"]
    assert settings["ours"] | {"seed": 9} == settings["other seed"]
    assert settings["ours"] | {"num_inference_steps": 1} == settings["one step"]
    assert (settings["ours"]["seed"], settings["ours"]["top_k"], settings["ours"]["guidance_scale"]) == (5, 2, 1.5)
    assert list(table_methods(tiny_pipeline, variants=variants, ours=False)) == ["bicubic", *variants]


def test_steps_are_set_against_quality_and_time(folder, tmp_path, tiny_pipeline):
    calls = []
    hook = tiny_pipeline.unet.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    variants = {f"{steps} steps": {"num_inference_steps": steps} for steps in (1, 4)}
    methods = table_methods(tiny_pipeline, peers={"peer": folder / "peer"}, variants=variants, ours=False)
    timed = evaluate(PairFolder(folder), tmp_path / "out", methods, timed=True)
    hook.remove()
    assert len(calls) == 3 * 5, "both pictures, and the first once more to warm up"
    seconds = {name: values["seconds"] for name, values in timed["methods"].items()}
    assert seconds["peer"] is None and 0 < seconds["bicubic"] < min(seconds["1 steps"], seconds["4 steps"])
    assert "| seconds ↓ |" in (tmp_path / "out" / "table.md").read_text()
    again = evaluate(PairFolder(folder), tmp_path / "out", methods, timed=True)
    assert again["methods"] == timed["methods"], "a finished row keeps its time"
    plain = evaluate(PairFolder(folder), tmp_path / "out", methods)["methods"]
    assert plain == {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in timed["methods"].items()}


def test_results_that_do_not_fit_and_names_that_are_taken_are_refused(folder, tmp_path, tiny_pipeline):
    textured(0, 60, 64).save(folder / "peer" / "p1.png")
    peers = {"peer": folder / "peer"}
    with pytest.raises(ImageError, match="60 x 64"):
        evaluate(PairFolder(folder), tmp_path / "out", table_methods(peers=peers))
    with pytest.raises(ParameterError, match="--method is 'bicubic'; .* taken"):
        table_methods(peers={"bicubic": folder / "peer"})
    with pytest.raises(ParameterError, match="--ours is 'peer'; .* taken"):
        table_methods(tiny_pipeline, peers=peers, variants={"peer": {"top_k": 1}})
    for name in ("../a", "a|b", ".", "a\nb"):
        with pytest.raises(ParameterError, match="--method is .* a name without slash"):
            table_methods(peers={name: folder / "peer"})
    with pytest.raises(ParameterError, match="--method is .* folder of results, or a model file ending in .pth"):
        table_methods(peers={"peer": folder / "HR" / "p0.png"})


# Table


def test_the_best_and_the_second_are_marked():
    def row(psnr, niqe, energy):
        return {"psnr_y": psnr, "niqe": niqe, "gradient_energy": energy}

    summary = {"a": row(25.0, 4.0, 1.2), "b": row(27.0, 3.0, 0.9), "c": row(26.0, 5.0, 0.8), "d": row(20.0, None, 2.0)}
    assert report.markdown_table(summary).splitlines() == [
        "| method | PSNR-Y ↑ | NIQE ↓ | gradient energy (HR = 1) |",
        "|---|---|---|---|",
        "| a | 25.00 | <u>4.0000</u> | <u>1.200</u> |",
        "| b | **27.00** | **3.0000** | **0.900** |",
        "| c | <u>26.00</u> | 5.0000 | <u>0.800</u> |",
        "| d | 20.00 |  | 2.000 |",
    ]


def test_what_looks_equal_is_marked_alike_and_one_method_not_at_all():
    close = report.markdown_table({"a": {"psnr_y": 25.001}, "b": {"psnr_y": 25.004}, "c": {"psnr_y": 24.0}})
    assert [line.split("| ")[2] for line in close.splitlines()[2:]] == ["**25.00** |", "**25.00** |", "<u>24.00</u> |"]
    assert "| a | 25.00 |" in report.markdown_table({"a": {"psnr_y": 25.0}})
    assert "*" not in report.markdown_table({"a": {"psnr_y": 25.0}, "b": {"psnr_y": 25.0}, "c": {"psnr_y": None}})


def test_means_pass_over_what_is_not_finite():
    rows = [
        {"image": str(i), "method": "m", "psnr_y": 30.0, "gradient_energy": value}
        for i, value in enumerate([1.0, math.nan])
    ]
    assert report.summarise(rows, ["m"])["m"] == {"psnr_y": 30.0, "gradient_energy": 1.0}
    rows[0]["gradient_energy"] = math.inf
    assert report.summarise(rows, ["m"])["m"]["gradient_energy"] is None
    assert "| m | 30.00 |  |" in report.markdown_table(report.summarise(rows, ["m"]))


# What a model is known by


def test_hashes_follow_names_and_contents(tmp_path, tiny_pipeline):
    def line(name: str, content: bytes) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        return f"{hashlib.sha256(content).hexdigest()}  {name}\n"

    (tmp_path / "readme.md").write_text("not weights")
    lines = line("sape/a.safetensors", b"1") + line("unet/b.safetensors", b"2")
    tiny_pipeline.folder = tmp_path
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert weights_digest(tiny_pipeline) == expected == describe_model(tiny_pipeline)["sha256"]
    line("unet/b.safetensors", b"3")
    assert weights_digest(tiny_pipeline) != expected
    assert files_digest({"x": tmp_path / "readme.md"}) != files_digest({"y": tmp_path / "readme.md"})


def test_a_pipeline_in_memory_is_known_by_its_weights(tiny_pipeline):
    before = weights_digest(tiny_pipeline)
    assert before == weights_digest(tiny_pipeline)
    with torch.no_grad():
        tiny_pipeline.sape.label_generator.weight.view(-1)[0] += 1
    assert weights_digest(tiny_pipeline) != before
    half = torch.nn.Linear(2, 2).bfloat16()
    assert module_digest(half) != module_digest(half.float())


def test_the_saved_pipeline_is_hashed_as_a_folder(tmp_path, tiny_pipeline):
    from sisrm.presets import load_pipeline

    tiny_pipeline.save_pretrained(tmp_path)
    digest = weights_digest(load_pipeline(str(tmp_path), "cpu"))
    save_file({"weight": torch.zeros(1)}, tmp_path / "mff" / "more.safetensors")
    assert weights_digest(load_pipeline(str(tmp_path), "cpu")) != digest


def test_perceptual_metrics_join_in_the_tables_order():
    perceptual = PerceptualMetrics(())
    assert perceptual.names == [] and perceptual.describe() == {}
    values = Judge(textured(0), perceptual=perceptual)(textured(1))
    assert list(values) == ["psnr_y", "ssim_y", "gradient_energy"]
