"""The part of a job that needs the model's networks, and nothing else: pictures in, pictures out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from sisrm.pipeline import SISRMOutput
from sisrm.semantics import Reading, SegmentationOutput
from sisrm.ui.callbacks import Steps, tiles
from sisrm.ui.progress import Watch
from sisrm.ui.settings import Settings

NO_MEMORY = "there is not enough memory for this picture; a smaller one may fit"


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        image: the photo, RGB.
        settings: of the enlargement; None: only look at what is in the photo.
        reading: of the photo, where it was looked at before.
        region: (h, w) of any size, as `SISRMPipeline.__call__` takes it.
        states: whether the estimates at 0.5T and 0.2T are kept.
    """

    image: Image.Image
    settings: Settings | None = None
    reading: Reading | None = None
    region: np.ndarray | None = None
    states: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """-> (pixels of the photo, steps, passes a step: two with guidance); no steps where it is only looked at."""
        pixels = self.image.width * self.image.height
        if self.settings is None:
            return pixels, 0, 0
        return pixels, self.settings.steps, 2 if self.settings.guidance_scale > 1 else 1


@dataclass(frozen=True)
class Answer:
    """What came of it: the reading, the seconds that looking took (0 where it was known), the output, and the states by their share."""

    reading: Reading
    looked: float
    output: SISRMOutput | None = None
    states: dict[float, Image.Image] = field(default_factory=dict)


class Model:
    """A pipeline in this process: it tells how far it is, makes previews, and stops when it is told to.

    Args:
        pipe: a `SISRMPipeline`.
    """

    live = True
    """Whether previews are made and Cancel stops it while it works."""

    def __init__(self, pipe):
        self.pipe = pipe

    def at(self, pipe) -> Model:
        """The same on a pipeline of the caller's own, which holds the state of a run."""
        return Model(pipe)

    def answer(self, request: Request, watch: Watch) -> Answer:
        """Do the work.

        Raises:
            SISRMError: the pipeline refused the image or a setting, or memory ran out. Interrupted: the watch was cancelled.
        """
        watch.enter("segmentation")
        started = time.perf_counter()
        reading = self.pipe.read(request.image) if request.reading is None else request.reading
        looked = time.perf_counter() - started
        if request.settings is None:
            return Answer(reading, looked)
        watch.require_wanted()
        watch.enter("image_encoder")
        settings = request.settings
        steps = Steps(watch, settings.steps, request.states)
        output = self.pipe(
            request.image,
            **settings.arguments(),
            reading=reading,
            region_mask=request.region,
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            callback_on_step_end=steps,
            callback_on_tile_end=tiles(watch),
        )
        return Answer(reading, looked, output, steps.states)

    def choose(self, image: Image.Image, reading: Reading, **choice: Any) -> SegmentationOutput:
        """Labels and class map from a reading; `choice` as in `SISRMPipeline.segment`."""
        return self.pipe.segment(image, reading=reading, **choice)
