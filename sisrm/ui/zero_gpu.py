"""On a ZeroGPU Space: the model's part of a job in a process that has a GPU for as long as the call takes (`spaces.GPU`).

What crosses over is pictures, numbers and arrays, in and out; no callback does, so there are no previews meanwhile, and a job that is
cancelled ends when the call does. The pipeline itself is not sent: the process is forked from this one. https://hf.co/docs/hub/spaces-zerogpu
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from sisrm.errors import OutOfMemory, SISRMError
from sisrm.memory import is_out_of_memory
from sisrm.runtime import describe
from sisrm.semantics import Reading, SegmentationOutput
from sisrm.startup import zero_gpu_package
from sisrm.ui.ahead_of_time import compile_ahead
from sisrm.ui.model import NO_MEMORY, Answer, Model, Request
from sisrm.ui.progress import Pace, Watch, Work

FEWEST_SECONDS, MOST_SECONDS = 15, 120
"""Of a call. A shorter one is served earlier; a visitor without an account has 120 seconds a day, so no call asks for more."""

START_SECONDS = 10
"""For the weights to reach the GPU, in a process that is new."""

MARGIN = 2
"""How much longer than expected a call may take: ZeroGPU ends it when its time is over."""

GUESS = {"segmentation": 1.0, "image_encoder": 1e-5, "denoising": 5e-6, "decode": 1e-5}
"""Seconds per unit of `Pace`, on the careful side, for the parts that have not been timed yet."""


def gpu_seconds(request: Request, pace: Pace) -> int:
    """How long a call may take, for ZeroGPU to plan with.

    Args:
        request: size, steps and guidance count, and how many pictures are finished.
        pace: what the calls before took; GUESS where there were none.

    Returns:
        Whole seconds, FEWEST_SECONDS to MOST_SECONDS.
    """
    pixels, steps, passes = request.size
    units = Work.of(pixels, steps, passes).units
    wanted = {part: units[part] for part in GUESS if steps or part == "segmentation"}
    if steps and request.states:
        wanted["decode"] *= 3
    known = {part: pace.expect(part, count) for part, count in wanted.items()}
    expected = sum(GUESS[part] * wanted[part] if seconds is None else seconds for part, seconds in known.items())
    return min(MOST_SECONDS, max(FEWEST_SECONDS, math.ceil(START_SECONDS + MARGIN * expected)))


@dataclass(frozen=True)
class Arrays:
    """A reading on its way between the processes."""

    values: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, reading: Reading | None) -> Arrays | None:
        """float32, which holds every value of the shorter types."""
        if reading is None:
            return None
        return cls(tuple(getattr(reading, entry.name).float().cpu().numpy() for entry in fields(Reading)))

    def on(self, device: torch.device | str) -> Reading:
        """As tensors on a device."""
        return Reading(*(torch.from_numpy(value).to(device) for value in self.values))


class ZeroGPU(Model):
    """A pipeline whose networks run in ZeroGPU's process.

    Args:
        pipe: a `SISRMPipeline`, on the GPU that `spaces` stands in for.
        pace: learns from every call how long the next may take.
        spaces: the package.
    """

    live = False

    def __init__(self, pipe, pace: Pace, spaces: ModuleType):
        super().__init__(pipe)
        model = Model(pipe)

        def on_the_gpu(request: Request) -> Answer | SISRMError:
            """In the other process. An error that is returned is itself here too; of one that is raised `spaces` tells the name only."""
            watch = Watch()
            watch.begin(*request.size)
            try:
                if request.reading is not None:
                    request = replace(request, reading=request.reading.on(pipe._execution_device))
                answer = model.answer(request, watch)
            except SISRMError as error:
                return error
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                return OutOfMemory(NO_MEMORY)
            return replace(answer, reading=Arrays.of(answer.reading))

        self._call = spaces.GPU(duration=lambda request: gpu_seconds(request, pace))(on_the_gpu)

    def at(self, pipe) -> ZeroGPU:
        """This: every call's process has a pipeline of its own."""
        return self

    def answer(self, request: Request, watch: Watch) -> Answer:
        """As `Model.answer`, but that a cancelled job ends with the call; a reading is on the CPU."""
        watch.enter("away")
        done = self._call(replace(request, reading=Arrays.of(request.reading)))
        if isinstance(done, SISRMError):
            raise done
        seconds = {} if request.reading is not None else {"segmentation": done.looked}
        if done.output is not None:
            timings = done.output.timings
            seconds |= {part: timings[part] for part in ("image_encoder", "denoising", "decode")}
        watch.came_back(seconds)
        watch.require_wanted()
        return replace(done, reading=done.reading.on("cpu"))

    def choose(self, image: Image.Image, reading: Reading, **choice: Any) -> SegmentationOutput:
        """As `Model.choose`. Choosing from a reading needs no network, so it takes no call."""
        shape_only = torch.empty(1, 3, image.height, image.width)
        return self.pipe.extract_semantics(shape_only, reading=reading, **choice).output


def model_for(pipe, pace: Pace) -> Model:
    """The pipeline as a `Model`: `ZeroGPU` there, in this process everywhere else."""
    spaces = zero_gpu_package()
    if spaces is None:
        return Model(pipe)
    if describe(pipe)["compile"] == "inductor":
        compile_ahead(pipe, spaces)
    return ZeroGPU(pipe, pace, spaces)
