"""How many jobs run on the model at once: each takes a seat, which is a pipeline of its own around the same weights."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sisrm.errors import ParameterError
from sisrm.startup import trim_heaps

MOST = 16
"""Most seats; each job needs memory for its own tiles and picture."""

_LOOK = 0.05  # seconds between two looks whether a job that waits is still wanted


def concurrency() -> int:
    """Jobs at once: SISRM_CONCURRENCY, or 1 when that is not set.

    Raises:
        ParameterError: SISRM_CONCURRENCY is not a whole number from 1 to MOST.
    """
    set_to = os.environ.get("SISRM_CONCURRENCY", "").strip()
    if not set_to:
        return 1
    if not (set_to.isascii() and set_to.isdecimal() and len(set_to) < 4 and 1 <= int(set_to) <= MOST):
        raise ParameterError("SISRM_CONCURRENCY", set_to, f"a whole number from 1 to {MOST}, the jobs at once")
    return int(set_to)


class Seats:
    """Args: pipe: a `SISRMPipeline`, whose parts are shared by all seats. count: of seats.

    Raises:
        ParameterError: several seats, and parts that take turns on the device, which two jobs would move under each other.
    """

    def __init__(self, pipe, count: int = 1):
        if count > 1 and getattr(pipe, "_offload_device", None) is not None:
            raise ParameterError("SISRM_CONCURRENCY", count, "1, as the model's parts take turns on this device")
        self.count = count
        self._free = [*(_twin(pipe) for _ in range(count - 1)), pipe]
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """How many jobs run."""
        return self.count - len(self._free)

    @contextmanager
    def take(self, require_wanted: Callable[[], None]) -> Iterator:
        """A pipeline that nobody else uses while the block runs; waits for one.

        Args:
            require_wanted: raises where the job is not wanted any more.
        """
        with self._changed:
            while not self._free:
                self._changed.wait(_LOOK)
                require_wanted()
            pipe = self._free.pop()
        try:
            require_wanted()
            yield pipe
        finally:
            trim_heaps()
            with self._changed:
                self._free.append(pipe)
                self._changed.notify()


def _twin(pipe):
    """The same parts with a scheduler and an `interrupt` of its own: what a pipeline holds of its run."""
    twin = copy.copy(pipe)
    twin.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return twin
