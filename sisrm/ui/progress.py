"""How far a job is, how long it will still take, and whether anybody still wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from sisrm.errors import Interrupted

PREVIEW_SHARE = 0.2
"""Previews take at most this part of a job's time."""

PREVIEW_SIDE = 768
"""Longest side of a preview, which is for looking at while waiting."""

PARTS = ("segmentation", "image_encoder", "denoising", "decode", "writing")
"""The parts of a job that take time, in their order."""

AWAY = "away"
"""The part during which the whole job is done in another process, which tells nothing until it is done."""

_MEMORY = 0.5  # how much the latest job counts in a pace


@dataclass(frozen=True)
class Update:
    """A job as it stands.

    Attributes:
        stage: "waiting" (for the model), "looking" (at what is in the photo), "denoising", "away" (see AWAY), "finishing" or
            "done".
        step, steps: denoising steps done, and how many there are.
        tiles_done, tiles: of the part that is being worked on.
        elapsed: seconds since the model was free.
        seconds_left: estimate from this job's and the last jobs' own speed; None as long as nothing is known to tell it from.
        preview: the estimate after `preview_step` steps, or None.
        result: of the job, when it is done.
    """

    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    tiles_done: int = 0
    tiles: int = 1
    elapsed: float = 0.0
    seconds_left: float | None = None
    preview: Image.Image | None = None
    preview_step: int = 0
    result: Any = None


class Pace:
    """Seconds per unit of work of each part, learnt from the jobs before. A unit is a photo for the segmentation, a pixel of the photo for
    the rest, and for the denoising a pixel at one step and one pass (guidance takes two)."""

    def __init__(self):
        self._seconds: dict[str, float] = {}

    def note(self, part: str, units: float, seconds: float) -> None:
        """A part was done in so many seconds."""
        latest = seconds / units
        known = self._seconds.get(part, latest)
        self._seconds[part] = known + _MEMORY * (latest - known)

    def expect(self, part: str, units: float) -> float | None:
        """Seconds that so many units would take; None where that part was never done."""
        known = self._seconds.get(part)
        return None if known is None else known * units


@dataclass
class Work:
    """Units of every part of one job, and which share of them is done (0..1)."""

    units: dict[str, float]
    done: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @classmethod
    def of(cls, pixels: int, steps: int, passes: int) -> Work:
        """For a photo of so many pixels."""
        units = dict.fromkeys(PARTS, float(pixels))
        return cls(units | {"segmentation": 1.0, "denoising": float(pixels * steps * passes)})


