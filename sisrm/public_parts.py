"""The public parts that the `sd` preset is made of: where they are, at which commit, and how they are built.

The commits are what the hub's `main` pointed at when they were pinned; a file that a publisher changes later does not
change a result here. The configurations below are those of the pinned commits, written down so that full-size networks
can be built with random weights where the hub cannot be reached (`random_components`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from transformers import CLIPTextConfig, CLIPTextModel, SegformerConfig, SegformerForSemanticSegmentation

from sisrm.controlnet import SegmentationControlNet
from sisrm.errors import WeightsError
from sisrm.labels import CLASS_NAMES
from sisrm.mff import MaskFeatureFusion
from sisrm.sape import SAPE
from sisrm.unet import SegmentationUNet


@dataclass(frozen=True)
class PublicPart:
    """One public repository. revision: a full commit; files: what is read of it, nothing else is downloaded."""

    repository: str
    revision: str
    files: tuple[str, ...]


PINS: dict[str, PublicPart] = {
    "stable_diffusion": PublicPart(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        (
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "scheduler/scheduler_config.json",
        ),
    ),
    # This one and the next exist only as .bin at their commits.
    "controlnet": PublicPart(
        "lllyasviel/control_v11f1e_sd15_tile",
        "3f877705c37010b7221c3d10743307d6b5b6efac",
        ("config.json", "diffusion_pytorch_model.bin"),
    ),
    "segmenter": PublicPart(
        "nvidia/segformer-b5-finetuned-ade-640-640",
        "739f5d4692954e4a185eac280dec1ba5a7d52f1d",
        ("config.json", "pytorch_model.bin"),
    ),
    "lcm_lora": PublicPart(
        "latent-consistency/lcm-lora-sdv1-5",
        "cf2fced511dbe7e26c8d1d397e728fbab875db4b",
        ("pytorch_lora_weights.safetensors",),
    ),
}


def fetch(part: PublicPart) -> Path:
    """The folder with the part's files, from the local cache or downloaded.

    Raises WeightsError, naming the file and the repository, where neither works.
    """
    for name in part.files:
        try:
            path = Path(hf_hub_download(part.repository, name, revision=part.revision))
        except (HTTPError, OSError, ValueError) as error:
            raise WeightsError(
                f"{part.repository}/{name}: not in the local cache, and not downloaded ({type(error).__name__}); "
                f"expected at commit {part.revision[:12]}. A network is needed once"
            ) from error
    return path.parents[len(Path(name).parts) - 1]


def missing_files(part: PublicPart) -> list[str]:
    """The part's files that are not in the local cache; asks no network."""
    cached = {name: try_to_load_from_cache(part.repository, name, revision=part.revision) for name in part.files}
    return [name for name, path in cached.items() if not isinstance(path, str)]


def fetch_weights(location: str) -> Path:
    """The folder of trained SISRM weights: a local one, or a hub repository, "owner/name" or "owner/name@commit".

    Raises WeightsError where it is neither. Only .json and .safetensors files are downloaded.
    """
    if Path(location).is_dir():
        return Path(location)
    repository, _, revision = location.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise WeightsError(
            f"{Path(location).name}: expected a folder with SISRM weights or a hub repository owner/name"
        )
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=["*.json", "*.safetensors"])
        )
    except (HTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"{location}: not in the local cache, and not downloaded ({type(error).__name__}); expected a folder with "
            "SISRM weights or a hub repository owner/name"
        ) from error


UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # heads per level: the U-Net's historical name for it
    "norm_num_groups": 32,
}

CONTROLNET = {
    **{name: UNET[name] for name in UNET if name not in ("sample_size", "out_channels", "up_block_types")},
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
}

VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}

TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}

SEGMENTER = {
    "depths": [3, 6, 40, 3],
    "hidden_sizes": [64, 128, 320, 512],
    "num_attention_heads": [1, 2, 5, 8],
    "decoder_hidden_size": 768,
    "id2label": dict(enumerate(CLASS_NAMES)),
    "label2id": {name: index for index, name in enumerate(CLASS_NAMES)},
}

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def random_components(tokenizer, dtype: torch.dtype = torch.bfloat16) -> dict[str, object]:
    """Every component of the `sd` preset at its true size with random weights, built directly in `dtype`.

    Args:
        tokenizer: any that pads to at most 77 tokens; which words it knows does not change the work.
    """
    with building_in(dtype):
        unet = SegmentationUNet(**UNET)
        components = {
            "unet": unet,
            "controlnet": SegmentationControlNet(**CONTROLNET),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)),
            "segmenter": SegformerForSemanticSegmentation(SegformerConfig(**SEGMENTER)),
            "sape": SAPE(cross_attention_dim=UNET["cross_attention_dim"]),
            "mff": MaskFeatureFusion(),
        }
    tokenizer.model_max_length = TEXT_ENCODER["max_position_embeddings"]
    modules = {name: module.eval() for name, module in components.items()}
    return {**modules, "tokenizer": tokenizer, "scheduler": DDIMScheduler(**SCHEDULER), "image_encoder": None}


@contextmanager
def building_in(dtype: torch.dtype) -> Iterator[None]:
    """New parameters have this type while the block runs: half the memory of building in float32 and casting."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
