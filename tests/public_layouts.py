"""Tiny random checkpoints in the publishers' layouts: Stable Diffusion 1.5's folder, ControlNet and SegFormer as .bin only, LCM-LoRA."""

from __future__ import annotations

import json

import torch
from conftest import UNET, tiny_components
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, SegformerConfig, SegformerForSemanticSegmentation

from sisrm.assembly import Parts
from sisrm.labels import CLASS_NAMES

PLAIN = {**UNET, "block_out_channels": (8, 16, 16, 16), "layers_per_block": 1}
PLAIN["down_block_types"] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
PLAIN["up_block_types"] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
LORA = "pytorch_lora_weights.safetensors"


def write_parts(root) -> Parts:
    """SD 1.5's folder, a ControlNet and a SegFormer as .bin only, and a SAPE, all at 8 to 16 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sd = root / "sd"
        unet = UNet2DConditionModel(**PLAIN)
        unet.save_pretrained(sd / "unet", variant="fp16")
        vae = AutoencoderKL(
            block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, sample_size=128,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215,
        )  # fmt: skip
        vae.save_pretrained(sd / "vae")
        PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ).save_pretrained(sd / "scheduler")
        text = CLIPTextConfig(
            vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        CLIPTextModel(text).save_pretrained(sd / "text_encoder")
        write_tokenizer(sd / "tokenizer")
        controlnet = ControlNetModel.from_unet(unet)
        for parameter in controlnet.controlnet_down_blocks.parameters():
            torch.nn.init.normal_(parameter)  # as a trained one: without it every residual would be zero
        controlnet.save_pretrained(root / "tile")
        pickle_alone(root / "tile", "diffusion_pytorch_model")
        segmenter = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_labels=len(CLASS_NAMES), hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2],
                decoder_hidden_size=16,
            )
        )  # fmt: skip
        segmenter.save_pretrained(root / "b5")
        pickle_alone(root / "b5", "pytorch_model", "model")
        tiny_components()["sape"].save_pretrained(root / "sape")
    return Parts(sd, root / "tile", root / "b5", root / "sape")


def write_tokenizer(folder) -> None:
    """CLIP's files: a byte-pair vocabulary of a few letters, vocab.json and merges.txt."""
    folder.mkdir(parents=True)
    ends = ["<|startoftext|>", "<|endoftext|>"]
    letters = [letter + end for letter in "abcdefghijklmnop," for end in ("", "</w>")]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(ends + letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "bos_token": ends[0], "eos_token": ends[1],
                    "unk_token": ends[1], "pad_token": ends[1]})
    )  # fmt: skip
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": ends[0], "eos_token": ends[1], "unk_token": ends[1], "pad_token": ends[1]})
    )


def pickle_alone(folder, name: str, stem: str = "diffusion_pytorch_model") -> None:
    """Replace safetensors by the .bin that some publishers have alone."""
    path = folder / f"{stem}.safetensors"
    torch.save(load_file(path), folder / f"{name}.bin")
    path.unlink()


def write_lora(folder, kohya: bool = True) -> None:
    """A LoRA on the U-Net's attention, feed-forward and convolutions, in the layout of latent-consistency (kohya's) or of diffusers."""
    folder.mkdir(exist_ok=True)
    state, generator = {}, torch.Generator().manual_seed(1)
    for name, module in UNet2DConditionModel(**PLAIN).named_modules():
        if not name.endswith(
            ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut")
        ):
            continue
        weight = module.weight
        down, up = (2, *weight.shape[1:]), (weight.shape[0], 2, *([1] * (weight.ndim - 2)))
        tensors = torch.randn(down, generator=generator), torch.randn(up, generator=generator)
        if kohya:
            key = "lora_unet_" + name.replace(".", "_")
            state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"] = tensors
            state[f"{key}.alpha"] = torch.tensor(1.0)
        else:
            state[f"unet.{name}.lora_A.weight"], state[f"unet.{name}.lora_B.weight"] = tensors
    save_file(state, folder / LORA)
