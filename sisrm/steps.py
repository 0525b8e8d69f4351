"""The intermediate states of a run, as in the paper's figure 6: what the estimate looks like at 0.5T and at 0.2T.

T is the number of the run's own denoising steps. A run starts part of the way up the noise schedule (`start_strength`), so
0.5T lies half-way through the run, not half-way up the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from PIL import Image

from sisrm.errors import ParameterError

PAPER_SHARES = (0.5, 0.2)
"""Figure 6 shows t = 0.5T and t = 0.2T."""


def require_shares(shares: Iterable[float]) -> tuple[float, ...]:
    """Shares of a run that are still to go, each once, largest (that is earliest) first.

    Raises:
        ParameterError: one is not a number above 0 and below 1.
    """
    shares = tuple(shares)
    for share in shares:
        if not isinstance(share, (int, float)) or not math.isfinite(share) or not 0 < share < 1:
            raise ParameterError("shares", share, "numbers above 0 and below 1, the share of the run still to go")
    return tuple(sorted(set(map(float, shares)), reverse=True))


def step_at(share: float, steps: int) -> int:
    """The step, counted from 0, after which the share of the run still to go is nearest to `share`.

    After step i of N that share is (N - 1 - i) / N. Of two steps that are equally near the later one is taken; a short run may
    have the same step for two shares.
    """
    # Rounding makes ties out of distances that differ in the last bit of a float.
    return min(range(steps), key=lambda index: (round(abs((steps - 1 - index) / steps - share), 9), -index))


class StateRecorder:
    """Keeps the states of one call: give it as `callback_on_step_end` and read `states` afterwards.

    Looking does not change the result; each state costs one more decoding.

    Args:
        shares: of the run that are still to go at the states, each above 0 and below 1.
        steps: how often the call will call back, which is its number of denoising steps.

    Attributes:
        steps: share -> the step, counted from 0, that its state is taken after; see `step_at`.
        states: share -> the estimate at that step, finished like a result: PIL RGB, four times as wide and high as the LR image.
            Of a batch, the first image. Filled during the call.

    Raises:
        ParameterError: a share is not accepted.
    """

    def __init__(self, shares: Iterable[float], steps: int):
        self.steps = {share: step_at(share, steps) for share in require_shares(shares)}
        self.states: dict[float, Image.Image] = {}

    def __call__(self, pipe, index: int, timestep: int, values: dict) -> dict:
        wanted = [share for share, step in self.steps.items() if step == index]
        if wanted:
            self.states.update(dict.fromkeys(wanted, values["preview"]()[0]))
        return {}
