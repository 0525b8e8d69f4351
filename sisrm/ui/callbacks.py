"""What the pipeline calls while it works for a visitor: the watch is told, previews are made, states kept, and unwanted work stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PIL import Image

from sisrm.steps import PAPER_SHARES, StateRecorder
from sisrm.ui.progress import Watch

STATE_TILES = 4
"""Pictures of more tiles have no intermediate states: finishing one takes longer than a visitor would wait for a small picture."""


class Steps:
    """`callback_on_step_end` of the pipeline.

    Args:
        watch: of the job.
        steps: how many there will be.
        states: whether the estimates at 0.5T and 0.2T (figure 6) are kept.
    """

    def __init__(self, watch: Watch, steps: int, states: bool):
        self.watch, self.steps = watch, steps
        self._at = StateRecorder(PAPER_SHARES, steps).steps if states else {}
        self.states: dict[float, Image.Image] = {}
        watch.looks = len(set(self._at.values()))

    def __call__(self, pipe, index: int, timestep: int, values: dict) -> dict:
        """See `SISRMPipeline.__call__`."""
        if self.watch.cancelled.is_set():
            pipe.interrupt = True
            return {}
        if values["tiles"] > STATE_TILES:
            self._at, self.watch.looks = {}, 0
        wanted = [share for share, step in self._at.items() if step == index]
        if wanted or (index + 1 < self.steps and self.watch.wants_preview(values["tiles"])):
            shown = self.watch.show(index + 1, lambda: values["preview"](report=partial(self._after_tile, pipe))[0])
            self.states.update(dict.fromkeys(wanted, shown))
            self.watch.looks -= bool(wanted)
        return {}

    def _after_tile(self, pipe, done: int, total: int) -> None:
        """A preview of many tiles is not finished for nobody."""
        if self.watch.cancelled.is_set():
            pipe.interrupt = True


def tiles(watch: Watch) -> Callable[..., None]:
    """`callback_on_tile_end` of the pipeline."""

    def after_tile(pipe, part: str, done: int, total: int) -> None:
        if watch.cancelled.is_set():
            pipe.interrupt = True
        watch.tile(part, done, total)

    return after_tile
