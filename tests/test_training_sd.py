"""Training on Stable Diffusion's parts, at tiny size: what moves, with which settings, and how the weights come back."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import tiny_pipe
from PIL import Image

from sisrm import cli
from sisrm.assembly import TRAINED
from sisrm.attention import is_segmentation_key
from sisrm.errors import ParameterError
from sisrm.pipeline import SISRMPipeline
from sisrm.presets import load_pipeline
from sisrm.runtime import describe
from sisrm.training.batches import Batches
from sisrm.training.it2ic import It2icStage, draw_timesteps
from sisrm.training.loop import LoopSettings, rate_factor
from sisrm.training.optimizers import build
from sisrm.training.randomness import StepGenerator
from sisrm.training.recipes import RECIPES
from sisrm.training.sape import SapeStage


@pytest.fixture
def photos(tmp_path, photo):
    """Two photos larger than a crop, without label maps."""
    (tmp_path / "photos").mkdir()
    for index, side in enumerate((90, 120)):
        photo.resize((side, 100), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def pipe(sd_parts):
    return SISRMPipeline.from_parts(sd_parts)


def train(stage: str, photos, output, *more: object) -> int:
    arguments = ["train", stage, "--preset", "sd", "--data", photos, "--output", output, "--workers", "0"]
    arguments += ["--steps", "1", "--batch", "2", "--crop", "64", "--ema", "0", *more]
    return cli.main(list(map(str, arguments)))


def moved(before: SISRMPipeline, after: SISRMPipeline) -> dict[str, set[str]]:
    """Component -> names of the weights that are not as they were."""
    modules = {name: part for name, part in before.components.items() if isinstance(part, torch.nn.Module)}
    states = {name: (part.state_dict(), getattr(after, name).state_dict()) for name, part in modules.items()}
    assert all(first.keys() == second.keys() for first, second in states.values())
    return {
        name: found
        for name, (first, second) in states.items()
        if (found := {key for key in first if not torch.equal(first[key].float(), second[key].float())})
    }


def test_eq_9_trains_sca_controlnet_and_image_encoder_and_nothing_else(pipe):
    """By name and count; the image encoder of eq 4 is the ControlNet's conditioning embedding."""
    stage = It2icStage(pipe, crop=64, **RECIPES["sd"]["it2ic"].options)
    trained = {key: value for key, value in stage.named_parameters() if value.requires_grad}
    sca = [f"unet.{key}" for key, _ in pipe.unet.named_parameters() if is_segmentation_key(key)]
    anchors = ["sape.token_position", "sape.token_projection.weight", "sape.token_projection.bias"]
    controlnet = [f"controlnet.{key}" for key, _ in pipe.controlnet.named_parameters()]
    assert sorted(trained) == sorted([*sca, *anchors, *controlnet])
    assert set(trained) == {
        key for key in trained if key.startswith("controlnet.") or is_segmentation_key(key) or ".token_" in key
    }
    # one SCA in every block with text cross-attention: layer norm, queries, keys, values, and the way out with its bias
    blocks = sum(name.endswith("attn2") for name, _ in pipe.unet.named_modules())
    assert len(sca) == 7 * blocks and blocks > 6
    assert any(key.startswith("controlnet.controlnet_cond_embedding.") for key in trained)
    counts = {
        name: sum(value.numel() for key, value in trained.items() if key.startswith(f"{name}."))
        for name in ("unet", "sape", "controlnet")
    }
    assert counts == {"unet": 8_728, "sape": 208, "controlnet": 425_864}
    assert sum(counts.values()) == sum(parameter.numel() for parameter in stage.role_parameters("main"))


def test_after_a_step_everything_else_is_as_it_was(sd, photos):
    assert train("it2ic", photos, sd / "run") == 0
    before = load_pipeline("sd", device="cpu", dtype=torch.float32)
    changed = moved(before, SISRMPipeline.from_pretrained(sd / "run" / "model"))
    assert set(changed) == {"unet", "controlnet", "sape"}
    assert all(is_segmentation_key(key) for key in changed["unet"])
    assert any("controlnet_cond_embedding" in key for key in changed["controlnet"])
    assert all(key.startswith("token_") for key in changed["sape"])


