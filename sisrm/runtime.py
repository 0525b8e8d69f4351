"""Where and how a pipeline runs: device, precision, attention backend and CUDA graphs, chosen by trying, and a report of the choice."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.vae import AutoencoderMixin
from diffusers.utils import is_xformers_available

from sisrm.errors import ParameterError
from sisrm.pipeline import SISRMPipeline
from sisrm.replay import LIMIT, Replay
from sisrm.startup import on_zero_gpu
from sisrm.threads import limit_threads

logger = logging.getLogger(__name__)

OFFLOAD_BELOW = 8 * 2**30  # bytes of GPU memory
LARGE_WEIGHTS = 2**30  # bytes of weights from which moving them in turns is worth its time

ACCELERATIONS = ("off", "graphs", "inductor")
"""off: every network as it is. graphs: each recorded as a CUDA graph where a size comes again. inductor: U-Net and ControlNet through
torch.compile, which takes minutes on the first call, on a GPU recorded as well."""


@dataclass(frozen=True)
class Acceleration:
    """name: of ACCELERATIONS; reason: why, in words."""

    name: str
    reason: str


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


def asked_acceleration(given: str | None, otherwise: str = "off") -> str:
    """What was given, or SISRM_COMPILE, or `otherwise`. Raises ParameterError for what is none of ACCELERATIONS."""
    name = given or os.environ.get("SISRM_COMPILE") or otherwise
    if name not in ACCELERATIONS:
        raise ParameterError("compile" if given else "SISRM_COMPILE", name, f"one of {', '.join(ACCELERATIONS)}")
    return name


def choose_acceleration(name: str, device: torch.device, in_turns: bool) -> Acceleration:
    """What of ACCELERATIONS is used where `name` is asked for. in_turns: whether components take turns on the device."""
    if name == "off":
        return Acceleration(name, "not asked for")
    if on_zero_gpu() and name == "graphs":
        return Acceleration("off", "on ZeroGPU every job has a process of its own, which would begin anew")
    if in_turns:
        return Acceleration("off", "components take turns on the device, so they have no fixed place there")
    if name == "graphs" and device.type != "cuda":
        return Acceleration("off", f"{device.type} has no CUDA graphs")
    return Acceleration(name, "asked for, ahead of time" if on_zero_gpu() else "asked for")


def choose_attention_backend(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """xformers where one tiny attention runs with it, else PyTorch's SDPA.

    xformers imports without a usable kernel and raises only when it is called, so it is called.
    """
    if device.type != "cuda":
        return AttentionBackend("sdpa", f"xformers has no kernels for {device.type}")
    if on_zero_gpu():
        return AttentionBackend("sdpa", "on ZeroGPU there is no GPU yet to try xformers with")
    if not is_xformers_available():
        return AttentionBackend("sdpa", "xformers is not installed")
    try:
        import xformers.ops

        # In the run's type, and in the shape and type that diffusers tries, and stumbles over, before it switches xformers on.
        for shape, kind in (((1, 8, 1, 32), dtype), ((1, 2, 40), torch.float32)):
            query = torch.zeros(shape, device=device, dtype=kind)
            xformers.ops.memory_efficient_attention(query, query, query)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        return AttentionBackend("sdpa", f"xformers does not run here: {str(error).splitlines()[0][:120]}")
    return AttentionBackend("xformers", "a test attention ran with it")


def prepare(pipe: SISRMPipeline, device: torch.device, compile: str = "off") -> SISRMPipeline:
    """Move a pipeline to its device and set threads, memory format and attention backend, SCA's attention included. compile: of
    ACCELERATIONS; with recordings, call `pipe.replay.forget()` after a network was changed for another.

    On a GPU with less than 8 GB a large pipeline's components take turns on it. A decoder that can work in tiles and
    slices does; images of up to its tile size (512 pixels for Stable Diffusion's) come out the same.
    """
    limit_threads()
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    in_turns = offloads(device, sum(value.nbytes for part in modules for value in part.parameters()))
    if in_turns:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if isinstance(pipe.vae, AutoencoderMixin):
        pipe.vae.enable_tiling()
        pipe.vae.enable_slicing()
    for component in (pipe.vae, pipe.unet, pipe.controlnet, pipe.image_encoder, pipe.segmenter):
        if component is not None:
            component.to(memory_format=torch.channels_last)
    acceleration = choose_acceleration(compile, device, in_turns)
    backend = choose_attention_backend(device, pipe.unet.dtype)
    if acceleration.name == "inductor":
        backend = AttentionBackend("sdpa", "torch.compile does not see into xformers' kernels")
        if not on_zero_gpu():  # there the app compiles ahead of time, once it has a GPU
            pipe.unet.compile()
            pipe.controlnet.compile()
    if backend.name == "xformers":
        pipe.enable_xformers_memory_efficient_attention()
    if acceleration.name != "off" and device.type == "cuda" and not on_zero_gpu():
        # On a small GPU what recordings hold would be missed by larger pictures.
        pipe.replay = Replay(limit=min(LIMIT, torch.cuda.get_device_properties(device).total_memory // 8))
    pipe.attention_backend, pipe.acceleration = backend, acceleration
    logger.info("running on %s in %s with %s (%s)", device, pipe.unet.dtype, backend.name, backend.reason)
    logger.info("compile: %s (%s)", acceleration.name, acceleration.reason)
    return pipe


def offloads(device: torch.device, weights: int) -> bool:
    """Whether components take turns on a device: `weights` bytes are many and its memory is little."""
    if device.type != "cuda" or weights < LARGE_WEIGHTS:
        return False
    return torch.cuda.get_device_properties(device).total_memory < OFFLOAD_BELOW


def describe(pipe: SISRMPipeline) -> dict[str, object]:
    """What runs here, for people: preset, device, dtype, attention_backend, attention_reason, compile, weights, trained_parts."""
    backend = getattr(pipe, "attention_backend", AttentionBackend("sdpa", "PyTorch's default"))
    acceleration = getattr(pipe, "acceleration", Acceleration("off", "PyTorch's default"))
    return {
        "preset": getattr(pipe, "preset", None),
        "device": str(pipe._execution_device),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "attention_backend": backend.name,
        "attention_reason": backend.reason,
        "compile": acceleration.name,
        "weights": getattr(pipe, "weights", None),
        "trained_parts": trained_parts(pipe),
    }


def trained_parts(pipe: SISRMPipeline) -> dict[str, bool]:
    """Which of the method's own parts are trained. One that still has its zero initialisation is an exact identity.

    A part that came with public weights (`public_parts` in the pipeline's configuration) counts once SCA has left its
    zeros, as eq 9 trains them together. Without a component of its own the image encoder is the ControlNet's.
    """
    sca = any(
        bool(value.any())
        for key, value in pipe.unet.state_dict().items()
        if "segmentation_attention.to_out.0.weight" in key
    )
    controlnet = any(bool(value.detach().any()) for value in pipe.controlnet.controlnet_down_blocks.parameters())
    encoder = controlnet
    if pipe.image_encoder is not None:
        encoder = bool(pipe.image_encoder.blocks[0].conv2.weight.detach().any())
    public = pipe.config.public_parts.split()
    return {
        "sca": sca,
        "controlnet": controlnet and (sca or "controlnet" not in public),
        "image_encoder": encoder and (sca or "image_encoder" not in public),
    }
