"""Named presets: the one place that knows which weights a name stands for."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

from sisrm.assembly import CALL_DEFAULTS, Parts, first_line
from sisrm.errors import ParameterError, WeightsError
from sisrm.fast import GUIDANCE_SCALE, STEPS, make_fast
from sisrm.pipeline import SISRMPipeline
from sisrm.public_parts import PINS, PublicPart, fetch, fetch_weights, missing_files, random_components
from sisrm.runtime import asked_acceleration, choose_device, choose_dtype, prepare
from sisrm.weights import check_weights

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = ASSETS / "compact"


def sd_location() -> Path:
    """Where the assembled `sd` pipeline lies, beside the hub's cache: another folder for other pins or other SISRM_WEIGHTS."""
    pins = sorted((part.repository, part.revision) for part in PINS.values())
    trained = os.environ.get("SISRM_WEIGHTS", "")
    files = sorted(Path(trained).rglob("*.safetensors")) if trained and Path(trained).is_dir() else []
    state = [pins, trained, [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
    return Path(constants.HF_HOME) / "sisrm" / f"sd-{digest}"


def build_sd(folder: Path) -> None:
    """Assemble the `sd` pipeline from its public parts and SISRM_WEIGHTS, and write it, in float16, to `folder`."""
    trained = os.environ.get("SISRM_WEIGHTS")
    parts = Parts(
        stable_diffusion=fetch(PINS["stable_diffusion"]),
        controlnet=fetch(PINS["controlnet"]),
        segmenter=fetch(PINS["segmenter"]),
        sape=BUNDLED / "sape",
        weights=fetch_weights(trained) if trained else None,
    )
    logger.info("assembling %s", folder.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved there when it is whole, so that a broken run leaves nothing that looks finished.
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name + "."))
    try:
        pipe = SISRMPipeline.from_parts(parts)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.half()
        pipe.save_pretrained(unfinished)
        if not folder.exists():
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def random_sd(dtype: torch.dtype) -> SISRMPipeline:
    """The `sd` pipeline at its true size with random weights. The tokenizer is the bundled one: its words do not change the work."""
    tokenizer = AutoTokenizer.from_pretrained(str(BUNDLED / "tokenizer"), local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SISRMPipeline(**random_components(tokenizer, dtype), **CALL_DEFAULTS)


@dataclass(frozen=True)
class Preset:
    """title and summary are for people.

    place: gives the folder that holds the pipeline. build: makes that folder where it is missing; None: it is bundled.
    needs: the public parts it is built from. fast: the LoRA of the fast mode, or None where there is no such mode.
    random: its networks at their true size with random weights, in the given type; None where that is not on offer.
    """

    name: str
    title: str
    summary: str
    place: Callable[[], Path]
    build: Callable[[Path], None] | None = None
    needs: tuple[PublicPart, ...] = ()
    fast: PublicPart | None = None
    random: Callable[[torch.dtype], SISRMPipeline] | None = None

    @property
    def location(self) -> Path:
        """The folder that holds the pipeline; for a preset that is built, it need not be there yet."""
        return self.place()

    def ready(self) -> bool:
        """Whether it can be loaded without building or downloading anything."""
        return (self.location / "model_index.json").is_file()

    def folder(self) -> Path:
        """The folder, built where that is needed."""
        if self.build is not None and not self.ready():
            self.build(self.location)
        return self.location

    @property
    def fast_settings(self) -> dict[str, float]:
        """The call's defaults in the fast mode; empty where there is no such mode."""
        return {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE_SCALE} if self.fast else {}

    def missing(self) -> dict[str, list[str]]:
        """Repository -> files that would have to be downloaded to build it or to run it fast."""
        wanted = (*(() if self.ready() else self.needs), *((self.fast,) if self.fast else ()))
        return {part.repository: names for part in wanted if (names := missing_files(part))}


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("compact", "SISRM compact", "this project's own weights, bundled, for any CPU or GPU", lambda: BUNDLED),
        Preset(
            "sd",
            "SISRM on Stable Diffusion 1.5",
            "Stable Diffusion 1.5, its tile ControlNet and SegFormer-B5 from the hub, for a GPU",
            sd_location,
            build=build_sd,
            needs=tuple(PINS[name] for name in ("stable_diffusion", "controlnet", "segmenter")),
            fast=PINS["lcm_lora"],
            random=random_sd,
        ),
    )
}
FALLBACK = "compact"  # what runs where the chosen preset's weights cannot be used


def default_preset() -> str:
    """SISRM_PRESET, or "compact"."""
    return os.environ.get("SISRM_PRESET") or "compact"


