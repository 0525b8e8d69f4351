"""Memory that ran out: how that is told from other errors, and what can be given back then."""

from __future__ import annotations

import gc

import torch

from sisrm.remembering import forget
from sisrm.replay import forget_recordings
from sisrm.startup import trim_heaps


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, or on a CPU, where PyTorch has no error class of its own for it."""
    words = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def release_memory() -> None:
    """Give back what is not in use any more, and what is only kept so that it is not computed again."""
    forget()
    forget_recordings()
    gc.collect()
    trim_heaps()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
