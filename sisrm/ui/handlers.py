"""What the app does, without its looks: check a request, call the pipeline, say what was done.

Nothing here knows about components. A request arrives as it came over the wire (the sliders of a browser and a raw API call alike), so
everything in it is checked here, and every refusal is an `SISRMError` whose message can be shown as it is.
"""

from __future__ import annotations

import re
import threading
import time
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
from sisrm.resize import SCALE
from sisrm.ui.readings import Readings
from sisrm.ui.regions import shares
from sisrm.ui.settings import Settings, check_settings, default_settings

OVERLAY_SIDE = 1024
"""The longest side of an overlay picture, which is for looking at only."""


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


def open_upload(value: object, upload_folder: str | Path, name: str = "image") -> Photo:
    """Read the image of a request, and no other file of the server.

    Args:
        value: Gradio's file object: a mapping with "path", the uploaded copy, and "orig_name", the visitor's name for it.
        upload_folder: where Gradio keeps uploads; a path outside it is refused.
        name: of the parameter, for errors.

    Raises:
        ParameterError: no image was sent, or the file is not an upload.
        ImageError: the upload cannot be used as an image.
    """
    accepted = "an uploaded image file (gradio_client: handle_file)"
    if value is None:
        raise ParameterError(name, None, accepted)
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or "\0" in path:
        raise ParameterError(name, value if isinstance(value, str) else type(value).__name__, accepted)
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(upload_folder).resolve()):
        raise ParameterError(name, Path(path).name, accepted)
    called = value.get("orig_name")
    return read_photo(resolved, source=Path(called).name[:80] if isinstance(called, str) and called else name)


def result_name(value: Mapping, scale: int = SCALE) -> str:
    """The file name of a result, after the visitor's name for the upload: plain letters, digits, - and _ only."""
    name = value.get("orig_name")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem)[:60].strip("-") if isinstance(name, str) else ""
    return f"{stem or 'sisrm'}-{scale}x.png"


class Handlers:
    """The app's two jobs on one pipeline; one job at a time.

    Args:
        pipe: a `SISRMPipeline`.
        facts: what to add to every report (preset, device, dtype, ...).
    """

    def __init__(self, pipe, facts: Mapping[str, Any]):
        self.pipe = pipe
        self.facts = dict(facts)
        self.defaults = default_settings(pipe)
        self.readings = Readings(pipe.read)
        # A pipeline holds the state of its run; a visitor who has gone away may have left one behind.
        self._busy = threading.Lock()

    def check(self, values: Mapping[str, object]) -> Settings:
        """`check_settings` with the weights' defaults; other words than class names where their text encoder reads free text."""
        return check_settings(values, self.defaults, self.pipe.config.free_text)

    def upscale(
        self,
        photo: Photo,
        settings: Settings,
        folder: Path,
        name: str = "sisrm-4x.png",
        progress: Callable[[int, int], None] | None = None,
        region: np.ndarray | None = None,
    ) -> Upscaled:
        """Enlarge a photo; where it is transparent, the result is.

        Args:
            photo: the picture, (h, w), and its alpha.
            settings: from `check_settings`.
            folder: an existing folder that gets the files.
            name: of the result's file.
            progress: called with (step, number of steps) after each denoising step.

            region: (h, w), of any size, of `sisrm.ui.regions.read_region`: where local control is added or kept away.

        Raises:
            SISRMError: the pipeline refused the image or a setting.
        """

        def after_step(pipe, step_index, timestep, tensors):
            if progress is not None:
                progress(step_index + 1, settings.steps)
            return tensors

        with self._busy:
            started = time.perf_counter()
            reading, known = self.readings.of(photo.image)
            looked = time.perf_counter() - started
            output = self.pipe(
                photo.image,
                **settings.arguments(),
                reading=reading,
                region_mask=region,
                generator=torch.Generator("cpu").manual_seed(settings.seed),
                callback_on_step_end=after_step,
            )
        for part in ("segmentation", "total"):
            output.timings[part] += looked
        enlarged, class_map = output.images[0], output.class_map[0]
        if settings.output_scale != SCALE:
            size = [settings.output_scale * side for side in photo.size]
            enlarged = enlarged.resize(size, Image.Resampling.LANCZOS)
        report = {
            "settings": settings.as_json(),
            **self._semantics(output, photo, class_map),
            "segmentation_reused": known,
            "region": None if region is None else shares(region),
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
            reading, _ = self.readings.of(photo.image)
            output = self.pipe.segment(photo.image, top_k=top_k, reading=reading)
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
