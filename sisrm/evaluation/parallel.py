"""One evaluation over several processes, as `accelerate launch` starts them: image i belongs to process i modulo n.

Without GPUs too it is `accelerate launch --multi_gpu --num_processes N` that starts N processes; with --cpu in its place
accelerate leaves that to MPI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta

# How torchrun, which accelerate launches, and the MPI implementations that it knows say how many processes there are.
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")

# A process may finish its images long before the others, which is no reason to give up.
_PATIENCE = timedelta(days=7)


class Share:
    """This process's part of the work; without others, all of it.

    Args:
        state: accelerate's PartialState; None for a process on its own.
    """

    def __init__(self, state=None):
        self._state = state
        self.index, self.count = (0, 1) if state is None else (state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.index == 0

    @property
    def device(self) -> str | None:
        """The GPU that is this process's own; None on a CPU, and for a process on its own."""
        return str(self._state.device) if self._state is not None and self._state.device.type == "cuda" else None

    def mine(self, items: Sequence) -> list:
        """Every n-th item, from this process's number on."""
        return list(items[self.index :: self.count])

    def gather(self, items: list) -> list:
        """The items of all processes, in every process; waits for all of them."""
        if self._state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def main_first(self):
        """A context in which the main process works before the others, so that only it downloads."""
        return nullcontext() if self._state is None else self._state.main_process_first()


@contextmanager
def shared(device: str | None = None) -> Iterator[Share]:
    """Join the other processes, where there are any, for the time of the context.

    Args:
        device: as given with --device; "cpu" keeps the processes off GPUs.
    """
    if max(int(os.environ.get(name) or 1) for name in _COUNTS) == 1:
        yield Share()
        return
    import torch
    from accelerate import PartialState

    # Without a GPU accelerate joins the processes only when it is told to use the CPU.
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=_PATIENCE)
    yield Share(state)
    state.destroy_process_group()
