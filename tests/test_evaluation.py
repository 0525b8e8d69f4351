"""Evaluation: metrics against hand-computed values and scikit-image, pairs, the table, the teacher."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sisrm.errors import ImageError, ParameterError, WeightsError
from sisrm.evaluation import metrics, report
from sisrm.evaluation.pairs import PairFolder
from sisrm.evaluation.runner import Judge, bicubic, evaluate, from_pipeline
from sisrm.evaluation.teacher import Teacher, class_agreement, feature_distance, load_teacher, teacher_input


def textured(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (4 + seed)), np.cos(y / 5), np.sin((x + y) / 7)], -1) * 70 + 128
    return Image.fromarray((waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """DIR with three HR images in different formats and their LR images."""
    for name in ("HR", "LR", "peer"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for seed, ending in enumerate((".png", ".webp", ".bmp")):
        image = textured(seed, 64, 64)
        image.save(tmp_path / "set" / "HR" / f"p{seed}{ending}", **({"lossless": True} if ending == ".webp" else {}))
        image.resize((16, 16), Image.Resampling.BOX).save(tmp_path / "set" / "LR" / f"p{seed}.png")
        image.point(lambda value: max(0, value - 10)).save(tmp_path / "set" / "peer" / f"p{seed}.png")
    return tmp_path / "set"


# Metrics


def test_luma_of_known_colours():
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]], dtype=torch.float64)
    y = metrics.luma(colours.view(5, 3, 1, 1)).flatten() * 255
    expected = torch.tensor([16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966], dtype=torch.float64)
    assert torch.allclose(y, expected, atol=1e-9)


def test_psnr_by_hand():
    # Grey 100 against grey 110 differs by 10 * 219 / 255 on Y.
    a = metrics.to_tensor(Image.new("RGB", (20, 20), (100, 100, 100)))
    b = metrics.to_tensor(Image.new("RGB", (20, 20), (110, 110, 110)))
    expected = 20 * math.log10(255 / (10 * 219 / 255))
    assert metrics.psnr_y(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert metrics.psnr_y(a, a).item() == metrics.PSNR_CEILING


def test_gradient_energy_by_hand():
    # Columns alternate between black and white: every horizontal step is 219 / 255, every vertical one 0.
    stripes = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    stripes[..., ::2] = 1
    assert metrics.gradient_energy(stripes).item() == pytest.approx(219 / 255)
    assert metrics.relative_gradient_energy(stripes * 0.5, stripes).item() == pytest.approx(0.5)
    assert metrics.gradient_energy(torch.full((1, 3, 4, 6), 0.3)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_psnr_and_ssim_equal_scikit_image(seed):
    reference = textured(seed)
    result = reference.resize((16, 12)).resize(reference.size, Image.Resampling.BICUBIC)
    a, b = metrics.to_tensor(result), metrics.to_tensor(reference)
    y_a, y_b = metrics.luma(a)[0, 0].numpy(), metrics.luma(b)[0, 0].numpy()
    assert metrics.psnr_y(a, b).item() == pytest.approx(peak_signal_noise_ratio(y_b, y_a, data_range=1), abs=1e-4)
    ssim = structural_similarity(y_b, y_a, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert 0.05 < ssim < 0.999
    assert metrics.ssim_y(a, b).item() == pytest.approx(ssim, abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr_y, metrics.ssim_y, metrics.relative_gradient_energy])
def test_metrics_of_a_batch_are_those_of_its_images(metric):
    a = torch.cat([metrics.to_tensor(textured(seed)) for seed in (0, 1)])
    b = torch.cat([metrics.to_tensor(textured(seed)) for seed in (2, 3)])
    singles = torch.cat([metric(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert torch.allclose(metric(a, b), singles) and singles[0] != singles[1]
    with pytest.raises(ParameterError, match="shape"):
        metric(a, b[..., :-1])


# Teacher


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """Random weights of the real architecture, half precision as they are published."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file({name: weight.half().contiguous() for name, weight in Teacher().state_dict().items()}, path)
    return path


