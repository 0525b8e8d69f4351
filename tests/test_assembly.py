"""The `sd` preset's assembly: tiny random checkpoints in the publishers' layouts go through the very same code."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import tiny_components
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    UNet2DConditionModel,
)
from public_layouts import PLAIN
from safetensors.torch import load_file, save_file

from sisrm.assembly import SCA_FILE, Parts, assemble, save_trained
from sisrm.attention import is_segmentation_key
from sisrm.errors import WeightsError
from sisrm.pipeline import SISRMPipeline
from sisrm.presets import load_pipeline
from sisrm.runtime import describe, trained_parts


@pytest.fixture
def parts(sd_parts, tmp_path) -> Parts:
    """A copy that a test may damage."""
    root = tmp_path / "parts"
    shutil.copytree(sd_parts.sape.parent, root)
    return Parts(root / "sd", root / "tile", root / "b5", root / "sape")


def inputs() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(1, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([400]),
        "encoder_hidden_states": torch.randn(1, 5, 16, generator=generator),
    }


def plain_model(kind, folder, **options):
    """What plain diffusers loads; in memory of its own, as weights left in a mapped file lie unaligned, and sums then round otherwise."""
    loaded = kind.from_pretrained(folder, **options)
    model = kind.from_config(loaded.config)
    model.load_state_dict(loaded.state_dict(), strict=True)
    return model.eval()


def test_untrained_it_predicts_exactly_what_plain_diffusers_does(sd_parts, sd_pipeline):
    unet = plain_model(UNet2DConditionModel, sd_parts.stable_diffusion / "unet", variant="fp16")
    controlnet = plain_model(ControlNetModel, sd_parts.controlnet, use_safetensors=False)
    given, condition = inputs(), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    tokens = sd_pipeline.sape.tokens(torch.randn(1, 8, 4, 4))
    with torch.no_grad():
        down, mid = controlnet(**given, controlnet_cond=condition, return_dict=False)
        plain = unet(**given, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        ours = sd_pipeline.denoise(
            given["sample"], given["timestep"], given["encoder_hidden_states"], tokens, condition, None
        )
        alone = unet(**given).sample
    assert (ours - plain).abs().max() == 0.0
    assert (plain - alone).abs().max() > 0


def test_every_part_is_the_publishers(sd_parts, sd_pipeline):
    theirs = torch.load(sd_parts.segmenter / "pytorch_model.bin", weights_only=True)
    assert sorted(map(tuple, (value.shape for value in theirs.values()))) == sorted(
        tuple(value.shape) for value in sd_pipeline.segmenter.state_dict().values()
    )
    key = "decode_head.classifier.weight"
    assert torch.equal(sd_pipeline.segmenter.state_dict()[key], theirs[key])
    assert any("attention.self.query" in name for name in theirs)  # the names that are on the hub
    sape = load_file(sd_parts.sape / "diffusion_pytorch_model.safetensors")
    assert torch.equal(sd_pipeline.sape.label_generator.weight, sape["label_generator.weight"])
    assert sd_pipeline.sape.config.cross_attention_dim == PLAIN["cross_attention_dim"]
    assert type(sd_pipeline.scheduler) is DDIMScheduler and sd_pipeline.scheduler.config.beta_start == 0.00085


def test_the_controlnet_starts_with_the_u_nets_sca(sd_pipeline):
    unet, controlnet = sd_pipeline.unet.state_dict(), sd_pipeline.controlnet.state_dict()
    cloned = [key for key in controlnet if is_segmentation_key(key)]
    assert cloned and all(torch.equal(unet[key], controlnet[key]) for key in cloned)


def test_defaults_are_seesrs(sd_pipeline, photo):
    assert sd_pipeline.defaults == {
        "num_inference_steps": 20, "guidance_scale": 5.5, "start_strength": 1.0, "top_k": 5,
    }  # fmt: skip
    prompts, encode = [], sd_pipeline.encode_prompt
    sd_pipeline.encode_prompt = lambda prompt: prompts.append(prompt) or encode(prompt)
    output = sd_pipeline(photo, num_inference_steps=1)
    sd_pipeline.encode_prompt = encode
    assert prompts == [[output.prompt[0] + ", clean, high-resolution, 8k"], ["dotted, noise, blur, lowres, smooth"]]
    assert output.images[0].size == (96, 80)
    # without an image encoder denoising starts from the encoded LR image
    lr_image = sd_pipeline.prepare_lr_image(photo)
    assert sd_pipeline.encode_image(lr_image).latents.shape[1] == 4


def test_round_trip_through_one_folder(sd_pipeline, photo, tmp_path):
    sd_pipeline.save_pretrained(tmp_path / "one")
    assert not list((tmp_path / "one").rglob("*.bin"))
    again = load_pipeline(str(tmp_path / "one"), device="cpu", dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    first, second = (
        pipe(photo, num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="pt").images
        for pipe in (sd_pipeline, again)
    )
    assert (first - second).abs().max() < 1e-3  # prepared for its device: another memory layout, other rounding
    for name in ("unet", "controlnet", "vae", "text_encoder", "segmenter", "sape"):
        ours, theirs = (getattr(pipe, name).state_dict() for pipe in (sd_pipeline, again))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert again.defaults == sd_pipeline.defaults and again.config.negative_prompt == sd_pipeline.config.negative_prompt
    assert describe(again)["trained_parts"] == {"sca": False, "controlnet": False, "image_encoder": False}


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda state: state.update(surplus=torch.ones(2)), "surplus is not a weight"),
        (lambda state: state.pop("conv_in.weight"), "conv_in.weight is missing"),
        (lambda state: state.update({"conv_in.weight": torch.ones(8, 9, 3, 3)}), r"conv_in.weight has shape \(8, 9"),
    ],
)
@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_a_wrong_key_is_named(parts, part, damage, named):
    folder = parts.controlnet if part == "controlnet" else parts.stable_diffusion / "unet"
    path = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    state = torch.load(path, weights_only=True) if path.suffix == ".bin" else load_file(path)
    damage(state)
    torch.save(state, path) if path.suffix == ".bin" else save_file(state, path)
    with pytest.raises(WeightsError, match=f"{folder.name}/.*{named}"):
        assemble(parts)


def test_wrong_keys_of_the_libraries_parts_are_named(parts):
    path = parts.segmenter / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["surplus"] = torch.ones(1)
    torch.save(state, path)
    with pytest.raises(WeightsError, match="b5.*surplus"):
        assemble(parts)
    path = parts.stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state.pop("decoder.conv_in.weight")
    save_file(state, path)
    with pytest.raises(WeightsError, match="vae.*decoder.conv_in.weight"):
        assemble(parts)


def test_only_tensors_are_read_from_a_pickle(parts, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"conv_in.weight": Trap()}, parts.controlnet / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="tile/diffusion_pytorch_model.bin"):
        assemble(parts)
    assert not (tmp_path / "sprung").exists()


def test_no_pickle_where_publishers_have_safetensors(parts):
    unet = next((parts.stable_diffusion / "unet").glob("*.safetensors"))
    torch.save(load_file(unet), unet.with_name("diffusion_pytorch_model.bin"))
    unet.unlink()
    with pytest.raises(WeightsError, match="unet: expected"):
        assemble(parts)


def test_trained_weights_come_back(sd_parts, trained_weights, photo):
    pipe, folder = trained_weights
    again = SISRMPipeline.from_parts(
        Parts(sd_parts.stable_diffusion, sd_parts.controlnet, sd_parts.segmenter, sd_parts.sape, folder)
    )
    for name in ("unet", "controlnet", "sape", "segmenter"):
        ours, theirs = getattr(again, name).state_dict(), getattr(pipe, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert trained_parts(again) == {"sca": True, "controlnet": True, "image_encoder": True}


def test_the_controlnet_alone_is_a_trained_part(sd_parts, trained_weights, tmp_path):
    save_trained(trained_weights[0], tmp_path / "some", ("controlnet",))
    some = SISRMPipeline.from_parts(
        Parts(sd_parts.stable_diffusion, sd_parts.controlnet, sd_parts.segmenter, sd_parts.sape, tmp_path / "some")
    )
    assert trained_parts(some) == {"sca": False, "controlnet": True, "image_encoder": True}


def test_trained_weights_that_do_not_fit_are_named(sd_parts, trained_weights, tmp_path):
    folder = trained_weights[1]

    def attempt():
        assemble(Parts(sd_parts.stable_diffusion, sd_parts.controlnet, sd_parts.segmenter, sd_parts.sape, folder))

    state = load_file(folder / SCA_FILE)
    key = next(iter(state))
    save_file({**state, key: torch.ones(3)}, folder / SCA_FILE)
    with pytest.raises(WeightsError, match=rf"trained/sca.safetensors: {key} has shape \(3,\); expected"):
        attempt()
    save_file({name: value for name, value in state.items() if name != key}, folder / SCA_FILE)
    with pytest.raises(WeightsError, match=rf"trained/sca.safetensors: {key} is missing"):
        attempt()
    save_file(state, folder / SCA_FILE)
    tiny_components()["sape"].save_pretrained(folder / "sape")
    config = json.loads((folder / "sape" / "config.json").read_text())
    (folder / "sape" / "config.json").write_text(json.dumps({**config, "grid": 3}))
    with pytest.raises(WeightsError, match="sape/diffusion_pytorch_model.safetensors: token_position"):
        attempt()
    (folder / "image_encoder").mkdir()
    with pytest.raises(WeightsError, match="no image_encoder"):
        attempt()
    with pytest.raises(WeightsError, match="trained: expected at least one of sca.safetensors"):
        shutil.rmtree(folder)
        folder.mkdir()
        attempt()
