"""CUDA graphs: a network's thousand kernels started by one call, where starting them one by one takes longer than their work.

A function of tensors runs as it is the first time it is called with tensors of some shapes, is recorded the second time, and replayed from
then on: the same kernels on the same numbers (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs). A recording knows the
memory of the networks that it ran; after they were changed for others, `forget` it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from sisrm.remembering import remembering_nothing

logger = logging.getLogger(__name__)

LIMIT = 2 * 2**30
"""Bytes of GPU memory that recordings may hold; where one more would pass it, all are given up and recording begins anew."""

MOST_KNOWN = 1024  # shapes that were seen once are remembered, up to so many

Tensors = tuple[torch.Tensor, ...]

_all: weakref.WeakSet[Replay] = weakref.WeakSet()


def forget_recordings() -> None:
    """Give up the recordings of all pipelines, where memory is short."""
    for replay in list(_all):
        replay.forget()


@dataclass
class Recording:
    """A recorded run: `replay` reads `given`, writes `made`, and holds `size` bytes that nothing else may use."""

    given: Tensors
    made: Tensors
    replay: Callable[[], None]
    size: int = 0


class Recorder:
    """Records runs on a CUDA device. All its recordings share one pool of memory, as no two of them ever run at once."""

    def __init__(self):
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[..., Tensors], given: Tensors) -> Recording:
        """Raises RuntimeError where the function does what cannot be recorded, or memory runs out."""
        with torch.cuda.device(given[0].device):
            return self._record(function, tuple(tensor.clone() for tensor in given))

    def _record(self, function: Callable[..., Tensors], given: Tensors) -> Recording:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is set up on a first run does not belong into the recording
            for _ in range(2):
                function(*given)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            made = function(*given)
        inputs = sum(tensor.nbytes for tensor in given)
        return Recording(given, made, graph.replay, inputs + max(0, torch.cuda.memory_reserved() - before))


class Replay:
    """Runs functions of tensors, recorded where they come again; several threads may use one.

    Args:
        recorder: makes a new recorder, whose recordings share their memory.
        limit: bytes that they may hold.
    """

    def __init__(self, recorder: Callable[[], Callable[[Callable, Tensors], Recording]] = Recorder, limit: int = LIMIT):
        self.limit = limit
        self._new_recorder = recorder
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, Recording | None | bool] = OrderedDict()
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Give up all recordings; to be called where a network was changed for another, or moved."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self.held and torch.cuda.is_available():
            torch.cuda.synchronize()  # what still runs reads that memory
        self._known.clear()
        self._record = self._new_recorder()

    @property
    def held(self) -> int:
        """Bytes that recordings hold."""
        return sum(known.size for known in self._known.values() if isinstance(known, Recording))

    def __call__(self, name: Hashable, function: Callable[..., Tensors], *given: torch.Tensor | None) -> Tensors:
        """`function(*given)`, new tensors.

        Args:
            name: of the function and of all that its work depends on beside `given`.
            function: of tensors on one device, to tensors; it asks for no value of theirs and keeps none.
            given: tensors; None for one that is not there.
        """
        tensors = tuple(tensor for tensor in given if tensor is not None)
        key = (name, tuple(tensor is None for tensor in given), tuple(map(_layout, tensors)))
        if torch.is_grad_enabled() or not self._again(key):
            return function(*given)

        def run(*tensors: torch.Tensor) -> Tensors:
            left = iter(tensors)
            with remembering_nothing():  # what is kept from one run to the next would be kept in the recording's memory
                return function(*(None if entry is None else next(left) for entry in given))

        with self._lock:
            recording = self._recording(key, run, tensors)
            if recording is not None:
                for place, tensor in zip(recording.given, tensors):
                    place.copy_(tensor)
                recording.replay()
                return tuple(made.clone() for made in recording.made)
        return function(*given)

    def _again(self, key: Hashable) -> bool:
        """Whether the key was asked for before; what cannot be recorded never was."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key] is not False
            self._known[key] = None
            for old in list(self._known)[: max(0, len(self._known) - MOST_KNOWN)]:
                if not isinstance(self._known[old], Recording):
                    del self._known[old]
            return False

    def _recording(self, key: Hashable, run: Callable[..., Tensors], tensors: Tensors) -> Recording | None:
        """The recording under a key, made where it is missing; None where it cannot be made."""
        known = self._known.get(key)
        if isinstance(known, Recording):
            return known
        try:
            recording = self._record(run, tensors)
        except (RuntimeError, ValueError) as error:  # the latter for tensors that lie on no GPU
            logger.warning("%s is not recorded as a CUDA graph: %s", key[0], str(error).splitlines()[0])
            recording = None
        if recording is None or recording.size > self.limit:
            self._known[key] = False
            return None
        if self.held + recording.size > self.limit:
            # Memory that recordings share comes free when the last of them is gone.
            self._forget()
            return None
        self._known[key] = recording
        return recording


def _layout(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
