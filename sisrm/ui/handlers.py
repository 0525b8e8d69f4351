"""What the app does, without its looks: check a request, call the pipeline, say what was done.

Nothing here knows about components. A request arrives as it came over the wire (the sliders of a browser and a raw API call alike), so
everything in it is checked here, and every refusal is an `SISRMError` whose message can be shown as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from sisrm import __version__
from sisrm.conversion import with_alpha
from sisrm.drawing import draw_overlay, legend
from sisrm.errors import OutOfMemory
from sisrm.evaluation.identity import weights_digest
from sisrm.figure import Box, choose_boxes
from sisrm.images import NOTICES, Photo, write_image, write_png
from sisrm.resize import SCALE
from sisrm.sape import Label
from sisrm.semantics import SegmentationOutput
from sisrm.tiling import is_out_of_memory, release_memory
from sisrm.ui.callbacks import Steps, tiles
from sisrm.ui.pictures import Views, write_views
from sisrm.ui.progress import Pace, Watch
from sisrm.ui.readings import Readings
from sisrm.ui.regions import shares
from sisrm.ui.settings import Settings, check_settings, default_settings

T = TypeVar("T")

NO_MEMORY = "there is not enough memory for this picture; a smaller one may fit"

OVERLAY_SIDE = 1024
"""The longest side of an overlay picture, which is for looking at only."""


@dataclass(frozen=True)
class Upscaled:
    """The result of `upscale`: files of the result in the format asked for, and as PNG of the photo enlarged by bicubic interpolation, the
    photo itself and what the model saw; the two places with the most detail, in pixels of the photo; and the report, a JSON object of what
    was done.

    `states`: share of the steps still to go (0.5 and 0.2) -> the estimate there, where they were asked for.
    """

    result: Path
    before: Path
    small: Path
    boxes: tuple[Box, Box]
    views: Views
    report: dict[str, Any]
    states: dict[float, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Segmented:
    """The result of `segment`: the overlay's PNG file and the report."""

    overlay: Path
    views: Views
    report: dict[str, Any]


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
        self.pace = Pace()
        # A pipeline holds the state of its run; a visitor who has gone away may have left one behind.
        self._busy = threading.Lock()

    @cached_property
    def weights_hash(self) -> str:
        """Tells the model's weights from all others: 16 hexadecimal digits. Read from the disk once, with the first job."""
        return weights_digest(self.pipe)[:16]

    def check(self, values: Mapping[str, object]) -> Settings:
        """`check_settings` with the weights' defaults; other words than class names where their text encoder reads free text."""
        return check_settings(values, self.defaults, self.pipe.config.free_text)

    def upscale(
        self,
        photo: Photo,
        settings: Settings,
        folder: Path,
        name: str = "sisrm-4x.png",
        watch: Watch | None = None,
        region: np.ndarray | None = None,
        states: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> Upscaled:
        """Enlarge a photo; where it is transparent, the result is.

        Args:
            photo: the picture, (h, w), and its alpha.
            settings: from `check_settings`.
            folder: an existing folder that gets the files.
            name: of the result's file; its ending says which format of `sisrm.ui.results.FORMATS`.
            watch: is told how far it is, and can cancel it.
            region: (h, w), of any size, of `sisrm.ui.regions.read_region`: where local control is added or kept away.
            states: also keep the estimates at 0.5T and 0.2T, as in the paper's figure 6. Each takes as long as finishing the picture, so
                there are none for pictures of more than STATE_TILES tiles.
            more: entries of the report, in place of its own or besides.

        Raises:
            SISRMError: the pipeline refused the image or a setting, or memory ran out. Interrupted: the watch was cancelled.
        """
        watch = watch or Watch(self.pace)
        return self._alone(watch, lambda: self._upscale(photo, settings, folder, name, watch, region, states, more))

    def _upscale(self, photo, settings, folder, name, watch, region, states, more) -> Upscaled:
        watch.begin(photo.size[0] * photo.size[1], settings.steps, 2 if settings.guidance_scale > 1 else 1)
        watch.enter("segmentation")
        started = time.perf_counter()
        reading, known = self.readings.of(photo.image)
        looked = time.perf_counter() - started
        watch.require_wanted()
        watch.enter("image_encoder")
        steps = Steps(watch, settings.steps, states)
        output = self.pipe(
            photo.image,
            **settings.arguments(),
            reading=reading,
            region_mask=region,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            callback_on_step_end=steps,
            callback_on_tile_end=tiles(watch),
        )
        watch.enter("writing")
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
            **(more or {}),
        }
        before = photo.image.resize(enlarged.size, Image.Resampling.BICUBIC)
        done = Upscaled(
            result=write_image(with_alpha(enlarged, photo.alpha), folder / name, report),
            before=write_png(with_alpha(before, photo.alpha), folder / "before.png"),
            small=write_png(with_alpha(photo.image, photo.alpha), folder / "small.png"),
            boxes=choose_boxes(photo.image),
            views=write_views(enlarged, class_map, folder, np.asarray(output.mff_mask[0], bool)),
            report=report,
            states={share: write_png(image, folder / f"state-{share:g}.png") for share, image in steps.states.items()},
        )
        watch.leave()
        return done

    def segment(self, photo: Photo, top_k: int, folder: Path, watch: Watch | None = None) -> Segmented:
        """Find what is in a photo, without enlarging it.

        Args:
            photo: the picture, (h, w).
            top_k: most labels.
            folder: an existing folder that gets the overlay.
            watch: can cancel it while it waits for the model.

        Raises:
            SISRMError: the pipeline refused the image or a setting.
        """
        output = self._look(photo, watch, top_k=top_k)
        class_map = output.class_map[0]
        report = {"settings": {"top_k": top_k}, **self._semantics(output, photo, class_map)}
        return Segmented(
            overlay=_write_overlay(photo.image, class_map, folder),
            views=write_views(photo.image, class_map, folder),
            report=report,
        )

    def labels_of(self, photo: Photo, settings: Settings, watch: Watch | None = None) -> list[Label]:
        """The labels of the prompt that `upscale` would use for the whole photo."""
        chosen = settings.arguments()
        names = ("top_k", "labels", "extend_labels", "muted_labels")
        return self._look(photo, watch, **{name: chosen[name] for name in names}).labels[0]

    @property
    def busy(self) -> bool:
        """Whether the model is in use."""
        return self._busy.locked()

    def _look(self, photo: Photo, watch: Watch | None, **choice: Any) -> SegmentationOutput:
        def look() -> SegmentationOutput:
            return self.pipe.segment(photo.image, reading=self.readings.of(photo.image)[0], **choice)

        return self._alone(watch or Watch(self.pace), look)

    def _alone(self, watch: Watch, work: Callable[[], T]) -> T:
        """Do work with the model, for nobody else at the time. Where memory runs out all that is not in use is given back first."""
        while not self._busy.acquire(timeout=0.05):
            watch.require_wanted()
        try:
            watch.require_wanted()
            try:
                return work()
            except (MemoryError, RuntimeError, OutOfMemory) as error:
                if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
                    raise
                short = str(error) if isinstance(error, OutOfMemory) else NO_MEMORY
            # Outside of the handler, whose error keeps the frames and with them the tensors that did not fit.
            self.readings.clear()
            release_memory()
            raise OutOfMemory(short)
        finally:
            self._busy.release()

    def _semantics(self, output, photo: Photo, class_map: np.ndarray) -> dict[str, Any]:
        """The part of a report that both jobs share."""
        return {
            "labels": [
                {**asdict(label), "score": None if label.score is None else round(label.score, 4)}
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
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "gradio")},
            "weights_hash": self.weights_hash,
        }


def _write_overlay(image: Image.Image, class_map: np.ndarray, folder: Path) -> Path:
    stride = -(-max(class_map.shape) // OVERLAY_SIDE)
    return write_png(draw_overlay(image, class_map[::stride, ::stride]), folder / "regions.png")