@torch.no_grad()
def test_teacher_shapes_and_sizes(teacher_file):
    teacher = load_teacher(teacher_file.parent)
    assert sum(weight.numel() for weight in teacher.parameters()) == 2_286_855
    assert not any(weight.requires_grad for weight in teacher.parameters())
    inputs = teacher_input(torch.rand(1, 3, 128, 66))
    assert inputs.shape == (1, 3, 129, 65) and inputs.min() >= -1 and inputs.max() <= 1
    assert teacher_input(torch.rand(1, 3, 512, 512)).shape == (1, 3, 513, 513)
    logits, features = teacher(inputs)
    assert logits.shape == (1, 151, 33, 17)
    assert len(features) == 18 and features[0].shape == (1, 32, 65, 33) and features[-1].shape == (1, 320, 17, 9)


def test_feature_distance_by_hand():
    a = [torch.tensor([[3.0, 0.0]]).view(1, 2, 1, 1), torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)]
    b = [torch.tensor([[0.0, 5.0]]).view(1, 2, 1, 1), torch.tensor([[-2.0, 0.0]]).view(1, 2, 1, 1)]
    # Unit vectors at a right angle differ by 2, opposite ones by 4; length does not matter.
    assert feature_distance(a, b).item() == pytest.approx((2 + 4) / 2)
    assert feature_distance(a, [9 * a[0], 2 * a[1]]).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ParameterError):
        feature_distance(a, b[:1])


def test_feature_distance_averages_pixels():
    a, b = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    a[0, 0], b[0, 0, 0, 0], b[0, 1, 0, 1] = 1, 1, 1  # equal in the first pixel, at a right angle in the second
    assert feature_distance([a], [b]).item() == pytest.approx(1.0)


def test_class_agreement_leaves_out_not_sure():
    result, reference = torch.zeros(1, 151, 1, 4), torch.zeros(1, 151, 1, 4)
    result[0, 7], reference[0, 7] = 1, 1
    reference[0, 9, 0, 0] = 5
    result[0, 0] = 100  # "not sure" wins everywhere and is not counted
    assert class_agreement(result, reference).item() == pytest.approx(0.75)


def test_feature_distance_trains(teacher_file):
    teacher = load_teacher(teacher_file)
    image = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = teacher(teacher_input(torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(1))))[1]
    feature_distance(teacher(teacher_input(image))[1], target).sum().backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().max() > 0


def test_missing_or_wrong_teacher_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"teacher\.safetensors"):
        load_teacher(tmp_path)
    (tmp_path / "teacher.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not a readable"):
        load_teacher(tmp_path)
    save_file({"stem.weight": torch.zeros(1)}, tmp_path / "teacher.safetensors")
    with pytest.raises(WeightsError, match="not the weights"):
        load_teacher(tmp_path)


# Pairs


def test_pairs_join_by_name_whatever_the_format(folder):
    pairs = list(PairFolder(folder))
    assert [pair.name for pair in pairs] == ["p0", "p1", "p2"]
    assert all(pair.reference.size == (64, 64) and pair.low.size == (16, 16) for pair in pairs)
    assert len(PairFolder(folder, limit=2)) == len(list(PairFolder(folder, limit=2))) == 2


def test_degraded_pairs_depend_on_seed_and_name_only(folder):
    def lows(**options) -> dict[str, bytes]:
        return {pair.name: pair.low.tobytes() for pair in PairFolder(folder, **options)}

    first = lows(degrade_seed=3)
    assert first == lows(degrade_seed=3)
    assert all(first[name] != other for name, other in lows(degrade_seed=4).items())
    assert first["p0"] != lows(degrade_seed=3, degradation="light")["p0"]
    (folder / "HR" / "p0.png").unlink()
    assert lows(degrade_seed=3) == {name: first[name] for name in ("p1", "p2")}


def test_degraded_references_are_cut_to_whole_pixels(folder):
    textured(5, 71, 66).save(folder / "HR" / "p0.png")
    pair = next(iter(PairFolder(folder, degrade_seed=0)))
    assert pair.reference.size == (68, 64) and pair.low.size == (17, 16)


@pytest.mark.parametrize("options, named", [
    ({"degrade_seed": -1}, "--degrade"),
    ({"limit": 0}, "--limit"),
    ({"degrade_seed": 0, "degradation": "x"}, "--degradation"),
])  # fmt: skip
def test_wrong_pair_settings_are_named(folder, options, named):
    with pytest.raises(ParameterError, match=named):
        PairFolder(folder, **options)


