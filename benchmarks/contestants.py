"""What is timed: networks with random weights, each as the parts that one image passes, and how often it passes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn

from benchmarks.rrdb import RRDB
from sisrm.evaluation.complexity import probe_image, wait_for
from sisrm.pipeline import SISRMPipeline
from sisrm.public_parts import VAE, building_in
from sisrm.replay import Replay

SD21_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
"""Stable Diffusion 2.1-base's U-Net where it differs from diffusers' defaults: 866 M parameters."""
TOKENS = 77  # of the text encoder, in every Stable Diffusion


@dataclass
class Part:
    """work: one pass over one image. passes: how often one image needs it; their time and operations are multiplied, not run."""

    name: str
    work: Callable[[], object]
    passes: int = 1


@dataclass
class Contestant:
    """modules: every network of it, to count parameters. note: what its figures leave out."""

    name: str
    parts: list[Part]
    modules: list[nn.Module] = field(default_factory=list)
    note: str = ""

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for module in self.modules for weight in module.parameters())


def ours(pipe: SISRMPipeline, size: int) -> Contestant:
    """The pipeline at its default settings, everything included: PIL image in, PIL image out."""
    image, device = probe_image(size), torch.device(pipe._execution_device)

    def work() -> None:
        pipe(image, generator=torch.Generator("cpu").manual_seed(0))
        wait_for(device)

    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    settings = "{num_inference_steps} steps, guidance {guidance_scale:g}".format(**pipe.defaults)
    return Contestant(f"SISRM {pipe.preset}, {settings}", [Part("whole call", work)], modules)


def real_esrgan(
    size: int, device: torch.device, dtype: torch.dtype, replay: Replay | None = None, **config
) -> Contestant:
    """Real-ESRGAN x4plus' network. replay: records it, as it does ours. config: overrides of its size."""
    network = _ready(RRDB, config, device, dtype)
    image = _noise((1, 3, size, size), device, dtype)
    return Contestant("Real-ESRGAN x4plus' network", [Part("network", _call(network, device, image, replay=replay))], [network])


def stable_diffusion(
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    replay: Replay | None = None,
    unet: dict | None = None,
    vae: dict | None = None,
) -> list[Contestant]:
    """SeeSR's and OSEDiff's settings on Stable Diffusion 2.1's networks, which they share here. replay: records them, as it does ours.
    unet, vae: other configurations.

    SeeSR: VAE encoder, 50 steps of ControlNet and U-Net with both guidance branches, VAE decoder. OSEDiff: VAE encoder, one step of
    the U-Net without guidance, VAE decoder. Their tag models, text encoders and additional attention layers are left out.
    """
    unet, vae = SD21_UNET if unet is None else unet, VAE if vae is None else vae
    net, autoencoder = _ready(UNet2DConditionModel, unet, device, dtype), _ready(AutoencoderKL, vae, device, dtype)
    with building_in(dtype):
        controlnet = ControlNetModel.from_unet(net, load_weights_from_unet=False)
    controlnet = controlnet.to(device, memory_format=torch.channels_last).eval()
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    image = _noise((1, 3, 4 * size, 4 * size), device, dtype)
    latents = _noise((1, net.config.in_channels, 4 * size // factor, 4 * size // factor), device, dtype)

    def text(batch: int) -> torch.Tensor:
        return _noise((batch, TOKENS, net.config.cross_attention_dim), device, dtype)

    timestep = torch.tensor(500, device=device)

    def guided_step(latents: torch.Tensor, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        two = torch.cat([latents] * 2)
        down, mid = controlnet(two, timestep, words, torch.cat([image] * 2), return_dict=False)
        return net(two, timestep, words, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    def plain_step(latents: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return net(latents, timestep, words).sample

    def part(name: str, network: Callable, *inputs: torch.Tensor, passes: int = 1) -> Part:
        return Part(name, _call(network, device, *inputs, replay=replay), passes)

    encode = part("VAE encoder", lambda image: autoencoder.encode(image).latent_dist.mode(), image)
    decode = part("VAE decoder", lambda latents: autoencoder.decode(latents).sample, latents)
    guided = part("guided step, ControlNet and U-Net", guided_step, latents, image, text(2), passes=50)
    left_out = "without its tag model, text encoder and"
    return [
        Contestant(
            "SeeSR's settings on SD 2.1's networks",
            [encode, guided, decode],
            [net, autoencoder, controlnet],
            f"{left_out} attention to image tags",
        ),
        Contestant(
            "OSEDiff's settings on SD 2.1's networks",
            [encode, part("step, U-Net", plain_step, latents, text(1)), decode],
            [net, autoencoder],
            f"{left_out} LoRA (merged)",
        ),
    ]


def _ready(kind, config: dict, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A network with random weights as `sisrm.runtime.prepare` would have it."""
    with building_in(dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(**config)
    return network.to(device, memory_format=torch.channels_last).eval()


def _noise(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _call(network: Callable, device: torch.device, *inputs: torch.Tensor, replay: Replay | None) -> Callable[[], None]:
    """One pass without gradients, finished when it returns."""

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor]:
        return (network(*inputs),)

    @torch.no_grad()
    def work() -> None:
        run(*inputs) if replay is None else replay(run, run, *inputs)
        wait_for(device)

    return work
