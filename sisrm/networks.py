"""The pipeline's calls of its networks, each a function of tensors; where `replay` is set, on a GPU, each is one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

import torch
from diffusers import DiffusionPipeline

from sisrm.attention import SEGMENTATION_TOKENS
from sisrm.color import Statistics, adain_fix, wavelet_fix
from sisrm.coring import core_detail
from sisrm.image_encoder import ImageEncoding
from sisrm.remembering import once, once_a_run
from sisrm.replay import Replay, Tensors
from sisrm.resize import enlarge
from sisrm.sape import segmenter_input
from sisrm.semantics import SEGMENTER_SIDE, Reading


class Networks:
    """Mixed into SISRMPipeline.

    replay: `sisrm.runtime.accelerate` sets it; None runs every network as it is.
    """

    replay: Replay | None = None

    @property
    def _execution_device(self) -> torch.device:
        """As diffusers finds it, by a walk through all modules that takes as long as a small network: once a run, and not at all where the
        U-Net lies on a GPU, as parts that take turns there lie on the CPU meanwhile."""
        device = next(self.unet.parameters()).device
        if device.type == "cuda":
            return device
        return once_a_run("device", lambda: DiffusionPipeline._execution_device.fget(self))

    def to(self, *args, **kwargs):
        """As diffusers' pipelines; recordings know where the networks lay, so they are given up."""
        if self.replay is not None:
            self.replay.forget()
        return super().to(*args, **kwargs)

    def replayed(self, name: Hashable, function: Callable[..., Tensors], *given: torch.Tensor | None) -> Tensors:
        """`function(*given)`; see `Replay.__call__`."""
        return function(*given) if self.replay is None else self.replay(name, function, *given)

    def reading_of(self, lr_image: torch.Tensor) -> Reading:
        """Eq 1 and 2 on (B, 3, h, w) in [0, 1]: what segmenter and SAPE see."""

        def see(pixels: torch.Tensor) -> Tensors:
            probabilities = self.segmenter(pixels).logits.float().softmax(1)
            mask_embedding, logits = self.sape(probabilities.to(_dtype_of(self.sape)))
            return probabilities, self.sape.tokens(mask_embedding), logits.float().softmax(1)

        pixels = segmenter_input(lr_image, SEGMENTER_SIDE).to(_dtype_of(self.segmenter))
        return Reading(*self.replayed("SAPE", see, pixels))

    def encode_prompt(self, prompt: list[str]) -> torch.Tensor:
        """E_t (eq 3): B strings -> (B, L, cross_attention_dim)."""
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        tokens = tokens.input_ids.to(self._execution_device)
        return self.replayed("text encoder", lambda tokens: (self.text_encoder(tokens)[0],), tokens)[0]

    def encode_image(self, lr_image: torch.Tensor) -> ImageEncoding:
        """E_i (eq 4) of the padded LR image, with latents scaled for diffusion, in float32."""

        def own(pixels: torch.Tensor) -> Tensors:
            encoding = self.image_encoder(pixels)
            return encoding.features, encoding.latents, encoding.condition, encoding.lr_image

        def of_vae(pixels: torch.Tensor) -> Tensors:
            return (self.vae.encode(pixels).latent_dist.mode(),)

        if self.image_encoder is not None:
            encoding = ImageEncoding(*self.replayed("image encoder", own, lr_image.to(_dtype_of(self.image_encoder))))
        else:
            enlarged = enlarge(lr_image)
            (latents,) = self.replayed("VAE encode", of_vae, (enlarged * 2 - 1).to(_dtype_of(self.vae)))
            encoding = ImageEncoding(features=None, latents=latents, condition=enlarged, lr_image=lr_image)
        latents = encoding.latents.float() * self.vae.config.scaling_factor
        return replace(encoding, latents=latents, lr_image=encoding.lr_image.float())

    def guided_denoise(
        self, latents, segmentation_tokens, condition, mask, timestep, prompt_embeds, guidance_scale, conditioning_scale
    ) -> torch.Tensor:
        """`denoise` with classifier-free guidance, off at 1; `prompt_embeds` holds the negative prompt first where it is on."""
        guided = guidance_scale > 1.0
        if guided:
            latents = torch.cat([latents] * 2)
            segmentation_tokens, condition, mask = (
                None if given is None else once("twice", given, lambda given=given: torch.cat([given] * 2))
                for given in (segmentation_tokens, condition, mask)
            )
        prediction = self.denoise(
            latents, timestep, prompt_embeds, segmentation_tokens, condition, mask, conditioning_scale
        )
        if not guided:
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def denoise(
        self, latents, timestep, prompt_embeds, segmentation_tokens, condition, mask, conditioning_scale: float = 1.0
    ) -> torch.Tensor:
        """IT2IC's prediction for one timestep, float32. `segmentation_tokens` None: without SCA; `mask` None: without MFF (M = 1)."""
        dtype = _dtype_of(self.unet)
        inputs = self.scheduler.scale_model_input(latents, timestep).to(dtype)
        text, tokens, condition = (
            given if given is None or given.dtype == dtype else once(dtype, given, partial(given.to, dtype))
            for given in (prompt_embeds, segmentation_tokens, condition)
        )
        predict = partial(self._predict, conditioning_scale)
        given = inputs, timestep.to(inputs.device), text, tokens, condition, mask
        return self.replayed(("denoising", conditioning_scale), predict, *given)[0]

    def _predict(self, conditioning_scale: float, inputs, timestep, text, tokens, condition, mask) -> Tensors:
        sca = None if tokens is None else {SEGMENTATION_TOKENS: tokens}
        down = mid = None
        if conditioning_scale:
            down, mid = self.controlnet(
                inputs,
                timestep,
                encoder_hidden_states=text,
                controlnet_cond=condition,
                conditioning_scale=conditioning_scale,
                cross_attention_kwargs=sca,
                return_dict=False,
            )
            down, mid = (tuple(down), mid) if mask is None else self.mff(down, mid, mask)
        prediction = self.unet(
            inputs,
            timestep,
            encoder_hidden_states=text,
            cross_attention_kwargs=sca,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return (prediction.float(),)

    def decode_latents(self, latents: torch.Tensor, encoding: ImageEncoding | None = None) -> torch.Tensor:
        """Scaled latents -> (B, 3, H, W) float32 around [0, 1]; the decoder sees the LR features where it has a place for them."""

        def decode(latents: torch.Tensor, features: torch.Tensor | None) -> Tensors:
            seen = {} if features is None else {"lr_features": features}
            return (self.vae.decode(latents, **seen).sample.float() / 2 + 0.5,)

        latents = (latents / self.vae.config.scaling_factor).to(_dtype_of(self.vae))
        return self.replayed("VAE decode", decode, latents, None if encoding is None else encoding.features)[0]

    def finish_image(
        self,
        result: torch.Tensor,
        lr_image: torch.Tensor,
        clean_lr: torch.Tensor,
        color_fix: str,
        strength: float = 1.0,
        statistics: Statistics | None = None,
        detail_strength: float = 1.0,
    ) -> torch.Tensor:
        """Decoded (B, 3, 4h, 4w) -> the picture, in [0, 1]: low frequencies ("wavelet", `color_fix_levels` of them) or statistics
        ("adain") of `clean_lr`, the LR image without its noise; faint texture that `lr_image` (B, 3, h, w) lacks taken back; and what is
        left of the difference to `lr_image`, in those low frequencies, times `detail_strength`. `statistics`: of the whole picture, where
        this is a part of it."""
        levels, coring = self.config.color_fix_levels, self.config.coring

        def finish(result: torch.Tensor, lr_image: torch.Tensor, clean_lr: torch.Tensor) -> Tensors:
            reference = enlarge(clean_lr) if color_fix != "none" or detail_strength != 1 else None
            if color_fix == "adain":
                result = adain_fix(result, reference, strength, statistics)
            elif color_fix == "wavelet":
                result = wavelet_fix(result, reference, strength, levels=levels)
            if coring:
                result = core_detail(result, enlarge(lr_image), coring)
            if detail_strength != 1:
                # Of `clean_lr` training sees the low frequencies alone.
                plain = wavelet_fix(enlarge(lr_image), reference, levels=levels)
                result = torch.lerp(plain, result, float(detail_strength))
            return (result.clamp(0, 1),)

        if statistics is not None:
            return finish(result, lr_image, clean_lr)[0]
        name = ("finish", color_fix, strength, detail_strength, levels, coring)
        return self.replayed(name, finish, result, lr_image, clean_lr)[0]


def _dtype_of(module: torch.nn.Module) -> torch.dtype:
    """Of its first weight; `module.dtype` of diffusers walks through all of them."""
    return next(module.parameters()).dtype
