"""How a process starts: libraries are imported without the garbage collector looking through them again and again; how memory that was
freed is used again by other threads, and by other programs; and what ZeroGPU has in a GPU's place comes before all else."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

logger = logging.getLogger(__name__)

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


def trim_heaps() -> bool:
    """Give freed memory back to the system; glibc keeps what lies between blocks that are in use. -> whether the C library can do that.

    A job leaves up to 200 MB of it behind, which look like a leak and are missed by whatever else runs on the machine. It takes a few ms.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return False
    return True


def on_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU, where a GPU is there only inside functions that `spaces.GPU` wraps."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def zero_gpu_package() -> ModuleType | None:
    """On ZeroGPU its package `spaces`, None elsewhere. To be called before anything looks for a GPU: importing it puts a stand-in there."""
    if not on_zero_gpu():
        return None
    try:
        import spaces
    except ImportError:
        logger.warning("the environment says ZeroGPU, but the package `spaces` is not installed: running without a GPU")
        return None
    return spaces


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