def test_eq_6_moves_the_extractor_through_lora_of_rank_8(sd, pipe, photos):
    stage = SapeStage(pipe, crop=64, **RECIPES["sd"]["sape"].options)
    ranks = {key: min(value.shape[:2]) for key, value in stage.named_parameters() if "lora_" in key}
    assert set(ranks.values()) == {8} and all("lora_" in key for key, p in stage.named_parameters() if p.requires_grad)
    for part in ("segmenter.base_model.model.segformer", "segmenter.base_model.model.decode_head",
                 "sape.base_model.model.mask_encoder", "sape.base_model.model.label_generator"):  # fmt: skip
        assert any(key.startswith(part) for key in ranks)
    assert train("sape", photos, sd / "run", "--learning-rate", "0.1") == 0
    before = load_pipeline("sd", device="cpu", dtype=torch.float32)
    changed = moved(before, SISRMPipeline.from_pretrained(sd / "run" / "model"))
    assert set(changed) == {"segmenter", "sape"}
    assert all(key.startswith(("mask_encoder", "label_generator")) for key in changed["sape"])


def test_trained_weights_go_from_a_run_into_the_preset(sd, photos, monkeypatch, capsys):
    """One step of each stage -> publish --trained-only -> SISRM_WEIGHTS -> the preset has what was trained."""
    assert train("sape", photos, sd / "sape", "--learning-rate", "0.1") == 0
    assert train("it2ic", photos, sd / "it2ic", "--model", sd / "sape" / "model") == 0
    capsys.readouterr()
    publish = ["train", "publish", "--trained-only", "--model"]
    assert cli.main([*publish, str(sd / "it2ic" / "model"), "--output", str(sd / "trained")]) == 0
    assert capsys.readouterr().out == "publish: " + ", ".join(TRAINED) + "\n"
    assert sorted(path.name for path in (sd / "trained").iterdir()) == sorted(TRAINED)
    assert not [config for config in (sd / "trained").glob("*/config.json") if "_name_or_path" in config.read_text()]
    monkeypatch.setenv("SISRM_WEIGHTS", str(sd / "trained"))
    again = load_pipeline("sd", device="cpu", dtype=torch.float32)
    trained = SISRMPipeline.from_pretrained(sd / "it2ic" / "model").to(torch.float16)
    assert moved(trained, again) == {}
    assert all(describe(again)["trained_parts"].values())
    # before eq 9 has moved SCA, only SAPE's part is SISRM's
    assert cli.main([*publish, str(sd / "sape" / "model"), "--output", str(sd / "half")]) == 0
    assert sorted(path.name for path in (sd / "half").iterdir()) == ["sape", "segmenter"]


def test_the_presets_defaults_are_the_papers():
    for stage, recipe in RECIPES["sd"].items():
        paper = (recipe.steps, recipe.batch, recipe.learning_rate, recipe.crop, recipe.optimizer)
        assert paper == (10_000, 32, 1e-4, 512, "adamw"), stage
        settings = LoopSettings("", steps=recipe.steps, warmup=recipe.warmup, final_rate=recipe.final_rate)
        assert {rate_factor(step, step / 10_000, settings) for step in (0, 5000, 9999)} == {1.0}
        assert recipe.options["scale"] == (1.0, 1.0) and recipe.options["degradations"] == (("seesr", 1.0),)
    assert RECIPES["sd"]["sape"].options["rank"] == 8
    assert RECIPES["sd"]["it2ic"].options["train_unet"] is False
    assert len(Batches(32, 1, processes=3)) == 1  # the paper's three GPUs


def test_timesteps_come_from_the_whole_schedule(pipe):
    drawn = draw_timesteps(2000, pipe, StepGenerator(0, 0, range(2000)), low_share=0.0)
    assert drawn.min() < 10 and drawn.max() > 989 and abs(drawn.float().mean() - 500) < 25


