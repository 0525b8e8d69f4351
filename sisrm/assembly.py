"""SISRM on Stable Diffusion: public parts read into our classes, trained SISRM weights laid over them.

What is public comes as its publishers made it; what SISRM adds starts as an exact identity: SCA's output is zero, and
nothing else reads the semantic anchors. So the assembled pipeline predicts exactly what plain diffusers would, until
trained weights are given. In this form the image encoder of eq 4 is the ControlNet's own conditioning embedding.

Weights are read from safetensors. Where a public part exists only as .bin it is read with `weights_only=True`, which
refuses everything but tensors; trained SISRM weights are never read that way.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, SegformerConfig, SegformerForSemanticSegmentation

from sisrm.attention import is_segmentation_key
from sisrm.controlnet import SegmentationControlNet
from sisrm.errors import WeightsError
from sisrm.labels import CLASS_NAMES
from sisrm.mff import MaskFeatureFusion
from sisrm.sape import SAPE
from sisrm.unet import SegmentationUNet

# SeeSR's defaults: these words follow the labels, and guidance leads away from those.
ADDED_PROMPT = ", clean, high-resolution, 8k"
NEGATIVE_PROMPT = "dotted, noise, blur, lowres, smooth"
SEED = 0  # of what is new and random (SCA's projections, the token projection): one assembly is like another

SCA_FILE = "sca.safetensors"
TRAINED = (SCA_FILE, "controlnet", "sape", "segmenter")
"""What a folder of trained SISRM weights may hold: the U-Net's SCA, and whole components."""


@dataclass(frozen=True)
class Parts:
    """Folders to assemble from, in their publishers' layouts.

    stable_diffusion: vae, text_encoder, tokenizer, unet, scheduler. controlnet, segmenter: a model each. sape: a SAPE
    that was trained on the same 150 classes. weights: trained SISRM weights (`TRAINED`), or None.
    """

    stable_diffusion: Path
    controlnet: Path
    segmenter: Path
    sape: Path
    weights: Path | None = None


def assemble(parts: Parts) -> dict[str, object]:
    """The constructor arguments of a SISRMPipeline, in float32.

    Raises:
        WeightsError: a file is missing, or its weights are not what the class expects; names the file and the key.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        unet = _read(SegmentationUNet, parts.stable_diffusion / "unet", is_segmentation_key)
        controlnet = _read(SegmentationControlNet, parts.controlnet, is_segmentation_key, pickled=True)
        _clone_sca(unet, controlnet)
        sape = widen_sape(_read(SAPE, parts.sape), unet.config.cross_attention_dim)
    components = {
        "vae": _library(AutoencoderKL, parts.stable_diffusion / "vae"),
        "text_encoder": _library(CLIPTextModel, parts.stable_diffusion / "text_encoder"),
        "tokenizer": _library(CLIPTokenizer, parts.stable_diffusion / "tokenizer"),
        "unet": unet,
        "controlnet": controlnet,
        "segmenter": read_segmenter(parts.segmenter, pickled=True),
        "sape": sape,
        "mff": MaskFeatureFusion(),
        "scheduler": read_scheduler(parts.stable_diffusion / "scheduler"),
        "image_encoder": None,
    }
    untrained = "controlnet image_encoder"
    if parts.weights is not None:
        given = add_trained(components, parts.weights)
        untrained = "" if "controlnet" in given else untrained
    for component in components.values():
        if isinstance(component, nn.Module):
            component.float().eval().requires_grad_(False)
    return {**components, **CALL_DEFAULTS, "public_parts": untrained}


CALL_DEFAULTS = {
    "num_inference_steps": 20,
    "guidance_scale": 5.5,
    "start_strength": 1.0,
    "top_k": 5,
    "label_floor": 0.1,
    "tile_size": 128,  # what Stable Diffusion was trained at: 512 pixels of the result
    "free_text": True,
    "added_prompt": ADDED_PROMPT,
    "negative_prompt": NEGATIVE_PROMPT,
}
"""SeeSR's, but for its 50 steps."""


def add_trained(components: dict[str, object], folder: Path) -> list[str]:
    """Lay the trained SISRM weights of a folder over assembled components; returns which of `TRAINED` were there.

    Raises WeightsError: nothing known is there, or it does not fit.
    """
    given = [name for name in TRAINED if (folder / name).exists()]
    if not given or (folder / "image_encoder").exists():
        raise WeightsError(
            f"{folder.name}: expected at least one of {', '.join(TRAINED)}"
            + (", and no image_encoder: here it is part of the ControlNet" if given else "")
        )
    if SCA_FILE in given:
        unet = components["unet"]
        wanted = {key for key in unet.state_dict() if is_segmentation_key(key)}
        _fit(unet, read_weights(folder / SCA_FILE), f"{folder.name}/{SCA_FILE}", lambda key: key not in wanted)
    for name in given:
        if name == SCA_FILE:
            continue
        old = components[name]
        new = read_segmenter(folder / name) if name == "segmenter" else _read(type(old), folder / name)
        theirs, ours = _shape_of(new), _shape_of(old)
        if theirs != ours:
            differs = next(key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key))
            raise WeightsError(
                f"{folder.name}/{name}: {differs} is {theirs.get(differs)}; expected {ours.get(differs)}"
            )
        components[name] = new
    return given


