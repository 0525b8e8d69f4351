"""SISRMPipeline: the whole inference (s2.1, eq 5) as one numbered list.

    I_SR = Diffusion(F_fuse(E_m, E_t, E_i))   (eq 5)

E_m comes from SAPE (eq 1), E_t from the label prompt through the text encoder (eq 2, 3), E_i from the image encoder (eq 4); they meet in
IT2IC (eq 7, 8) and in mask feature fusion (eq 10). Demo, command line, evaluation and training all go through this call.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from sisrm.assembly import Parts, assemble
from sisrm.checks import require_integer, require_number
from sisrm.errors import ImageError, Interrupted, ParameterError
from sisrm.images import MIN_SIDE, prepare_image
from sisrm.networks import Networks
from sisrm.remembering import remembering
from sisrm.resize import SCALE, pad_to_multiple
from sisrm.sape import Label
from sisrm.schedulers import clean_estimate
from sisrm.semantics import Reading, SegmentationOutput, Semantics, given_labels
from sisrm.tiled_steps import Conditions, TiledSteps
from sisrm.tiling import LARGEST_TILE, SMALLEST_TILE, Tiles

# Not used here: from_pretrained takes component classes only from modules that are imported already.
from sisrm.autoencoder import CompactAutoencoder  # noqa: F401  # isort: skip
from sisrm.controlnet import SegmentationControlNet  # noqa: F401  # isort: skip
from sisrm.mff import MaskFeatureFusion  # noqa: F401  # isort: skip
from sisrm.unet import SegmentationUNet  # noqa: F401  # isort: skip

COLOR_FIXES = ("wavelet", "adain", "none")


@dataclass
class SISRMOutput(BaseOutput):
    """Result of a run. Lists hold one entry per image; with output_type "np" or "pt", `images` is one array or tensor.

    mff_mask: (4h, 4w) bool, the region M of eq 10. seed: of the start noise, enough to repeat the run.
    timings: seconds per part of the call. tiles: how many the picture was worked on in; tile_size: their largest side, LR pixels.
    notices: codes of `sisrm.images.NOTICES`; "smaller_tiles" where memory was short.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    class_map: list[np.ndarray]
    labels: list[list[Label]]
    mff_mask: list[np.ndarray]
    prompt: list[str]
    seed: list[int]
    timings: dict[str, float]
    tiles: int = 1
    tile_size: int = 0
    notices: list[str] = field(default_factory=list)