class Watch:
    """What the thread that works tells, and those who wait read. Thread-safe.

    Args:
        pace: of the model; updated when the job ends.
        previews: whether previews are wanted.
        clock: seconds.
    """

    def __init__(
        self, pace: Pace | None = None, previews: bool = False, clock: Callable[[], float] = time.perf_counter
    ):
        self.pace, self.previews, self._clock = pace or Pace(), previews, clock
        self.cancelled = threading.Event()
        self.changed = threading.Condition()
        self.version = 0
        self._update = Update()
        self._work: Work | None = None
        self._started = self._part_started = clock()
        self._part = ""
        self._expected: dict[str, float | None] = {}
        self._spent = self._foreseen = 0.0  # seconds of the parts done, and as they were expected
        self.looks = 0  # states to be made on the way; each takes as long as finishing the picture
        self._preview_cost: float | None = None
        self._previewed = 0.0

    def begin(self, pixels: int, steps: int, passes: int) -> None:
        """The model is free and the job's size known."""
        self._work = Work.of(pixels, steps, passes)
        self._expected = {part: self.pace.expect(part, units) for part, units in self._work.units.items()}
        self._started = self._clock()
        self.tell(steps=steps)

    def tell(self, **changes: Any) -> None:
        """Change what readers see, and wake them."""
        with self.changed:
            self._update = replace(self._update, **changes)
            self.version += 1
            self.changed.notify_all()

    def read(self) -> Update:
        """The state, with times as of now."""
        with self.changed:
            if self._work is None or self._update.stage == "done":
                return self._update
            elapsed = self._clock() - self._started
            return replace(self._update, elapsed=elapsed, seconds_left=self._seconds_left())

    def enter(self, part: str) -> None:
        """A part begins, and the one before is done."""
        if part == self._part:
            return
        with self.changed:
            self._leave()
            self._part, self._part_started = part, self._clock()
        stages = {"segmentation": "looking", "image_encoder": "looking", "denoising": "denoising", AWAY: AWAY}
        self.tell(stage=stages.get(part, "finishing"), tiles_done=0)

    def came_back(self, seconds: dict[str, float]) -> None:
        """What was done in another process took so many seconds, by its parts."""
        with self.changed:
            if self._work is None:
                return
            for part, spent in seconds.items():
                self.pace.note(part, self._work.units[part], spent)
            self._work.done.update({part: 1.0 for part in PARTS if part != "writing"})

    def leave(self) -> None:
        """The part that was entered last is done."""
        with self.changed:
            self._leave()

    def tile(self, part: str, done: int, total: int) -> None:
        """`callback_on_tile_end` of the pipeline. With the last tile of a part the next part begins."""
        self.enter(part)
        with self.changed:
            self._work.done[part] = done / total
        tiles = max(1, total // max(1, self._update.steps if part == "denoising" else 1))
        step = done // tiles if part == "denoising" else self._update.step
        self.tell(tiles_done=(done - 1) % tiles + 1, tiles=tiles, step=step)
        if done == total:
            self.enter(PARTS[PARTS.index(part) + 1])

    def wants_preview(self, tiles: int) -> bool:
        """Whether a preview now keeps previews within PREVIEW_SHARE of the time. As long as nobody knows what one costs the first is made
        where the picture is of one tile."""
        cost = self._preview_cost
        if cost is None and self._work is not None:
            cost = self.pace.expect("decode", self._work.units["decode"])
        if not self.previews or cost is None:
            return self.previews and tiles == 1
        return cost <= PREVIEW_SHARE * (self._clock() - max(self._started, self._previewed))

    def show(self, step: int, make: Callable[[], Image.Image]) -> Image.Image:
        """Make the picture after a step and give it to the readers, smaller; -> the picture itself."""
        started = self._clock()
        image = make()
        self._previewed = self._clock()
        self._preview_cost = self._previewed - started
        with self.changed:
            self._started += self._preview_cost  # not the model's speed; what is left is told without it
            self._part_started += self._preview_cost
            self.pace.note("decode", self._work.units["decode"], self._preview_cost)
        small = image.copy()
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2)
        self.tell(preview=small, preview_step=step)
        return image

    def require_wanted(self) -> None:
        """Raises Interrupted once the job is cancelled."""
        if self.cancelled.is_set():
            raise Interrupted("the job was cancelled")

    def _leave(self) -> None:
        if self._part in PARTS and self._work is not None:
            seconds = self._clock() - self._part_started
            # The segmentation of a photo that was seen before takes no time, which says nothing of the machine's speed.
            if self._expected[self._part] and self._part != "segmentation":
                self._spent, self._foreseen = self._spent + seconds, self._foreseen + self._expected[self._part]
            self.pace.note(self._part, self._work.units[self._part], seconds)
            self._work.done[self._part] = 1.0
        self._part = ""

    def _seconds_left(self) -> float | None:
        work, now = self._work, self._part
        expected = {part: self._expected[part] or self.pace.expect(part, work.units[part]) for part in PARTS}
        spent, foreseen = self._spent, self._foreseen
        here = self._clock() - self._part_started
        share = work.done.get(now, 0.0)
        if share > 0:
            spent, foreseen = spent + here, foreseen + share * (expected[now] or here / share)
            expected[now] = expected[now] or here / share
        waiting = {part for part in PARTS if work.done[part] < 1}
        if any(expected[part] is None for part in waiting):
            return None
        slowness = spent / foreseen if foreseen > 0 else 1.0  # of the machine now, against the jobs before
        left = slowness * sum(expected[part] * (1 - work.done[part]) for part in waiting)
        left += slowness * self.looks * (expected["decode"] or 0.0)
        # A part of one tile tells nothing until it is done: what has gone by of it is not left any more.
        if now in waiting and share == 0:
            left -= min(here, slowness * expected[now])
        if now == AWAY:
            left -= here
        return max(0.0, left)
