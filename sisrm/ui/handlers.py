"""What the app does, without its looks: check a request, call the pipeline, say what was done.

Nothing here knows about components. A request arrives as it came over the wire (the sliders of a browser and a raw API call alike), so
everything in it is checked here, and every refusal is an `SISRMError` whose message can be shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sisrm import __version__
from sisrm.conversion import with_alpha
from sisrm.drawing import draw_overlay, legend
from sisrm.errors import OutOfMemory
from sisrm.evaluation.identity import weights_digest
from sisrm.figure import Box, choose_boxes
from sisrm.images import NOTICES, Photo, write_image, write_png
from sisrm.memory import is_out_of_memory, release_memory
from sisrm.resize import SCALE
from sisrm.sape import Label
from sisrm.semantics import SegmentationOutput
from sisrm.startup import trim_heaps
from sisrm.ui.model import NO_MEMORY, Answer, Request
from sisrm.ui.pictures import Views, write_views
from sisrm.ui.progress import Pace, Watch
from sisrm.ui.readings import Readings, pixels_digest
from sisrm.ui.regions import shares
from sisrm.ui.seats import Seats
from sisrm.ui.settings import Settings, check_settings, default_settings
from sisrm.ui.zero_gpu import model_for

T = TypeVar("T")

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
    """The app's two jobs on one model.

    Args:
        pipe: a `SISRMPipeline`.
        facts: what to add to every report (preset, device, dtype, ...).
        at_once: how many jobs run at the same time.

    Raises:
        ParameterError: this pipeline cannot run so many jobs at once.
    """

    def __init__(self, pipe, facts: Mapping[str, Any], at_once: int = 1):
        self.pipe = pipe
        self.facts = dict(facts)
        self.defaults = default_settings(pipe)
        self.readings = Readings()
        self.pace = Pace()
        self.model = model_for(pipe, self.pace)
        # A pipeline holds the state of its run; a visitor who has gone away may have left one behind.
        self.seats = Seats(pipe, at_once)

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

        def work(pipe) -> tuple[Request, Answer]:
            key = pixels_digest(photo.image)
            request = Request(photo.image, settings, self.readings.get(key), region, states)
            watch.begin(*request.size)
            done = self.model.at(pipe).answer(request, watch)
            self.readings.keep(key, done.reading)
            return request, done

        held = [self._seated(watch, work)]
        try:  # the model is free for others while the files are written
            return self._within_memory(lambda: self._write(*held.pop(), photo, folder, name, watch, more or {}))
        finally:
            trim_heaps()

    def _write(self, request, done, photo, folder, name, watch, more) -> Upscaled:
        """The files and the report. A large picture takes a while, so the watch is asked before each file."""
        watch.enter("writing")
        settings, output, region = request.settings, done.output, request.region
        for part in ("segmentation", "total"):
            output.timings[part] += done.looked
        enlarged, class_map = output.images[0], output.class_map[0]
        if settings.output_scale != SCALE:
            size = [settings.output_scale * side for side in photo.size]
            enlarged = enlarged.resize(size, Image.Resampling.LANCZOS)
        report = {
            "settings": settings.as_json(),
            **self._semantics(output, photo, class_map),
            "segmentation_reused": request.reading is not None,
            "region": None if region is None else shares(region),
            "seed": settings.seed,
            "local_control_share": round(float(np.mean(output.mff_mask[0])), 4),
            "output_size": list(enlarged.size),
            "tiles": output.tiles,
            "timings": {name: round(float(seconds), 4) for name, seconds in output.timings.items()},
            **more,
        }

        def written(image: Image.Image, called: str, carried: dict | None = None) -> Path:
            watch.require_wanted()
            return write_image(with_alpha(image, photo.alpha), folder / called, carried)

        upscaled = Upscaled(
            result=written(enlarged, name, report),
            before=written(photo.image.resize(enlarged.size, Image.Resampling.BICUBIC), "before.png"),
            small=written(photo.image, "small.png"),
            boxes=choose_boxes(photo.image),
            views=write_views(enlarged, class_map, folder, np.asarray(output.mff_mask[0], bool)),
            report=report,
            states={share: write_png(image, folder / f"state-{share:g}.png") for share, image in done.states.items()},
        )
        watch.leave()
        return upscaled

    def segment(self, photo: Photo, top_k: int, folder: Path, watch: Watch | None = None, **choice: Any) -> Segmented:
        """Find what is in a photo, without enlarging it.

        Args:
            photo: the picture, (h, w).
            top_k: most labels.
            folder: an existing folder that gets the overlay.
            watch: can cancel it while it waits for the model.
            choice: `labels`, `extend_labels` and `muted_labels` of `SISRMPipeline.segment`.

        Raises:
            SISRMError: the pipeline refused the image or a setting.
        """
        output = self._look(photo, watch, top_k=top_k, **choice)
        class_map = output.class_map[0]
        report = {"settings": {"top_k": top_k}, **self._semantics(output, photo, class_map)}
        return Segmented(
            overlay=_write_overlay(photo.image, class_map, folder),
            views=write_views(photo.image, class_map, folder),
            report=report,
        )

    def labels_of(self, photo: Photo, settings: Settings, watch: Watch | None = None) -> list[Label]:
        """The labels of the prompt that `upscale` would use for the whole photo."""
        return self._look(photo, watch, **settings.label_arguments()).labels[0]

    @property
    def busy(self) -> bool:
        """Whether the model is in use."""
        return self.seats.taken > 0

    def _look(self, photo: Photo, watch: Watch | None, **choice: Any) -> SegmentationOutput:
        watch = watch or Watch(self.pace)

        def look(pipe) -> SegmentationOutput:
            model, key = self.model.at(pipe), pixels_digest(photo.image)
            reading = self.readings.get(key)
            if reading is None:
                reading = model.answer(Request(photo.image), watch).reading
                self.readings.keep(key, reading)
            return model.choose(photo.image, reading, **choice)

        return self._seated(watch, look)

    def _seated(self, watch: Watch, work: Callable[[Any], T]) -> T:
        """Do work with a pipeline that nobody else uses."""
        with self.seats.take(watch.require_wanted) as pipe:
            return self._within_memory(partial(work, pipe))

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do work; where memory runs out all that is not in use is given back before the error is raised."""
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

    def _semantics(self, output, photo: Photo, class_map: np.ndarray) -> dict[str, Any]:
        """The part of a report that both jobs share."""
        return {
            "labels": labels_as_json(output.labels[0]),
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


def labels_as_json(labels: Iterable[Label]) -> list[dict[str, Any]]:
    """Labels as a report has them."""
    return [{**asdict(label), "score": None if label.score is None else round(label.score, 4)} for label in labels]


def _write_overlay(image: Image.Image, class_map: np.ndarray, folder: Path) -> Path:
    stride = -(-max(class_map.shape) // OVERLAY_SIDE)
    return write_png(draw_overlay(image, class_map[::stride, ::stride]), folder / "regions.png")
