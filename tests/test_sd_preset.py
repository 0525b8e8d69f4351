"""The `sd` preset as it is chosen: assembled once, with trained weights or without, fast, offline, and what the app says."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    LCMScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention, XFormersAttnProcessor
from public_layouts import LORA, write_lora
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, SegformerConfig, SegformerForSemanticSegmentation

from sisrm import presets, public_parts, runtime
from sisrm.errors import ParameterError, WeightsError
from sisrm.pipeline import SISRMPipeline
from sisrm.presets import load_or_fall_back, load_pipeline
from sisrm.runtime import describe
from sisrm.unet import SegmentationUNet


def test_the_preset_assembles_once_and_loads(sd, photo, monkeypatch):
    assert presets.ready_presets() == ["compact"] or not presets.PRESETS["sd"].ready()
    pipe = load_pipeline("sd", device="cpu", dtype=torch.float32)
    assert pipe.preset == "sd" and presets.PRESETS["sd"].ready()
    assert not any(describe(pipe)["trained_parts"].values())
    monkeypatch.setattr(presets, "fetch", None)  # it is not asked again
    assert load_pipeline("sd", device="cpu").folder == pipe.folder
    monkeypatch.setenv("SISRM_WEIGHTS", str(sd))
    assert presets.PRESETS["sd"].location != pipe.folder


def test_the_preset_reads_sisrm_weights(sd, trained_weights, monkeypatch):
    monkeypatch.setenv("SISRM_WEIGHTS", str(trained_weights[1]))
    assert all(describe(load_pipeline("sd", device="cpu"))["trained_parts"].values())
    monkeypatch.setenv("SISRM_WEIGHTS", str(sd / "nothing"))
    with pytest.raises(WeightsError, match="nothing: expected a folder with SISRM weights or a hub repository"):
        load_pipeline("sd", device="cpu")
    assert not [path for path in (sd / "home" / "sisrm").iterdir() if "." in path.name]


@pytest.mark.parametrize("kohya", [True, False])
def test_fast_mode_is_the_lora_merged(sd, photo, kohya):
    write_lora(sd / "lora", kohya)
    plain = load_pipeline("sd", device="cpu", dtype=torch.float32, fast=False)
    fast = load_pipeline("sd", device="cpu", dtype=torch.float32, fast=True)
    assert type(fast.scheduler) is LCMScheduler and fast.defaults["num_inference_steps"] == 4
    assert fast.unet.state_dict().keys() == plain.unet.state_dict().keys()
    state = load_file(sd / "lora" / LORA)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    key, ends = f"unet.{name}.", ("lora_A.weight", "lora_B.weight")
    if kohya:
        key, ends = f"lora_unet_{name.replace('.', '_')}.", ("lora_down.weight", "lora_up.weight")
    down, up = (state[key + end] for end in ends)
    scale = 0.5 if kohya else 1.0  # alpha / rank
    before, after = (pipe.unet.get_submodule(name).weight for pipe in (plain, fast))
    torch.testing.assert_close(after, before + scale * up @ down)
    sca = name.replace("attn1", "segmentation_attention")
    assert torch.equal(plain.unet.get_submodule(sca).weight, fast.unet.get_submodule(sca).weight)
    fast.set_progress_bar_config(disable=True)
    one, two, other = (
        fast(photo, generator=torch.Generator().manual_seed(seed), output_type="pt").images for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_lora_of_another_model_is_refused(sd):
    state = load_file(sd / "lora" / LORA)
    state = {key.replace("down_blocks_0", "down_blocks_7"): value for key, value in state.items()}
    save_file(state, sd / "lora" / LORA)
    with pytest.raises(WeightsError, match=LORA):
        load_pipeline("sd", device="cpu", fast=True)


def test_fast_needs_a_preset_that_has_it():
    with pytest.raises(ParameterError, match="fast.*sd"):
        load_pipeline("compact", fast=True)


def test_offline_without_the_parts_is_a_typed_error(tmp_path, monkeypatch):
    monkeypatch.setattr(presets.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="stable-diffusion-v1-5/unet/config.json: not in the local cache"):
        load_pipeline("sd", device="cpu")
    assert public_parts.missing_files(public_parts.PINS["lcm_lora"]) == [LORA]


def test_every_part_is_pinned_to_a_commit():
    for part in public_parts.PINS.values():
        assert len(part.revision) == 40 and set(part.revision) <= set("0123456789abcdef")
        assert part.files and part.repository.count("/") == 1


def test_the_app_falls_back_and_says_so(tmp_path, monkeypatch):
    from sisrm.ui.blocks import build_app

    monkeypatch.setenv("SISRM_PRESET", "sd")
    monkeypatch.setenv("SISRM_FAST", "1")
    monkeypatch.setattr(presets.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pipe = load_or_fall_back(device="cpu")
    assert pipe.preset == "compact" and pipe.fallback["preset"] == "sd"
    app = build_app(pipe)
    for lang in ("en", "zh"):
        notice = app.translations[lang]["fallback"]
        assert "sd" in notice and "compact" in notice and "stable-diffusion-v1-5" in notice
    assert any(getattr(block, "elem_id", None) == "fallback" for block in app.blocks.values())
    pipe.fallback = None
    assert not any(getattr(block, "elem_id", None) == "fallback" for block in build_app(pipe).blocks.values())


def test_xformers_covers_scas_attention(sd_pipeline, monkeypatch):
    """Where the test attention runs, every attention of U-Net and ControlNet gets xformers' processor, SCA's too."""
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", lambda query, *rest, **options: query)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    randn = torch.randn  # diffusers tries the kernel on such a tensor
    monkeypatch.setattr(torch, "randn", lambda *sizes, device=None, **options: randn(*sizes, **options))
    monkeypatch.setattr(runtime, "choose_attention_backend", lambda *_: runtime.AttentionBackend("xformers", "tried"))
    try:
        runtime.prepare(sd_pipeline, torch.device("cpu"))
        for model in (sd_pipeline.unet, sd_pipeline.controlnet):
            attentions = {name: part for name, part in model.named_modules() if isinstance(part, Attention)}
            ours = [name for name in attentions if name.endswith("segmentation_attention")]
            blocks = [name for name in attentions if name.endswith("attn2")]
            assert len(ours) == len(blocks) > 0 and len(attentions) == 3 * len(blocks)
            assert all(isinstance(part.processor, XFormersAttnProcessor) for part in attentions.values())
    finally:
        sd_pipeline.disable_xformers_memory_efficient_attention()
    kinds = {type(part.processor) for part in sd_pipeline.unet.modules() if isinstance(part, Attention)}
    assert XFormersAttnProcessor not in kinds


def test_small_gpus_take_large_pipelines_in_turns(monkeypatch):
    cuda = torch.device("cuda")
    for gigabytes, weights, expected in ((6, 3 * 2**30, True), (24, 3 * 2**30, False), (6, 2**25, False)):
        properties = type("Properties", (), {"total_memory": gigabytes * 2**30})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
        assert runtime.offloads(cuda, weights) is expected
    assert not runtime.offloads(torch.device("cpu"), 2**40)
    turns = SISRMPipeline.model_cpu_offload_seq.split("->")
    assert "controlnet" not in turns  # it and the U-Net would chase each other out at every step


def test_vae_tiles_and_slices(sd_pipeline):
    runtime.prepare(sd_pipeline, torch.device("cpu"))
    assert sd_pipeline.vae.use_tiling and sd_pipeline.vae.use_slicing


def test_full_size_configurations_have_the_published_sizes():
    """Stable Diffusion 1.5's U-Net has 859.5 M parameters, its ControlNet 361.3 M, SegFormer-B5 84.7 M (150 classes)."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**public_parts.UNET)
        controlnet = ControlNetModel(**public_parts.CONTROLNET)
        vae = AutoencoderKL(**public_parts.VAE)
        text = CLIPTextModel(CLIPTextConfig(**public_parts.TEXT_ENCODER))
        segmenter = SegformerForSemanticSegmentation(SegformerConfig(**public_parts.SEGMENTER))
        ours = SegmentationUNet(**public_parts.UNET)
    millions = [
        round(sum(p.numel() for p in m.parameters()) / 1e6, 1) for m in (unet, controlnet, vae, text, segmenter)
    ]
    assert millions == [859.5, 361.3, 83.7, 123.1, 84.7]
    assert sum(p.numel() for p in ours.parameters()) > sum(p.numel() for p in unet.parameters())