@pytest.mark.parametrize("arguments, named", [
    (["autoencoder", "--preset", "sd"], "STAGE is 'autoencoder'; accepted: sape or it2ic with --preset sd"),
    (["it2ic", "--preset", "sd", "--model", "COMPACT"], "--preset is 'sd'"),
    (["it2ic", "--model", "SD"], "--preset is 'compact'; accepted: sd for a pipeline that stands on Stable Diffusion's parts"),
    (["finishing", "--model", "COMPACT", "--gradient-checkpointing", "--crop", "64"], "--gradient-checkpointing is 'finishing'"),
    (["segmenter", "--model", "COMPACT", "--mixed-precision", "fp16"], "--mixed-precision is 'fp16'"),
    (["publish", "--trained-only", "--model", "COMPACT"], "--trained-only"),
    (["it2ic", "--model", "COMPACT", "--batch", "2", "--accumulation", "3", "--crop", "64"], "--batch is 2"),
    (["it2ic", "--model", "COMPACT", "--accumulation", "0"], "--accumulation is 0"),
    (["it2ic", "--model", "COMPACT", "--batch", "0"], "--batch is 0"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_line(pipe, photos, tmp_path, capsys, arguments, named):
    pipe.save_pretrained(tmp_path / "SD")
    tiny_pipe().save_pretrained(tmp_path / "COMPACT")
    given = [str(tmp_path / word) if word in ("SD", "COMPACT") else word for word in arguments]
    assert cli.main(["train", *given, "--data", str(photos), "--output", str(tmp_path / "run")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if named in line]
    assert len(lines) == 1


@pytest.mark.parametrize("stage", ["sape", "it2ic"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(pipe, photos, stage):
    from sisrm.training.data import Crops, Photos

    built = {"sape": SapeStage, "it2ic": It2icStage}[stage](pipe, crop=64, **RECIPES["sd"][stage].options)
    if stage == "it2ic":  # an untrained SCA has no say yet
        for key, parameter in pipe.unet.named_parameters():
            if is_segmentation_key(key):
                parameter.data.add_(0.1)
    crops = Crops(Photos([photos]), built.crops())
    batch = {key: torch.stack([crops[0][key], crops[1][key]]) for key in crops[0]}

    def step() -> tuple[float, int, list[torch.Tensor]]:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
            loss, _ = built(batch, "main", StepGenerator(0, 0, [0, 1]))
        loss.backward()
        gradients = [p.grad.clone() for p in built.parameters() if p.grad is not None]
        built.zero_grad()
        return float(loss.detach()), sum(kept), gradients

    loss, bytes_kept, gradients = step()
    built.checkpoint_gradients()
    again, bytes_now, same = step()
    assert again == pytest.approx(loss, rel=1e-6) and bytes_now < 0.8 * bytes_kept
    assert len(same) == len(gradients) > 10
    torch.testing.assert_close(same, gradients, rtol=1e-4, atol=1e-7)


def test_adam_in_8_bits_moves_the_weights():
    pytest.importorskip("bitsandbytes")
    layer = torch.nn.Linear(128, 64)  # small tensors stay in 32 bits
    (optimizer,) = build(layer, list(layer.parameters()), "adam8bit", 1e-2, (0.9, 0.99), 0.01)
    before = layer.weight.detach().clone()
    for _ in range(2):
        layer(torch.ones(1, 128)).square().sum().backward()
        optimizer.step()
    assert 0.001 < (layer.weight.detach() - before).abs().max() < 0.1
    assert optimizer.state[layer.weight]["state1"].dtype == torch.uint8


def test_without_its_package_adam_in_8_bits_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ParameterError, match="--optimizer is 'adam8bit'; .*package bitsandbytes is installed"):
        build(torch.nn.Linear(2, 2), [], "adam8bit", 1e-4, (0.9, 0.99), 0.01)
