"""A job in a thread of its own: what it tells while it runs, and how it is stopped.

Whoever waits for a job reads `updates` (or `aupdates` in a coroutine). When the reading ends early, because somebody pressed Cancel, left
the page or lost the connection, the job is cancelled: the model is free again after the tile or step that it is at.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from sisrm.ui.progress import Update, Watch

T = TypeVar("T")

BEAT = 0.5
"""Seconds after which an update comes even when nothing has changed, so that a reader who is gone is noticed."""

_LOOK = 0.03  # seconds between two looks of a coroutine; it shares its thread with all other requests


class Job(Generic[T]):
    """Starts at once.

    Args:
        work: called with the watch in the job's thread; returns the result. It raises Interrupted where the watch is cancelled.
        watch: what is told about it.
    """

    def __init__(self, work: Callable[[Watch], T], watch: Watch):
        self.watch = watch
        self._result: T | None = None
        self._error: BaseException | None = None
        # In the caller's context: whoever works for a visitor (ZeroGPU does) must know for whom.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run, work), name="job", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask it to stop; returns at once."""
        self.watch.cancelled.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, however it ends; -> whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def updates(self, beat: float = BEAT) -> Iterator[Update]:
        """How it stands, at every change but not more often than is read, and the result at the end.

        Raises:
            Exception: what the work raised.
        """
        seen = -1
        try:
            while True:
                with self.watch.changed:
                    self.watch.changed.wait_for(lambda: self.watch.version != seen, beat)  # noqa: B023
                    seen, ended = self.watch.version, self._ended
                if ended:
                    break
                yield self.watch.read()
            yield self._last()
        finally:
            self.cancel()

    async def aupdates(self, beat: float = BEAT) -> AsyncIterator[Update]:
        """`updates` for a coroutine."""
        seen, told = -1, time.monotonic()
        try:
            while not self._ended:
                if self.watch.version != seen or time.monotonic() - told > beat:
                    seen, told = self.watch.version, time.monotonic()
                    yield self.watch.read()
                await asyncio.sleep(_LOOK)
            yield self._last()
        finally:
            self.cancel()

    @property
    def _ended(self) -> bool:
        return self._result is not None or self._error is not None

    def _last(self) -> Update:
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # it would keep its frames, and they the tensors of the job
        return self.watch.read()

    def _run(self, work: Callable[[Watch], T]) -> None:
        try:
            result = work(self.watch)
        except BaseException as error:  # noqa: BLE001 - told to whoever reads the updates
            self._error = error
            self.watch.tell()
        else:
            self.watch.tell(stage="done", seconds_left=0.0, result=result)
            self._result = result
            self.watch.tell()
