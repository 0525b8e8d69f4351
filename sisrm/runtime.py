"""Where and how a pipeline runs: device, precision and attention backend, chosen by trying, and a report of the choice."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from diffusers.utils import is_xformers_available

from sisrm.errors import ParameterError
from sisrm.pipeline import SISRMPipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionBackend:
    """name: "xformers" or "sdpa"; reason: why, in words."""

    name: str
    reason: str


def choose_device(name: str | None = None) -> torch.device:
    """The named device, or the first CUDA device, or the CPU. Raises ParameterError for one that this machine does not have."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError("device", name, "cpu, or cuda / cuda:N where PyTorch finds such a device") from error
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (4x float32's speed on such CPUs), float16 on older GPUs, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def choose_attention_backend(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """xformers where one tiny attention runs with it, else PyTorch's SDPA.

    xformers imports without a usable kernel and raises only when it is called, so it is called.
    """
    if device.type != "cuda":
        return AttentionBackend("sdpa", f"xformers has no kernels for {device.type}")
    if not is_xformers_available():
        return AttentionBackend("sdpa", "xformers is not installed")
    try:
        import xformers.ops

        query = torch.zeros(1, 8, 1, 32, device=device, dtype=dtype)
        xformers.ops.memory_efficient_attention(query, query, query)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        return AttentionBackend("sdpa", f"xformers does not run here: {str(error).splitlines()[0][:120]}")
    return AttentionBackend("xformers", "a test attention ran with it")


def prepare(pipe: SISRMPipeline, device: torch.device) -> SISRMPipeline:
    """Move a pipeline to its device and set memory format and attention backend, SCA's attention included."""
    pipe.to(device)
    for component in (pipe.vae, pipe.unet, pipe.controlnet, pipe.image_encoder, pipe.segmenter):
        if component is not None:
            component.to(memory_format=torch.channels_last)
    backend = choose_attention_backend(device, pipe.unet.dtype)
    if backend.name == "xformers":
        pipe.enable_xformers_memory_efficient_attention()
    pipe.attention_backend = backend
    logger.info("running on %s in %s with %s (%s)", device, pipe.unet.dtype, backend.name, backend.reason)
    return pipe


def describe(pipe: SISRMPipeline) -> dict[str, object]:
    """What runs here, for people: preset, device, dtype, attention_backend, attention_reason, weights, trained_parts."""
    backend = getattr(pipe, "attention_backend", AttentionBackend("sdpa", "PyTorch's default"))
    return {
        "preset": getattr(pipe, "preset", None),
        "device": str(pipe.device),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "attention_backend": backend.name,
        "attention_reason": backend.reason,
        "weights": getattr(pipe, "weights", None),
        "trained_parts": trained_parts(pipe),
    }


def trained_parts(pipe: SISRMPipeline) -> dict[str, bool]:
    """Which of the method's own parts have left their zero initialisation: an untrained one is an exact identity."""
    sca = [value for key, value in pipe.unet.state_dict().items() if "segmentation_attention.to_out.0.weight" in key]
    zero_convolutions = [*pipe.controlnet.controlnet_down_blocks.parameters()]
    return {
        "sca": any(bool(value.any()) for value in sca),
        "controlnet": any(bool(value.detach().any()) for value in zero_convolutions),
        "image_encoder": pipe.image_encoder is not None
        and bool(pipe.image_encoder.blocks[0].conv2.weight.detach().any()),
    }
