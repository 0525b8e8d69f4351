"""What the app does, without its looks: check a request, call the pipeline, say what was done.

Nothing here knows about components. A request arrives as it came over the wire (the sliders of a browser and a raw API call alike), so
everything in it is checked here, and every refusal is an `SISRMError` whose message can be shown as it is.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sisrm import __version__
from sisrm.conversion import with_alpha
from sisrm.drawing import draw_overlay, legend
from sisrm.errors import ParameterError
from sisrm.images import NOTICES, Photo, read_photo, write_png
from sisrm.labels import index_of

OVERLAY_SIDE = 1024
"""The longest side of an overlay picture, which is for looking at only."""


@dataclass(frozen=True)
class Limit:
    """The accepted range of a number; `step` is the slider's, and 1 asks for whole numbers."""

    low: float
    high: float
    step: float

    def check(self, name: str, value: object) -> int | float:
        """The value, as int or float.

        Raises:
            ParameterError: not a number, not finite, outside the range, or not whole where it must be.
        """
        whole = self.step == 1
        kind = "a whole number" if whole else "a number"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # NaN is in no range, so it is refused here as well.
        if not number or not self.low <= value <= self.high or (whole and value != int(value)):
            raise ParameterError(name, value, f"{kind} from {self.low:g} to {self.high:.10g}")
        return int(value) if whole else float(value)


STEPS = Limit(1, 20, 1)
GUIDANCE_SCALE = Limit(1, 8, 0.1)
TOP_K = Limit(1, 10, 1)
SEED = Limit(0, 2**32 - 1, 1)


@dataclass(frozen=True)
class Settings:
    """A checked request. `labels` empty: the predicted ones; they replace the predicted ones otherwise."""

    steps: int
    guidance_scale: float
    top_k: int
    mff: bool
    seed: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upscaled:
    """The result of `upscale`: PNG files and the report, a JSON object of what was done."""

    result: Path
    before: Path
    overlay: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Segmented:
    """The result of `segment`: the overlay's PNG file and the report."""

    overlay: Path
    report: dict[str, Any]


def default_settings(pipe) -> Settings:
    """The defaults that the weights carry, with MFF on; the seed is 0."""
    defaults = pipe.defaults
    return Settings(
        steps=STEPS.check("steps", defaults["num_inference_steps"]),
        guidance_scale=GUIDANCE_SCALE.check("guidance_scale", defaults["guidance_scale"]),
        top_k=TOP_K.check("top_k", defaults["top_k"]),
        mff=True,
        seed=0,
    )


def check_settings(steps, guidance_scale, top_k, mff, seed=None, labels=None) -> Settings:
    """Check what a browser or a script sent.

    Args:
        steps: 1..20.
        guidance_scale: 1..8.
        top_k: 1..10.
        mff: true or false.
        seed: 0..4294967295, or None for a fresh one.
        labels: up to 10 names of `sisrm.labels.CLASS_NAMES`, or None.

    Raises:
        ParameterError: naming the first parameter that is not accepted, and what would be.
    """
    if not isinstance(mff, bool):
        raise ParameterError("mff", mff, "true or false")
    return Settings(
        steps=STEPS.check("steps", steps),
        guidance_scale=GUIDANCE_SCALE.check("guidance_scale", guidance_scale),
        top_k=TOP_K.check("top_k", top_k),
        mff=mff,
        seed=secrets.randbelow(SEED.high + 1) if seed is None else SEED.check("seed", seed),
        labels=_check_labels(labels),
    )


def open_upload(value: object, upload_folder: str | Path) -> Photo:
    """Read the image of a request, and no other file of the server.

    Args:
        value: Gradio's file object: a mapping with "path", the uploaded copy, and "orig_name", the visitor's name for it.
        upload_folder: where Gradio keeps uploads; a path outside it is refused.

    Raises:
        ParameterError: no image was sent, or the file is not an upload.
        ImageError: the upload cannot be used as an image.
    """
    accepted = "an uploaded image file (gradio_client: handle_file)"
    if value is None:
        raise ParameterError("image", None, accepted)
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or "\0" in path:
        raise ParameterError("image", value if isinstance(value, str) else type(value).__name__, accepted)
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(upload_folder).resolve()):
        raise ParameterError("image", Path(path).name, accepted)
    name = value.get("orig_name")
    return read_photo(resolved, source=Path(name).name[:80] if isinstance(name, str) and name else "image")


