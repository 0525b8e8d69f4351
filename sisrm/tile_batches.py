"""How many tiles of one size run at once: on a GPU as many as its free memory is sure to hold, on a CPU one.

On a CPU batches do not pay (Zen 3, float32, compact, processor time of a tile in a batch of 4 against one alone): a denoising step takes
12 % more at the default tile of 256 and 11 % less at 128; the decoder, at 128, 21 % more, as the batch no longer fits into the caches. The
decoder has its tiles one by one on a GPU too: their surroundings make them of many sizes, and one of them is work enough.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

MOST = 8
"""Tiles that run together at most; of that many, any of a usual size keep a GPU busy."""


class Batching:
    """The size of the next batch: doubled while there is room, halved where memory ran out.

    room: called after a batch; whether memory is sure to hold one of twice as many.
    """

    def __init__(self, room: Callable[[], bool]):
        self.size, self.most, self._room = 1, MOST, room

    def grow(self) -> None:
        """A batch went well."""
        if self.size < self.most and self._room():
            self.size = min(2 * self.size, self.most)

    def shrink(self) -> bool:
        """A batch did not fit; -> whether a smaller one is left to try. What did not fit is not tried again."""
        smaller = self.size > 1
        self.size = self.most = max(1, self.size // 2)
        return smaller


def room_on(device: torch.device) -> bool:
    """Whether twice the work that `device` just did would fit into its memory; never on a CPU, where it does not pay.

    What PyTorch's allocator holds and does not use is at least what that work needed beside what stays: it keeps what it once had. As much
    again must be free, and as much again is left for what does not fit into its gaps.
    """
    if device.type != "cuda":
        return False
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] >= 2 * idle
