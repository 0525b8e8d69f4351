"""What the segmenter saw in the last photos, so that changing a setting does not make it look again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

from sisrm.semantics import Reading

MOST = 4
"""Readings kept; each takes 4 to 16 MB, depending on how long the photo is."""


class Readings:
    """The readings of the last photos, by their pixels; labels, top-k and modules are chosen from one without looking again."""

    def __init__(self, read: Callable[[Image.Image], Reading], most: int = MOST):
        self._read, self._most = read, most
        self._kept: OrderedDict[bytes, Reading] = OrderedDict()

    def of(self, image: Image.Image) -> tuple[Reading, bool]:
        """-> (the reading of an RGB image, whether it was there already)."""
        key = hashlib.blake2b(image.tobytes(), digest_size=16, person=b"%d" % image.width).digest()
        reading = self._kept.pop(key, None)
        known = reading is not None
        self._kept[key] = reading = self._read(image) if reading is None else reading
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return reading, known

    def clear(self) -> None:
        """Forget all; their memory is free then."""
        self._kept.clear()
