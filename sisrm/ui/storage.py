"""Uploads and results on the server's disk: bounded in age and in size, after a restart too.

Gradio deletes by age what it remembers having made; what an earlier run of the server left, and how much there is in all, it does not mind.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sisrm.errors import ParameterError

logger = logging.getLogger(__name__)

KEEP_SECONDS = 4 * 3600
"""How long uploads and results lie on the server."""

MAX_MEGABYTES = 2048
"""How much may lie there, unless the environment variable SISRM_STORAGE_MB says otherwise."""

FRESH_SECONDS = 60
"""Younger folders stay whatever there is: a job may be writing to them, or its client reading."""

MIN_FREE = 256 * 2**20
"""Bytes that stay free on the disk: no upload begins below, so that the jobs that were taken on can write their results."""

BURST = 2**30
"""What is fresh may go above the bound by the bound itself, or by so many bytes where that is more: one large job may fill them."""

LOOK_SECONDS = 5
"""How old the count of bytes may be that decides about an upload; what was let in since then is added to it."""

_OURS = re.compile(r"[0-9a-f]{64}")  # Gradio's folder of an upload, and ours of a result
# Gradio's file of an upload that is not whole; it stays when the disk was full. Nothing else is touched.
_ARRIVING = re.compile(r"tmp[a-z0-9_]{8}")


def max_bytes() -> int:
    """The bound on the size of all uploads and results: SISRM_STORAGE_MB, or MAX_MEGABYTES when that is not set.

    Raises:
        ParameterError: SISRM_STORAGE_MB is not a positive integer.
    """
    set_to = os.environ.get("SISRM_STORAGE_MB", "").strip()
    if not set_to:
        return MAX_MEGABYTES * 2**20
    if not set_to.isdecimal() or int(set_to) < 1:
        raise ParameterError("SISRM_STORAGE_MB", set_to, "a positive integer, the megabytes for uploads and results")
    return int(set_to) * 2**20


def is_full(error: OSError) -> bool:
    """Whether a disk, or what may be written to it, is exhausted."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Storage:
    """Bounded files.

    Args:
        folder: where uploads and results lie.
        most: bytes in all.
        keep: seconds.
        needed: tells the names of folders that stay whatever their age.
    """

    def __init__(
        self,
        folder: Path,
        most: int,
        keep: float = KEEP_SECONDS,
        needed: Callable[[], set[str]] = set,
    ):
        self.folder, self.most, self.keep, self.needed = folder, most, keep, needed
        self._lock = threading.Lock()
        self._looked, self._bytes = float("-inf"), 0

    def clean(self) -> int:
        """Delete what is too old, then the oldest until the rest is small enough; -> the bytes that are left."""
        with self._lock:
            return self._clean()

    def takes(self, size: int) -> bool:
        """Whether there is room for one more upload; its `size` in bytes counts from now on."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._clean()
            if self._bytes > self.most + max(self.most, BURST) or self._free() < MIN_FREE:
                return False
            self._bytes += size
            return True

    def _clean(self) -> int:
        now = time.time()
        self._forget_arriving(now)
        needed = self.needed()
        found = sorted((_look(path) for path in self._folders()), key=lambda entry: entry[0])
        total = sum(size for _, size, _ in found)
        for changed, size, path in found:
            if now - changed < FRESH_SECONDS or (total <= self.most and now - changed <= self.keep):
                continue
            if not size and now - changed <= self.keep:  # of a job that runs
                continue
            if path.name in needed:
                continue
            shutil.rmtree(path, ignore_errors=True)
            total -= size
        self._looked, self._bytes = time.monotonic(), total
        return total

    def _forget_arriving(self, now: float) -> None:
        """Delete what is left of uploads that came to no end."""
        if self.folder.resolve() == Path(tempfile.gettempdir()).resolve() or not self.folder.is_dir():
            return  # other programs' files have such names there
        for path in self.folder.iterdir():
            if _ARRIVING.fullmatch(path.name):
                try:
                    state = path.lstat()
                    if stat.S_ISREG(state.st_mode) and now - state.st_mtime > FRESH_SECONDS:
                        path.unlink()
                except FileNotFoundError:
                    continue

    def _free(self) -> int:
        """Bytes that are free on the disk."""
        folder = next(path for path in (self.folder, *self.folder.absolute().parents) if path.is_dir())
        return shutil.disk_usage(folder).free

    def start(self, every: float = 60.0) -> None:
        """Clean now, and again every so many seconds as long as the process runs."""
        self.clean()
        threading.Thread(target=self._go_on, args=(every,), name="storage", daemon=True).start()

    def _go_on(self, every: float) -> None:
        while True:
            time.sleep(every)
            try:
                self.clean()
            except OSError:
                logger.exception("old files could not be deleted")

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name) and not path.is_symlink()]


def _look(folder: Path) -> tuple[float, int, Path]:
    """When something in it last changed, and its size; files that vanish meanwhile count nothing."""
    changed, size = 0.0, 0
    for path in (folder, *folder.rglob("*")):
        try:
            state = path.lstat()
        except OSError:
            continue
        changed = max(changed, state.st_mtime)
        size += state.st_size if path != folder else 0
    return changed, size, folder
