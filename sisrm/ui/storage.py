"""Uploads and results on the server's disk: bounded in age and in size, after a restart too.

Gradio deletes by age what it remembers having made; what an earlier run of the server left, and how much there is in all, it does not mind.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from pathlib import Path

from sisrm.errors import ParameterError

logger = logging.getLogger(__name__)

KEEP_SECONDS = 4 * 3600
"""How long uploads and results lie on the server."""

MAX_MEGABYTES = 2048
"""How much may lie there, unless the environment variable SISRM_STORAGE_MB says otherwise."""

FRESH_SECONDS = 60
"""Younger folders stay whatever there is: a job may be writing to them, or its client reading."""

_OURS = re.compile(r"[0-9a-f]{64}")  # Gradio's folder of an upload, and ours of a result; nothing else is touched


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


class Storage:
    """Args: folder: where uploads and results lie. most: bytes in all. keep: seconds."""

    def __init__(self, folder: Path, most: int, keep: float = KEEP_SECONDS):
        self.folder, self.most, self.keep = folder, most, keep

    def clean(self) -> int:
        """Delete what is too old, then the oldest until the rest is small enough; -> the bytes that are left."""
        now = time.time()
        found = sorted((_look(path) for path in self._folders()), key=lambda entry: entry[0])
        total = sum(size for _, size, _ in found)
        for changed, size, path in found:
            if now - changed < FRESH_SECONDS or (total <= self.most and now - changed <= self.keep):
                continue
            if not size and now - changed <= self.keep:  # of a job that runs
                continue
            shutil.rmtree(path, ignore_errors=True)
            total -= size
        return total

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