@dataclass
class _Clock:
    """Seconds per named part of one call."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str):
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - started


class SISRMPipeline(Networks, TiledSteps, DiffusionPipeline):
    """Semantic-aware interactive diffusion: a small or damaged photo in, the same photo four times larger per side out.

    The keyword arguments of the constructor are the call's defaults; they travel with the weights in `model_index.json`.
    `image_encoder` may be None: then the ControlNet reads the enlarged LR image and denoising starts from its encoded latents,
    as with Stable Diffusion's own parts.
    """

    model_cpu_offload_seq = (
        "segmenter->sape->text_encoder->image_encoder->unet->vae"  # the ControlNet stays with the U-Net
    )
    _optional_components = ["image_encoder"]

    def __init__(
        self,
        vae,
        text_encoder,
        tokenizer,
        unet,
        controlnet,
        segmenter,
        sape,
        mff,
        scheduler,
        image_encoder=None,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.5,
        top_k: int = 5,
        label_floor: float = 0.0,
        start_strength: float = 1.0,
        color_fix_levels: int = 5,
        coring: float = 0.0,
        tile_size: int = 256,
        free_text: bool = False,
        added_prompt: str = "",
        negative_prompt: str = "",
        public_parts: str = "",
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            image_encoder=image_encoder,
            segmenter=segmenter,
            sape=sape,
            mff=mff,
            scheduler=scheduler,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            top_k=top_k,
            label_floor=label_floor,
            start_strength=start_strength,
            color_fix_levels=color_fix_levels,
            coring=coring,
            tile_size=tile_size,
            free_text=free_text,
            added_prompt=added_prompt,
            negative_prompt=negative_prompt,
            public_parts=public_parts,
        )
        self.interrupt = False

    @classmethod
    def from_parts(cls, parts: Parts) -> SISRMPipeline:
        """Assembled from public Stable Diffusion parts and SISRM's own, in float32; see `sisrm.assembly.assemble`."""
        return cls(**assemble(parts))

    @property
    def defaults(self) -> dict[str, float | int]:
        """What a call uses for the arguments left at None."""
        return {
            name: self.config[name] for name in ("num_inference_steps", "guidance_scale", "top_k", "start_strength")
        }

    @property
    def lr_multiple(self) -> int:
        """LR sides are padded to a multiple of this: what the U-Net's downsamplings and the latents' factor of 8 / 4 ask for."""
        return 2 ** len(self.unet.config.block_out_channels)

    @torch.no_grad()
    @remembering()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image] | torch.Tensor,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        top_k: int | None = None,
        use_mff: bool = True,
        use_sca: bool = True,
        use_sape: bool = True,
        labels: Sequence[str] | Sequence[Sequence[str]] | None = None,
        extend_labels: bool = False,
        muted_labels: Sequence[str] | None = None,
        reading: Reading | None = None,
        region_mask: np.ndarray | torch.Tensor | None = None,
        negative_prompt: str | None = None,
        controlnet_conditioning_scale: float = 1.0,
        start_strength: float | None = None,
        color_fix: str = "wavelet",
        color_fix_strength: float = 1.0,
        detail_strength: float = 1.0,
        tile_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback_on_step_end: Callable[[SISRMPipeline, int, int, dict], dict] | None = None,
        callback_on_tile_end: Callable[[SISRMPipeline, str, int, int], None] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> SISRMOutput | tuple:
        """Upscale one image, or several of one size.

        Args:
            image: PIL image(s), or float (B, 3, h, w) in [0, 1]; sides from 16.
            num_inference_steps: 1 to 200 denoising steps. None here and below: the default that the weights carry.
            guidance_scale: 1 to 20; classifier-free guidance towards the label prompt, off at 1.
            top_k: 1 to 50; at most so many labels in the prompt (eq 2). Those whose score lies below the weights' `label_floor` are left
                out, but for the first.
            use_mff: M from the labels' regions (eq 10); False is M = 1 everywhere, plain ControlNet.
            use_sca: cross-attention to E_m (eq 7, 8); False takes it out of U-Net and ControlNet.
            use_sape: E_m and predicted labels (eq 1, 2); False leaves both out, M is then the region of the `top_k` largest classes.
            labels: words that replace the predicted ones, for all images or a list per image; None or an empty list: predicted.
            extend_labels: put `labels` before the predicted ones instead of replacing them.
            muted_labels: words taken out of the prompt, and with them their region out of M, for all images.
            reading: of `read` on the same image, so that nothing is looked at again; None: read here.
            region_mask: (H, W), any size, -1..1, for all images: joined to M where it is positive (from 0.5), out of M where negative.
            negative_prompt: what guidance leads away from; None: the default that the weights carry.
            controlnet_conditioning_scale: 0 to 2, strength of the ControlNet's residuals.
            start_strength: above 0 to 1, how far up the noise schedule denoising starts; lower stays closer to the LR image.
            color_fix: "wavelet", "adain" or "none". color_fix_strength: 0 to 1.
            detail_strength: 0 to 2, how much of the detail that the enlarged LR image lacks is drawn; 1: all that the model made.
            tile_size: 64 to 1024 LR pixels; larger pictures are worked on in overlapping tiles of at most this side.
            generator: seeds the start noise (CPU); a list gives each image its own. None draws a fresh seed.
            callback_on_step_end: called as (pipeline, step index, timestep, values); values holds "latents", "estimate" (of the clean
                latents), "preview", a function without arguments that finishes the estimate into PIL images, and "tiles", their number; may
                return new "latents".
            callback_on_tile_end: called as (pipeline, part, done, total) after each tile of a part: "image_encoder", "denoising" (tiles of
                all steps) and "decode".
            output_type: "pil", "np" (B, H, W, 3) in [0, 1] or "pt" (B, 3, H, W) in [0, 1].
        Raises:
            ParameterError, ImageError: an argument is not accepted. Interrupted: `interrupt` was set during the run; it is looked at before
            every tile. OutOfMemory: not even tiles of 64 pixels fit; smaller tiles than asked for are tried before.
        """
        # 1. Check inputs, fill in defaults
        num_inference_steps, guidance_scale, top_k, start_strength, tile_size = (
            self.config[name] if given is None else given
            for name, given in (
                ("num_inference_steps", num_inference_steps),
                ("guidance_scale", guidance_scale),
                ("top_k", top_k),
                ("start_strength", start_strength),
                ("tile_size", tile_size),
            )
        )
        self.check_inputs(
            num_inference_steps,
            guidance_scale,
            top_k,
            controlnet_conditioning_scale,
            start_strength,
            color_fix,
            color_fix_strength,
            detail_strength,
            tile_size,
            output_type,
        )
        self.interrupt = False
        clock = _Clock(self._execution_device)
        started = time.perf_counter()

        def report(part: str, index: int = 0, of: int = 1):
            """What `tiles` calls after each of its tiles."""
            if callback_on_tile_end is None:
                return None
            return lambda done, count: callback_on_tile_end(self, part, index * count + done, of * count)

        # 2. LR image, padded to what the networks' strides ask for; a large one is worked on tile by tile
        lr_image = self.prepare_lr_image(image)
        padded = pad_to_multiple(lr_image, self.lr_multiple)
        tiles = Tiles(*padded.shape[-2:], tile_size, self.lr_multiple, self.stop_if_interrupted, padded.device)
        generators, seeds = self.prepare_generators(generator, len(lr_image))

        # 3. SAPE: class map, E_m, labels (eq 1, 2)
        with clock.measure("segmentation"):
            semantics = self.extract_semantics(lr_image, top_k, labels, extend_labels, use_sape, muted_labels, reading)

        # 4. Text branch E_t (eq 3), with the negative prompt first where guidance is on
        with clock.measure("text"):
            added = self.config.added_prompt
            prompt_embeds = self.encode_prompt([words + added for words in semantics.output.prompt])
            if guidance_scale > 1.0:
                avoided = self.config.negative_prompt if negative_prompt is None else negative_prompt
                negative = self.encode_prompt([avoided] * len(lr_image))
                prompt_embeds = torch.cat([negative, prompt_embeds])

        # 5. Image branch E_i (eq 4): condition, decoder features and the start of denoising
        with clock.measure("image_encoder"):
            encoding = self.encode_tiles(padded, tiles, report("image_encoder"))

        # 6. MFF's mask M (eq 10)
        masks = self.prepare_masks(semantics, region_mask, use_mff)

        # 7. Timesteps and noisy start, drawn at once for the whole picture
        timesteps = self.prepare_timesteps(num_inference_steps, start_strength)
        latents = self.prepare_latents(encoding.latents, timesteps[0], generators)
        draws = {"generator": generators} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        conditions = Conditions(semantics.tokens if use_sca else None, masks if use_mff else None, encoding, padded)

        def finish(latents: torch.Tensor, kind: str, report=None):
            strengths = (color_fix_strength, detail_strength)
            return self.finish_tiles(latents, lr_image, conditions, tiles, kind, color_fix, strengths, report)

        # 8. Denoising: ControlNet, mask, U-Net; the tiles' predictions blended into one; scheduler
        with clock.measure("denoising"), self.progress_bar(total=len(timesteps)) as progress:
            of_tiles = self.tile_conditions(conditions, tiles)
            for index, timestep in enumerate(timesteps):
                self.stop_if_interrupted(index, len(timesteps))
                prediction = self.denoise_tiles(
                    latents,
                    prompt_embeds,
                    of_tiles,
                    tiles,
                    report("denoising", index, len(timesteps)),
                    timestep=timestep,
                    guidance_scale=guidance_scale,
                    conditioning_scale=controlnet_conditioning_scale,
                )
                step = self.scheduler.step(prediction, timestep, latents, **draws)
                latents = step.prev_sample
                if callback_on_step_end is not None:
                    estimate = clean_estimate(self.scheduler, step)
                    values = {"latents": latents, "estimate": estimate, "tiles": len(tiles)}
                    values["preview"] = partial(finish, estimate, "pil")
                    changed = callback_on_step_end(self, index, int(timestep), values)
                    latents = (changed or {}).get("latents", latents)
                progress.update()

        # 9. Decode; colour from the LR image, faint texture taken back
        with clock.measure("decode"):
            images = finish(latents, output_type, report("decode"))

        # 10. Output
        clock.seconds["total"] = time.perf_counter() - started
        self.maybe_free_model_hooks()
        output = SISRMOutput(
            images=images,
            class_map=semantics.output.class_map,
            labels=semantics.output.labels,
            mff_mask=[mask.cpu().numpy() for mask in masks[:, 0]],
            prompt=semantics.output.prompt,
            seed=seeds,
            timings=clock.seconds,
            tiles=len(tiles),
            tile_size=tiles.size,
            notices=["smaller_tiles"] if tiles.shrunk else [],
        )
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def segment(
        self,
        image: Image.Image | Sequence[Image.Image] | torch.Tensor,
        top_k: int | None = None,
        labels: Sequence[str] | Sequence[Sequence[str]] | None = None,
        extend_labels: bool = False,
        muted_labels: Sequence[str] | None = None,
        reading: Reading | None = None,
    ) -> SegmentationOutput:
        """Class map and label prompt alone, without diffusion; arguments as in `__call__`."""
        top_k = self.config.top_k if top_k is None else top_k
        require_integer("top_k", top_k, 1, 50)
        lr_image = self.prepare_lr_image(image)
        return self.extract_semantics(lr_image, top_k, labels, extend_labels, True, muted_labels, reading).output

    @torch.no_grad()
    def read(self, image: Image.Image | Sequence[Image.Image] | torch.Tensor) -> Reading:
        """What the segmenter and SAPE see, from which prompt and M are chosen; for calls on one image with different settings."""
        return self.reading_of(self.prepare_lr_image(image))

    def check_inputs(
        self,
        num_inference_steps,
        guidance_scale,
        top_k,
        conditioning_scale,
        start_strength,
        color_fix,
        color_fix_strength,
        detail_strength,
        tile_size,
        output_type,
    ) -> None:
        """Raise ParameterError for the first argument that is not accepted."""
        require_integer("num_inference_steps", num_inference_steps, 1, 200)
        require_integer("top_k", top_k, 1, 50)
        require_number("guidance_scale", guidance_scale, 1, 20)
        require_number("controlnet_conditioning_scale", conditioning_scale, 0, 2)
        require_number("start_strength", start_strength, 0.01, 1)
        require_number("color_fix_strength", color_fix_strength, 0, 1)
        require_number("detail_strength", detail_strength, 0, 2)
        require_integer("tile_size", tile_size, SMALLEST_TILE, LARGEST_TILE)
        if color_fix not in COLOR_FIXES:
            raise ParameterError("color_fix", color_fix, "one of " + ", ".join(COLOR_FIXES))
        if output_type not in ("pil", "np", "pt"):
            raise ParameterError("output_type", output_type, "one of pil, np, pt")

    def prepare_lr_image(self, image) -> torch.Tensor:
        """-> (B, 3, h, w) float32 in [0, 1] on the run's device."""
        if isinstance(image, torch.Tensor):
            if (
                image.ndim != 4
                or image.shape[1] != 3
                or not image.is_floating_point()
                or min(image.shape[-2:]) < MIN_SIDE
            ):
                raise ParameterError(
                    "image", f"tensor {tuple(image.shape)} {image.dtype}", "float (B, 3, h, w) with sides from 16"
                )
            if not bool(((image >= 0) & (image <= 1)).all()):
                raise ParameterError("image", "values outside the range", "finite values in [0, 1]")
            return image.to(self._execution_device, torch.float32)
        images = [image] if isinstance(image, Image.Image) else list(image) if isinstance(image, (list, tuple)) else []
        if not images or not all(isinstance(entry, Image.Image) for entry in images):
            raise ParameterError(
                "image", type(image).__name__, "a PIL image, a list of PIL images, or a (B, 3, h, w) tensor"
            )
        images = [prepare_image(entry) for entry in images]
        if len({entry.size for entry in images}) > 1:
            raise ImageError(
                "image", f"the images of one call must have one size, these have {[entry.size for entry in images]}"
            )
        pixels = torch.from_numpy(np.stack([np.asarray(entry) for entry in images]))
        # As bytes: converting them first would take a quarter of the time of a whole call on a fast GPU.
        return pixels.to(self._execution_device).permute(0, 3, 1, 2).to(torch.float32).div(255).contiguous()

    def prepare_generators(self, generator, count: int) -> tuple[list[torch.Generator], list[int]]:
        """One generator per image and the seeds to report. A single generator serves all images in turn."""
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(generator.seed() % 2**31)
        generators = list(generator) if isinstance(generator, (list, tuple)) else [generator] * count
        if len(generators) != count or not all(isinstance(entry, torch.Generator) for entry in generators):
            raise ParameterError("generator", generator, f"a torch.Generator or a list of {count}")
        return generators, [entry.initial_seed() for entry in generators]

    def extract_semantics(
        self, lr_image, top_k: int, labels=None, extend_labels=False, use_sape=True, muted_labels=None, reading=None
    ) -> Semantics:
        """SAPE on (B, 3, h, w) in [0, 1] (eq 1, 2); without it only the segmenter's class map."""
        given = given_labels(labels, len(lr_image), self.config.free_text)
        muted = given_labels(muted_labels, 1, self.config.free_text, "muted_labels")[0]
        reading = self.reading_of(lr_image) if reading is None else reading
        size = (SCALE * lr_image.shape[-2], SCALE * lr_image.shape[-1])
        return reading.choose(size, given, muted, top_k, self.config.label_floor, extend_labels, use_sape)

    def prepare_masks(self, semantics: Semantics, region_mask, use_mff: bool) -> torch.Tensor:
        """M of every image, (B, 1, 4h, 4w) bool; all of it where MFF is off."""
        masks = []
        for class_map, indices in zip(semantics.output.class_map, semantics.region_classes):
            classes = torch.from_numpy(class_map).to(self._execution_device)
            region = self.mff.region(classes, indices, region_mask)
            masks.append(region if use_mff else torch.ones_like(region))
        return torch.stack(masks)[:, None]

    def prepare_timesteps(self, num_inference_steps: int, start_strength: float) -> torch.Tensor:
        """The last `num_inference_steps` of a schedule long enough that they begin at `start_strength` of it."""
        steps = min(round(num_inference_steps / start_strength), self.scheduler.config.num_train_timesteps)
        # On the CPU, where the scheduler looks at their values; asking a GPU for them would wait for all that it has to do.
        self.scheduler.set_timesteps(max(steps, num_inference_steps), device="cpu")
        first = len(self.scheduler.timesteps) - num_inference_steps * getattr(self.scheduler, "order", 1)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        return self.scheduler.timesteps[first:]

    def prepare_latents(
        self, start: torch.Tensor, timestep: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        """The LR image's latents (or their restored estimate) plus noise at the first timestep."""
        noise = torch.stack(
            [torch.randn(start.shape[1:], generator=entry, device=entry.device).to(start) for entry in generators]
        )
        return self.scheduler.add_noise(start, noise, timestep.reshape(1).expand(len(start)))

    def stop_if_interrupted(self, step: int | None = None, steps: int | None = None) -> None:
        """Raise Interrupted where `interrupt` was set."""
        if self.interrupt:
            where = "between two tiles" if step is None else f"before step {step + 1} of {steps}"
            raise Interrupted(f"stopped {where}")
