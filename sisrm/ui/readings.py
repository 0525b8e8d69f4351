"""What the segmenter saw in the last photos, so that changing a setting does not make it look again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from PIL import Image

from sisrm.semantics import Reading

MOST = 4
"""Readings kept; each takes 4 to 16 MB, depending on how long the photo is."""


class Readings:
    """The readings of the last photos, by their `pixels_digest`; labels, top-k and modules are chosen from one without looking again."""

    def __init__(self, most: int = MOST):
        self._most = most
        self._kept: OrderedDict[bytes, Reading] = OrderedDict()

    def get(self, key: bytes) -> Reading | None:
        """The reading of a photo, if it is there."""
        return self._kept.get(key)

    def keep(self, key: bytes, reading: Reading) -> None:
        """Keep it as the latest."""
        self._kept.pop(key, None)
        self._kept[key] = reading
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all; their memory is free then."""
        self._kept.clear()


def pixels_digest(image: Image.Image) -> bytes:
    """16 bytes that tell an image's pixels and shape from all others."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, person=b"%d" % image.width).digest()
