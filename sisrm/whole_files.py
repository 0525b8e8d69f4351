"""Files that are there whole or not at all, also where their writer is killed; what a killed one left is deleted by the next one.

A writer holds a lock on its unfinished file. The system lets go of it with the process, however that ends, so that the rest of a dead
writer can be told from the file of one that is at work, in another process too.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks: rests stay there
    fcntl = None


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content stands at `path` when the block has ended, and nowhere where it failed. The folder must exist."""
    # Not the name itself: with an addition it could be too long for the file system.
    tag = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    _delete_rests(path.parent, tag)
    temporary, stream = _begin(path.parent, tag)
    try:
        with stream:
            yield stream
            if fcntl:  # before the lock is let go
                stream.flush()
                os.replace(temporary, path)
        if not fcntl:  # no file can be moved there that is open
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _begin(folder: Path, tag: str) -> tuple[Path, BinaryIO]:
    while True:
        temporary = folder / f".{tag}.{secrets.token_hex(8)}.tmp"
        stream = open(temporary, "xb")  # noqa: SIM115 - closed by the caller
        if fcntl is None:
            return temporary, stream
        with suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return temporary, stream
        stream.close()  # another writer took it for a rest before it was locked


def _delete_rests(folder: Path, tag: str) -> None:
    """Delete the unfinished files of this target that no process holds."""
    if fcntl is None:
        return
    for rest in folder.glob(f".{tag}.*.tmp"):
        with suppress(OSError), open(rest, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error where it is held
            rest.unlink()