def test_incomplete_folders_are_refused(folder, tmp_path):
    with pytest.raises(ParameterError, match="HR"):
        PairFolder(tmp_path)
    (folder / "LR" / "p1.png").unlink()
    with pytest.raises(ImageError, match="p1"):
        list(PairFolder(folder))
    textured(1, 60, 64).save(folder / "LR" / "p1.png")
    with pytest.raises(ImageError, match="exactly 4x"):
        list(PairFolder(folder))
    (folder / "HR" / "p0.jpg").write_bytes(b"x")
    with pytest.raises(ParameterError, match="p0"):
        PairFolder(folder)


# Runner and report


def test_evaluate_writes_the_same_figures_everywhere(folder, tmp_path, teacher_file):
    output = tmp_path / "out"
    summary = evaluate(
        PairFolder(folder),
        output,
        folders={"peer": folder / "peer"},
        teacher=load_teacher(teacher_file),
        save_images=True,
    )
    assert summary == json.loads((output / "summary.json").read_text())
    rows = list(csv.DictReader(open(output / "per_image.csv")))
    assert [(row["image"], row["method"]) for row in rows] == [
        (image, method) for image in ("p0", "p1", "p2") for method in ("bicubic", "peer")
    ]
    for method, values in summary["methods"].items():
        assert list(values) == list(report.METRICS) == list(summary["definitions"])
        for name, mean in values.items():
            figures = [float(row[name]) for row in rows if row["method"] == method]
            assert mean == pytest.approx(sum(figures) / 3, abs=1e-9)
    # The peer is the reference made darker: its structure agrees, its brightness does not.
    assert summary["methods"]["peer"]["gradient_energy"] == pytest.approx(1, abs=0.01)
    assert summary["methods"]["bicubic"]["gradient_energy"] < 0.9
    pair = next(iter(PairFolder(folder)))
    expected = metrics.psnr_y(metrics.to_tensor(bicubic(pair)), metrics.to_tensor(pair.reference)).item()
    assert float(rows[0]["psnr_y"]) == pytest.approx(expected)
    saved = Image.open(output / "bicubic" / "p0.png")
    assert np.array_equal(np.asarray(saved), np.asarray(bicubic(pair)))
    table = (output / "table.md").read_text()
    assert f"| bicubic | {summary['methods']['bicubic']['psnr_y']:.2f} |" in table and table.count("\n") == 4


def test_the_model_takes_part_through_its_pipeline(folder, tiny_pipeline):
    pair = next(iter(PairFolder(folder)))
    method = from_pipeline(tiny_pipeline, seed=5, options={"num_inference_steps": 1})
    direct = tiny_pipeline(pair.low, num_inference_steps=1, generator=torch.Generator("cpu").manual_seed(5)).images[0]
    assert np.array_equal(np.asarray(method(pair)), np.asarray(direct))
    assert np.array_equal(np.asarray(method(pair)), np.asarray(direct)), "every image starts from the same seed"
    values = Judge(pair.reference)(method(pair))
    assert set(values) == {"psnr_y", "ssim_y", "gradient_energy"} and all(map(math.isfinite, values.values()))


def test_results_of_another_size_are_refused(folder, tmp_path):
    textured(0, 60, 64).save(folder / "peer" / "p2.png")
    with pytest.raises(ImageError, match="60 x 64"):
        evaluate(PairFolder(folder), tmp_path / "out", folders={"peer": folder / "peer"})
    with pytest.raises(ParameterError, match="taken"):
        evaluate(PairFolder(folder), tmp_path / "out", folders={"bicubic": folder / "peer"})


def test_means_pass_over_what_is_not_finite():
    rows = [
        {"image": str(i), "method": "m", "psnr_y": 30.0, "gradient_energy": value}
        for i, value in enumerate([1.0, math.nan])
    ]
    assert report.summarise(rows, ["m"])["m"] == {"psnr_y": 30.0, "gradient_energy": 1.0}
    rows[0]["gradient_energy"] = math.inf
    assert report.summarise(rows, ["m"])["m"]["gradient_energy"] is None
    assert "| m | 30.00 |  |" in report.markdown_table(report.summarise(rows, ["m"]))
