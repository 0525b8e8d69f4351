"""Results of the example photos: made when a visitor first asks for one, and there at once for everybody after that."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from sisrm.errors import ImageError
from sisrm.images import Photo, read_photo
from sisrm.ui.handlers import Upscaled
from sisrm.ui.readings import pixels_digest
from sisrm.ui.settings import Settings

logger = logging.getLogger(__name__)

MOST = 32
"""Results kept; the least wanted goes first. Their files lie where all results do, and go when those do."""


class FinishedExamples:
    """By photo and settings, the seed among them. A visitor's own photo is never kept: it is known by its pixels that it is none of these.

    Args:
        photos: image files of the examples.
    """

    def __init__(self, photos: Iterable[str | Path], most: int = MOST):
        self._examples: dict[bytes, str] = {}
        for path in photos:
            try:
                self._examples[pixels_digest(read_photo(path).image)] = Path(path).name
            except ImageError as error:  # SISRM_MAX_PIXELS may be below an example's
                logger.warning("an example cannot be used: %s", error)
        self._most = most
        self._kept: OrderedDict[tuple[bytes, Settings], Upscaled] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, photo: Photo, settings: Settings) -> Upscaled | None:
        """What was made of an example with these settings; None where nothing was, or its files are gone."""
        key = self._key(photo, settings)
        with self._changing:
            done = self._kept.get(key)
            if done is None:
                return None
            if not still_there(done):
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
        return done

    def name_of(self, photo: Photo) -> str | None:
        """The file name of the example that a photo is; None for any other."""
        return None if photo.alpha is not None or photo.notices else self._examples.get(pixels_digest(photo.image))

    def keep(self, photo: Photo, settings: Settings, done: Upscaled) -> None:
        """Keep a result, if the photo is an example."""
        key = self._key(photo, settings)
        if key is None:
            return
        with self._changing:
            self._kept[key] = done
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def _key(self, photo: Photo, settings: Settings) -> tuple[bytes, Settings] | None:
        digest = None if photo.alpha is not None or photo.notices else pixels_digest(photo.image)
        return (digest, settings) if digest in self._examples else None


def still_there(done: Upscaled) -> bool:
    """Whether a result's files are all there. Files are deleted by age, and a visitor looks at these from now on, so they count as new."""
    try:
        for path in _files(done):
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _files(done: Upscaled) -> list[Path]:
    views = [done.views.photo, done.views.regions, done.views.classes, done.views.mask]
    return [path for path in (done.result, done.before, done.small, *views, *done.states.values()) if path is not None]