def result_name(value: Mapping) -> str:
    """The file name of a result, after the visitor's name for the upload: plain letters, digits, - and _ only."""
    name = value.get("orig_name")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem)[:60].strip("-") if isinstance(name, str) else ""
    return f"{stem or 'sisrm'}-4x.png"


class Handlers:
    """The app's two jobs on one pipeline; one job at a time.

    Args:
        pipe: a `SISRMPipeline`.
        facts: what to add to every report (preset, device, dtype, ...).
    """

    def __init__(self, pipe, facts: Mapping[str, Any]):
        self.pipe = pipe
        self.facts = dict(facts)
        # A pipeline holds the state of its run; a visitor who has gone away may have left one behind.
        self._busy = threading.Lock()

    def upscale(
        self,
        photo: Photo,
        settings: Settings,
        folder: Path,
        name: str = "sisrm-4x.png",
        progress: Callable[[int, int], None] | None = None,
    ) -> Upscaled:
        """Enlarge a photo 4x; where it is transparent, the result is.

        Args:
            photo: the picture, (h, w), and its alpha.
            settings: from `check_settings`.
            folder: an existing folder that gets the files.
            name: of the result's file.
            progress: called with (step, number of steps) after each denoising step.

        Raises:
            SISRMError: the pipeline refused the image or a setting.
        """

        def after_step(pipe, step_index, timestep, tensors):
            if progress is not None:
                progress(step_index + 1, settings.steps)
            return tensors

        with self._busy:
            output = self.pipe(
                photo.image,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                top_k=settings.top_k,
                use_mff=settings.mff,
                labels=list(settings.labels) or None,
                generator=torch.Generator("cpu").manual_seed(settings.seed),
                callback_on_step_end=after_step,
            )
        enlarged, class_map = output.images[0], output.class_map[0]
        report = {
            "settings": {**asdict(settings), "labels": list(settings.labels)},
            **self._semantics(output, photo, class_map),
            "seed": settings.seed,
            "local_control_share": round(float(np.mean(output.mff_mask[0])), 4),
            "output_size": list(enlarged.size),
            "tiles": output.tiles,
            "timings": {name: round(float(seconds), 4) for name, seconds in output.timings.items()},
        }
        before = photo.image.resize(enlarged.size, Image.Resampling.BICUBIC)
        return Upscaled(
            result=write_png(with_alpha(enlarged, photo.alpha), folder / name, report),
            before=write_png(with_alpha(before, photo.alpha), folder / "before.png"),
            overlay=_write_overlay(enlarged, class_map, folder),
            report=report,
        )

    def segment(self, photo: Photo, top_k: int, folder: Path) -> Segmented:
        """Find what is in a photo, without enlarging it.

        Args:
            photo: the picture, (h, w).
            top_k: most labels.
            folder: an existing folder that gets the overlay.

        Raises:
            SISRMError: the pipeline refused the image or a setting.
        """
        with self._busy:
            output = self.pipe.segment(photo.image, top_k=top_k)
        class_map = output.class_map[0]
        report = {"settings": {"top_k": top_k}, **self._semantics(output, photo, class_map)}
        return Segmented(overlay=_write_overlay(photo.image, class_map, folder), report=report)

    def _semantics(self, output, photo: Photo, class_map: np.ndarray) -> dict[str, Any]:
        """The part of a report that both jobs share."""
        return {
            "labels": [
                {
                    "name": label.name,
                    "index": label.index,
                    "score": None if label.score is None else round(label.score, 4),
                    "unsure": label.unsure,
                }
                for label in output.labels[0]
            ],
            "prompt": output.prompt[0],
            "regions": [{**asdict(entry), "share": round(entry.share, 4)} for entry in legend(class_map)],
            "input_size": list(photo.size),
            "notices": [
                {"code": notice, "text": NOTICES[notice]} for notice in (*photo.notices, *output.get("notices", ()))
            ],
            **self.facts,
            "version": __version__,
        }


def _write_overlay(image: Image.Image, class_map: np.ndarray, folder: Path) -> Path:
    stride = -(-max(class_map.shape) // OVERLAY_SIDE)
    return write_png(draw_overlay(image, class_map[::stride, ::stride]), folder / "regions.png")


def _check_labels(labels: object) -> tuple[str, ...]:
    accepted = f"a list of at most {TOP_K.high} class names"
    if labels is None:
        return ()
    if not isinstance(labels, list) or len(labels) > TOP_K.high or not all(isinstance(name, str) for name in labels):
        raise ParameterError("labels", labels, accepted)
    for name in labels:
        index_of(name)
    return tuple(dict.fromkeys(labels))
