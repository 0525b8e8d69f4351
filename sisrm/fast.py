"""The fast mode: a consistency LoRA merged into the U-Net, so that 4 to 8 steps do the work of 20 (LCM-LoRA, arXiv 2311.05556)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import LCMScheduler
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from sisrm.errors import WeightsError
from sisrm.pipeline import SISRMPipeline

STEPS, GUIDANCE_SCALE = 4, 1.0  # the model card's: guidance is distilled into the LoRA, so one branch is enough


def make_fast(pipe: SISRMPipeline, lora: Path) -> SISRMPipeline:
    """Merge a LoRA into the pipeline's U-Net, and set the scheduler and the call's defaults that go with it.

    Args:
        pipe: on any device; its U-Net is changed in place.
        lora: a .safetensors file in kohya's or diffusers' layout, for the same U-Net.
    Raises:
        WeightsError: the file is missing, or a key in it has no counterpart in the U-Net.
    """
    try:
        state = load_file(lora)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{lora.name}: missing or unreadable; expected an LCM-LoRA in safetensors") from error
    downs = [key for key in state if key.endswith(("lora_down.weight", "lora.down.weight", "lora_A.weight"))]
    unet, dtype = pipe.unet, pipe.unet.dtype
    unet.float()  # a product of two small matrices, added to large weights: rounded once, at the end
    try:
        converted, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(state, unet_config=unet.config)
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(converted, alphas, unet, adapter_name="fast")
        layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        if not downs or len(layers) != len(downs):
            raise WeightsError(f"{lora.name}: {len(layers)} of its {len(downs)} layers are in the U-Net; expected all")
        with torch.no_grad():
            unet.fuse_lora()
        unet.unload_lora()
    except (ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{lora.name}: {str(error).strip().splitlines()[0]}; expected a LoRA of this U-Net"
        ) from error
    unet.to(dtype)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.register_to_config(num_inference_steps=STEPS, guidance_scale=GUIDANCE_SCALE)
    return pipe
