"""How a process starts: libraries are imported without the garbage collector looking through them again and again, and memory that is
given back can be used again by other threads."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_ARENA_MAX = -8  # of glibc's malloc.h


def few_arenas(count: int = 2) -> bool:
    """Let all threads allocate from `count` heaps; call it before there are threads. -> whether the C library can do that (glibc).

    Each job has a thread of its own, and by default glibc gives new threads heaps of their own, which keep what was freed in them: 300 jobs
    left half a gigabyte behind (`make soak`).
    """
    try:
        return ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count) == 1
    except (AttributeError, OSError, TypeError):
        return False


@contextmanager
def swift_imports() -> Iterator[None]:
    """Import large libraries inside. Modules stay until the process ends, so what a collector finds in them is nothing; looking takes a
    fifth of the time. What is there afterwards is left out of later collections as well (`gc.freeze`)."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
