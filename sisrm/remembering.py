"""What is the same at every denoising step is computed once per run: keys and values of E_t and E_m, the ControlNet's reading of its
condition, M at the resolution of each residual, and the image branch of a tile, which denoising and decoder both read.

A result is found again by the tensor it was computed from: the same memory, layout and number of in-place changes. That tensor is held
with it, so its memory cannot be given to another. Training never remembers: it is off outside of `remembering` and where gradients are on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass
from typing import TypeVar

import torch
from torch import nn

LIMIT = 256 * 2**20
"""Bytes that one run may hold; what does not fit is computed again, so memory stays flat however many tiles a picture has."""

T = TypeVar("T")


class Remembered:
    """Results of one run. limit: bytes, inputs included."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self.values: dict[Hashable, object] = {}  # of `once_a_run`
        self._results: dict[Hashable, tuple[torch.Tensor, object]] = {}

    def once(self, name: Hashable, given: torch.Tensor, make: Callable[[], T]) -> T:
        """`make()`, or what it gave before under `name` for `given`."""
        key = (name, _state(given), given.shape, given.stride(), given.dtype, given.device)
        if key in self._results:
            return self._results[key][1]
        made = make()
        size = _bytes(given) + _bytes(made)
        if self.held + size <= self.limit:
            self._results[key] = given, made
            self.held += size
        return made

    def forget(self) -> None:
        """Let go of everything."""
        self._results.clear()
        self.held = 0


# Of the running thread: two runs of one pipeline, in two threads, never see each other's.
_current: ContextVar[Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remembering(limit: int = LIMIT) -> Iterator[None]:
    """Remember while the block runs; also a decorator. A run inside another one has its own memory."""
    token = _current.set(Remembered(limit))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def remembering_nothing() -> Iterator[None]:
    """Compute everything while the block runs, also inside of `remembering`."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def once(name: Hashable, given: torch.Tensor, make: Callable[[], T]) -> T:
    """`make()`, computed once per run for `name` and `given`; always computed where nothing is remembered."""
    remembered = _current.get()
    if remembered is None or torch.is_grad_enabled():
        return make()
    return remembered.once(name, given, make)


def once_a_run(name: Hashable, make: Callable[[], T]) -> T:
    """`make()`, a small value that depends on nothing that changes during a run, computed once for each."""
    remembered = _current.get()
    if remembered is None:
        return make()
    if name not in remembered.values:
        remembered.values[name] = make()
    return remembered.values[name]


def forget() -> None:
    """Let go of what the current run remembers, where memory is short."""
    remembered = _current.get()
    if remembered is not None:
        remembered.forget()


class Remembering:
    """Mixed into a module of one input: its answer to the same input, with the same weights, is computed once per run."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():  # looked up at run time it would cut the network's graph in two at every attention
            return super().forward(given)
        name = (id(self), *(_state(weight) for weight in self.parameters()))
        return once(name, given, lambda: super(Remembering, self).forward(given))


class RememberingLinear(Remembering, nn.Linear):
    """nn.Linear that remembers; a LoRA put around it still adds its own part every time."""


def _state(tensor: torch.Tensor) -> tuple[int, int | None]:
    """Where a tensor's values lie and how often they were changed in place (inference tensors do not count that)."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version


def _bytes(value: object) -> int:
    parts = vars(value).values() if is_dataclass(value) else [value]
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
