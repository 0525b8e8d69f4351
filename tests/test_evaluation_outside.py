"""Evaluation with other people's libraries: pyiqa's metrics, spandrel's models, and what is told without them.

The libraries are large and need a torchvision that fits torch, so stand-ins with their true interface (pyiqa 0.1.16,
spandrel 0.4.2) take their place; where the libraries themselves can be imported, they are tried too.
"""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_evaluation import textured

from sisrm import cli
from sisrm.errors import ParameterError, WeightsError
from sisrm.evaluation import perceptual
from sisrm.evaluation.metrics import to_tensor
from sisrm.evaluation.pairs import Pair
from sisrm.evaluation.perceptual import NAMES, PerceptualMetrics, skipped_line
from sisrm.evaluation.table import from_path

PYIQA = """
import urllib.error
import torch

def create_metric(metric_name, as_loss=False, device=None, **kwargs):
    print("Loading pretrained model")
    if metric_name == "dists":
        raise urllib.error.URLError("no network")
    if metric_name == "clipiqa":
        raise RuntimeError("the checksum does not match")
    return InferenceModel(metric_name, device)

class InferenceModel(torch.nn.Module):
    def __init__(self, metric_name, device):
        super().__init__()
        self.metric_name, self.full_reference = metric_name, metric_name == "lpips"

    def forward(self, target, ref=None, **kwargs):
        assert target.dtype == torch.float32 and target.dim() == 4 and 0 <= target.min() and target.max() <= 1
        assert (ref is not None) == self.full_reference
        return (target - ref).abs().mean().view(1, 1) if self.full_reference else target.mean()
"""