def save_trained(pipe, folder: Path, names: tuple[str, ...] = TRAINED) -> None:
    """Write what SISRM trained of an assembled pipeline, the form `SISRM_WEIGHTS` reads.

    Args:
        pipe: a SISRMPipeline; SAPE's LoRA must be merged into its segmenter.
        names: which of `TRAINED`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name == SCA_FILE:
            state = {key: value for key, value in pipe.unet.state_dict().items() if is_segmentation_key(key)}
            save_file({key: value.contiguous() for key, value in state.items()}, folder / SCA_FILE)
        else:
            getattr(pipe, name).save_pretrained(folder / name)


def widen_sape(trained: SAPE, width: int) -> SAPE:
    """Mask encoder and label generator as they are, semantic anchors of another width (new: nothing reads them yet)."""
    config = trained.config
    sape = SAPE(config.num_classes, config.embedding_channels, width, config.grid)
    sape.mask_encoder.load_state_dict(trained.mask_encoder.state_dict())
    sape.label_generator.load_state_dict(trained.label_generator.state_dict())
    return sape


def read_segmenter(folder: Path, pickled: bool = False) -> SegformerForSemanticSegmentation:
    """A SegFormer for the 150 classes; transformers knows the older names of its weights."""
    config = SegformerConfig(**read_config(folder))
    state = read_weights(find_weights(folder, pickled))
    try:
        model, report = SegformerForSemanticSegmentation.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
    except RuntimeError as error:
        raise WeightsError(f"{folder.name}: {first_line(error)}") from error
    _complain(folder.name, report["missing_keys"], report["unexpected_keys"])
    if config.num_labels != len(CLASS_NAMES):
        raise WeightsError(f"{folder.name}: {config.num_labels} classes; expected ADE20K's {len(CLASS_NAMES)}")
    return model


def read_scheduler(folder: Path) -> DDIMScheduler:
    """DDIM over the noise schedule that the U-Net was trained with."""
    return DDIMScheduler.from_config(read_config(folder, "scheduler_config.json"), clip_sample=False)


def read_config(folder: Path, name: str = "config.json") -> dict:
    """A configuration file; WeightsError where it is missing or no JSON object."""
    try:
        config = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder.name}/{name}: missing or unreadable; expected a model's configuration") from error
    return {key: value for key, value in config.items() if not key.startswith("_")}


def find_weights(folder: Path, pickled: bool = False) -> Path:
    """The weights file of a model's folder: safetensors, in full precision if there is a choice, or else, if `pickled`, .bin."""
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    for ending in (".safetensors", ".fp16.safetensors", *((".bin",) if pickled else ())):
        for stem in stems:
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    raise WeightsError(
        f"{folder.name}: expected {' or '.join(stems[:2])}.safetensors" + (", or .bin" if pickled else "")
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU."""
    try:
        if path.suffix == ".bin":
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path.parent.name}/{path.name}: {first_line(error)}; expected tensors alone") from error


def _read(kind, folder: Path, may_miss: Callable[[str], bool] = lambda key: False, pickled: bool = False) -> nn.Module:
    """One of our classes from a folder; only keys that `may_miss` accepts may be missing."""
    model = kind.from_config(read_config(folder))
    path = find_weights(folder, pickled)
    _fit(model, read_weights(path), f"{folder.name}/{path.name}", may_miss)
    return model


def _fit(model: nn.Module, state: dict[str, torch.Tensor], source: str, may_miss: Callable[[str], bool]) -> None:
    """Load tensors into a model, or raise WeightsError for the first that is not expected, of another shape, or missing."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key, value in state.items():
        if key in shapes and tuple(value.shape) != shapes[key]:
            raise WeightsError(f"{source}: {key} has shape {tuple(value.shape)}; expected {shapes[key]}")
    missing, unexpected = model.load_state_dict(state, strict=False)
    # Our additions to a public model must all be new: a file that has some of them is another kind of file.
    _complain(source, [key for key in missing if not may_miss(key)], unexpected)


def _complain(source: str, missing, unexpected) -> None:
    """Raise WeightsError when a key is left over on either side."""
    for keys, words in ((unexpected, "is not a weight of this model"), (missing, "is missing")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise WeightsError(f"{source}: {sorted(keys)[0]} {words}{more}")


def _clone_sca(unet: SegmentationUNet, controlnet: SegmentationControlNet) -> None:
    """The ControlNet's SCA starts as the U-Net encoder's, as the paper clones it (s2.3)."""
    state = {key: value for key, value in unet.state_dict().items() if is_segmentation_key(key)}
    wanted = {key for key in controlnet.state_dict() if is_segmentation_key(key)}
    absent = sorted(wanted - state.keys())
    if absent:
        raise WeightsError(f"controlnet: {absent[0]} has no counterpart in the U-Net; expected the same blocks")
    _fit(controlnet, {key: state[key] for key in wanted}, "controlnet", lambda key: not is_segmentation_key(key))


def _library(kind, folder: Path):
    """A part that is used as it is, through its library's own loader."""
    options = {"local_files_only": True}
    if kind is not CLIPTokenizer:
        fp16 = find_weights(folder).name.endswith(".fp16.safetensors")
        options |= {"use_safetensors": True, "output_loading_info": True, **({"variant": "fp16"} if fp16 else {})}
    try:
        loaded = kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{folder.name}: {first_line(error)}") from error
    if kind is CLIPTokenizer:
        return loaded
    model, report = loaded
    # Older text encoders carry the positions themselves, which the class now computes.
    unexpected = [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]
    _complain(folder.name, report["missing_keys"], unexpected)
    return model


def _shape_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def first_line(error: Exception) -> str:
    """An error's message, without the lines that follow; the error's name where there is none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
