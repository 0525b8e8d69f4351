"""A quicker start: libraries are imported without the garbage collector looking through them again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