def ready_presets() -> list[str]:
    """The presets that can be loaded as things are, without building or downloading anything."""
    return [name for name, preset in PRESETS.items() if preset.ready()]


def load_pipeline(
    preset: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    fast: bool | None = None,
    compile: str | None = None,
) -> SISRMPipeline:
    """A pipeline ready to run. A preset that is built from public parts is downloaded and assembled when it is first asked for.

    Args:
        preset: a name in PRESETS or a folder that holds a pipeline; None: `default_preset()`.
        device: "cpu", "cuda", "cuda:N"; None chooses. dtype: None chooses by device.
        fast: few steps through the preset's LoRA; None: whether SISRM_FAST is 1.
        compile: of `sisrm.runtime.ACCELERATIONS`; None: SISRM_COMPILE, or "off", with which networks may be changed at any time.
    Raises:
        ParameterError: no such preset, folder, device or acceleration, or no fast mode. WeightsError: weights are missing or do not fit.
    """
    name = preset or default_preset()
    known = PRESETS.get(name)
    if known is None and not Path(name).is_dir():
        raise ParameterError("preset", name, f"one of {', '.join(PRESETS)}, or a folder that holds a pipeline")
    if fast is None:
        fast = known is not None and known.fast is not None and os.environ.get("SISRM_FAST") == "1"
    if fast and (known is None or known.fast is None):
        able = ", ".join(other.name for other in PRESETS.values() if other.fast)
        raise ParameterError("fast", name, f"a preset with a fast mode: {able}")
    where, compile = choose_device(device), asked_acceleration(compile)
    precision = dtype or choose_dtype(where)
    folder = Path(name) if known is None else known.folder()
    check_folder(folder)
    try:
        pipe = SISRMPipeline.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, dtype=precision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder.name}: {first_line(error)}") from error
    if fast:
        make_fast(pipe, fetch(known.fast) / known.fast.files[0])
    pipe.folder = folder
    pipe.preset = folder.name if known is None else name
    pipe.weights = f"the folder {folder.name}" if known is None else known.summary
    return prepare(pipe, where, compile)


def load_random(preset: str, device: str | None = None, compile: str | None = None) -> SISRMPipeline:
    """A preset's pipeline with random weights, in the device's type, ready to run; `compile` as in `load_pipeline`. Raises
    ParameterError where it is not on offer."""
    if preset not in PRESETS or PRESETS[preset].random is None:
        able = ", ".join(other.name for other in PRESETS.values() if other.random)
        raise ParameterError("preset", preset, f"a preset that can be built with random weights: {able}")
    where, compile = choose_device(device), asked_acceleration(compile)
    pipe = PRESETS[preset].random(choose_dtype(where))
    pipe.preset, pipe.weights = preset, "random weights"
    pipe.set_progress_bar_config(disable=True)
    return prepare(pipe, where, compile)


def load_or_fall_back(
    preset: str | None = None, device: str | None = None, compile: str | None = None
) -> SISRMPipeline:
    """`load_pipeline`, or, where that preset's weights cannot be used, FALLBACK's; `pipe.fallback` then says why.

    pipe.fallback: None, or {"preset": what was asked for, "reason": the error's message}.
    """
    name = preset or default_preset()
    try:
        pipe = load_pipeline(name, device, compile=compile)
        pipe.fallback = None
    except WeightsError as error:
        if name == FALLBACK:
            raise
        logger.warning("%s cannot be used, %s runs instead: %s", name, FALLBACK, error)
        pipe = load_pipeline(FALLBACK, device, fast=False, compile=compile)
        pipe.fallback = {"preset": name, "reason": str(error)}
    return pipe


def check_folder(folder: Path) -> None:
    """Raise WeightsError, naming the file, when a component of the pipeline folder has no configuration, or no or damaged weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise WeightsError(
            f"{folder.name}: model_index.json is missing; expected a folder written by SISRMPipeline.save_pretrained"
        )
    parameters = inspect.signature(SISRMPipeline.__init__).parameters.values()
    settings = {entry.name for entry in parameters if entry.default not in (inspect.Parameter.empty, None)}
    for name, entry in json.loads(index.read_text()).items():
        if (
            name.startswith("_")
            or name in settings
            or not isinstance(entry, list)
            or entry[0] is None
            or "Tokenizer" in entry[1]
            or name == "scheduler"
        ):
            continue
        if not (folder / name / "config.json").is_file() or not list((folder / name).glob("*.safetensors")):
            raise WeightsError(f"{folder.name}/{name}: expected config.json and a .safetensors file")
    check_weights(folder)