SPANDREL = """
import torch
from safetensors.torch import load_file

class UnsupportedModelError(Exception): pass

class ImageModelDescriptor:
    def __init__(self, state):
        self.scale = int(state["scale"])
        self.input_channels = self.output_channels = 3
        self.architecture = type("Architecture", (), {"name": "Nearest"})()
    def eval(self): return self
    def float(self): return self
    def __call__(self, image):
        assert image.dtype == torch.float32 and image.dim() == 4
        return torch.nn.functional.interpolate(image, scale_factor=self.scale)

class ModelLoader:
    def __init__(self, device=None): pass
    def load_from_file(self, path):
        state = load_file(path) if str(path).endswith(".safetensors") else torch.load(path, weights_only=True)
        if "scale" not in state:
            raise UnsupportedModelError()
        return ImageModelDescriptor(state)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """-> function that puts a module of this name and text in front of whatever is installed."""
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def put(name: str, text: str) -> None:
        (tmp_path / "modules" / name).mkdir(parents=True)
        (tmp_path / "modules" / name / "__init__.py").write_text(text)
        for loaded in [key for key in sys.modules if key.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        importlib.invalidate_caches()

    yield put
    for name in ("pyiqa", "spandrel"):
        if str(tmp_path) in str(getattr(sys.modules.get(name), "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def absent(monkeypatch):
    """Neither library is installed."""
    missing = lambda name: None  # noqa: E731
    monkeypatch.setattr("sisrm.evaluation.perceptual.find_spec", missing)
    monkeypatch.setattr("sisrm.evaluation.model_file.find_spec", missing)


@pytest.fixture
def folder(tmp_path):
    for name, side in (("HR", 256), ("LR", 64)):
        (tmp_path / "set" / name).mkdir(parents=True)
        textured(0, side, side).save(tmp_path / "set" / name / "a.png")
    return tmp_path / "set"


# Metrics


def test_metrics_that_can_be_had_are_measured_and_the_others_named(install, folder, tmp_path, capsys):
    install("pyiqa", PYIQA)
    assert cli.main(["evaluate", str(folder), "--no-ours", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "Loading" not in told.out and told.out == (tmp_path / "out" / "table.md").read_text()
    assert told.out.startswith("| method | PSNR-Y ↑ | SSIM-Y ↑ | LPIPS ↓ | MANIQA ↑ | NIQE ↓ | gradient energy")
    assert "not measured: DISTS (its weights could not be downloaded: URLError: <urlopen error no network>)" in told.err
    assert "CLIPIQA (it could not be loaded: RuntimeError: the checksum does not match)" in told.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["skipped_metrics"]) == {"dists", "clipiqa"}
    low, reference = (Image.open(folder / name / "a.png") for name in ("LR", "HR"))
    result, truth = to_tensor(low.resize((256, 256), Image.Resampling.BICUBIC)), to_tensor(reference)
    figures = summary["methods"]["bicubic"]
    assert figures["lpips"] == pytest.approx((result - truth).abs().mean().item(), abs=1e-6)
    assert figures["maniqa"] == figures["niqe"] == pytest.approx(result.mean().item(), abs=1e-6)


def test_metrics_can_be_chosen(install, folder, tmp_path, capsys):
    install("pyiqa", PYIQA)
    command = ["evaluate", str(folder), "--no-ours", "--output", str(tmp_path / "out"), "--metrics"]
    assert cli.main([*command, "psnr_y,ssim_y"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("| method | PSNR-Y ↑ | SSIM-Y ↑ | gradient energy") and told.err == ""
    assert cli.main([*command, "niqe, lpips"]) == 0
    assert "SSIM-Y ↑ | LPIPS ↓ | NIQE ↓ | gradient" in capsys.readouterr().out
    assert cli.main([*command, "lpips,vmaf"]) == 2
    assert "--metrics is 'vmaf'; accepted: names from psnr_y, ssim_y, lpips" in capsys.readouterr().err


def test_small_images_have_no_figure_in_place_of_an_error(install):
    install("pyiqa", PYIQA)
    measured = PerceptualMetrics(["lpips", "niqe"])
    image = torch.rand(1, 3, 128, 300, generator=torch.Generator().manual_seed(0))
    values = measured(image, image)
    assert values["lpips"] == 0 and np.isnan(values["niqe"])


def test_without_pyiqa_it_says_how_to_get_it(absent, folder, tmp_path, capsys):
    assert cli.main(["evaluate", str(folder), "--no-ours", "--output", str(tmp_path / "out")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not measured: LPIPS, DISTS, MANIQA, CLIPIQA, NIQE (pyiqa is not installed;")
    assert "pip install -r requirements-eval.txt" in line


def test_a_torchvision_of_another_build_is_named(install):
    install("pyiqa", "raise RuntimeError('operator torchvision::nms does not exist')")
    measured = PerceptualMetrics()
    assert measured.names == [] and set(measured.skipped) == set(NAMES)
    line = skipped_line(measured.skipped, {name: name for name in NAMES})
    assert "cannot be imported: RuntimeError: operator torchvision::nms" in line and "of one build" in line


def test_pyiqa_knows_the_names():
    configurations = imported("pyiqa.default_model_configs").DEFAULT_CONFIGS
    from sisrm.evaluation.report import METRICS

    for name, metric in perceptual._METRICS.items():
        known = configurations[metric.name]
        assert (known["metric_mode"] == "FR") == metric.full_reference
        assert METRICS[name].best == ("lowest" if known.get("lower_better") else "highest")


# Models


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_model_file_is_a_row(install, folder, tmp_path, capsys, ending):
    install("spandrel", SPANDREL)
    path = tmp_path / f"nearest{ending}"
    save = save_file if ending == ".safetensors" else torch.save
    save({"scale": torch.tensor(4)}, path)
    pair = Pair("a", textured(0, 20, 16), textured(0, 80, 64))
    expected = pair.low.resize((80, 64), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(from_path(path)(pair)), np.asarray(expected))
    command = ["evaluate", str(folder), "--no-ours", "--output", str(tmp_path / "out"), "--metrics", "psnr_y"]
    assert cli.main([*command, "--method", f"Nearest={path}", "--save-images"]) == 0
    assert "| Nearest |" in capsys.readouterr().out and (tmp_path / "out" / "Nearest" / "a.png").is_file()
    settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["Nearest"]
    assert settings["architecture"] == "Nearest" and len(settings["sha256"]) == 64


def test_models_that_do_not_fit_are_refused(install, tmp_path):
    install("spandrel", SPANDREL)
    path = tmp_path / "model.safetensors"
    save_file({"scale": torch.tensor(2)}, path)
    with pytest.raises(ParameterError, match="a 4x model for RGB images; this Nearest has scale 2"):
        from_path(path)
    save_file({"other": torch.tensor(2)}, path)
    with pytest.raises(WeightsError, match=r"model\.safetensors: spandrel knows no architecture"):
        from_path(path)
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"model\.safetensors: spandrel cannot load it"):
        from_path(path)


def test_without_spandrel_it_says_how_to_get_it(absent, tmp_path):
    save_file({"scale": torch.tensor(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ParameterError, match="model file needs spandrel: pip install -r requirements-eval.txt"):
        from_path(tmp_path / "model.safetensors")


def test_a_spandrel_that_cannot_be_imported_says_why(install, tmp_path):
    install("spandrel", "raise RuntimeError('operator torchvision::nms does not exist')")
    save_file({"scale": torch.tensor(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ParameterError, match="cannot be imported: RuntimeError: operator torchvision.* of one build"):
        from_path(tmp_path / "model.safetensors")


def test_spandrel_itself(tmp_path):
    imported("spandrel")
    network = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG").SRVGGNetCompact
    pair = Pair("a", textured(0, 20, 16), textured(0, 80, 64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for scale in (2, 4):
            model = network(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale, act_type="prelu")
            torch.save(model.state_dict(), tmp_path / f"x{scale}.pth")
    with torch.no_grad():
        expected = model(to_tensor(pair.low).float())[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(from_path(tmp_path / "x4.pth")(pair)), expected)
    with pytest.raises(ParameterError, match="scale 2"):
        from_path(tmp_path / "x2.pth")
    torch.save(model, tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="forbidden"):
        from_path(tmp_path / "whole.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="cannot load"):
        from_path(tmp_path / "list.pth")


# Settings of further rows


@pytest.mark.parametrize("arguments, told", [
    (["--ours", "quick"], "--ours is 'quick'; accepted: NAME:KEY=VALUE"),
    (["--ours", "quick:steps=1"], "--ours is 'steps=1'; accepted: KEY=VALUE with one of the keys num_inference_steps"),
    (["--ours", "quick:top_k=many"], "--ours top_k is 'many'; accepted: an integer"),
    (["--ours", "quick:use_mff=1"], "--ours use_mff is '1'; accepted: true or false"),
    (["--ours", "a:top_k=1", "--ours", "a:top_k=2"], "--ours is 'a'; accepted: each name once"),
    (["--ours", "a:seed=-1"], "--seed is -1"),
    (["--method", "a=x", "--method", "a=y"], "--method is 'a'; accepted: each name once"),
    (["--no-ours", "--method", "a=nowhere"], "--method is 'nowhere'; accepted: an existing folder of results"),
    (["--protocol", "set5"], "--protocol is 'set5'"),
])  # fmt: skip
def test_wrong_rows_are_named(folder, tmp_path, capsys, arguments, told):
    assert cli.main(["evaluate", str(folder), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def imported(name: str):
    """A library itself; the test is skipped where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {str(error).splitlines()[0]}")
