"""Which samples are worked on where: every step's batch, dealt out to processes and to the parts of one step."""

from __future__ import annotations

from collections.abc import Iterator

from sisrm.errors import ParameterError


class Batches:
    """The sample numbers of each part of each step that one process works on, from `first_step` on.

    Step s takes samples s * batch to (s + 1) * batch - 1, whatever number of processes and parts shares them.

    Args:
        batch: samples per step, of all processes together.
        steps: of the whole run. first_step: where this run begins.
        parts: into how many parts a process divides its share, one after the other (gradient accumulation).
        process, processes: which of how many this one is.
    Raises:
        ParameterError: there are fewer samples in a step than places to work on them.
    """

    def __init__(
        self, batch: int, steps: int, first_step: int = 0, parts: int = 1, process: int = 0, processes: int = 1
    ):
        if not 1 <= parts * processes <= batch:
            shares = f"{processes} process{'es' * (processes > 1)} x accumulation {parts}"
            raise ParameterError("--batch", batch, f"at least 1 image for each share ({shares})")
        self.batch, self.steps, self.first_step = batch, steps, first_step
        self.parts, self.process, self.processes = parts, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            for part in range(self.parts):
                start, end = self._bounds(part)
                yield list(range(step * self.batch + start, step * self.batch + end))

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.parts

    def weight(self, count: int) -> float:
        """What a mean over `count` samples counts for among the shares of a step, so that their plain mean is the mean of all samples."""
        return count * self.parts * self.processes / self.batch

    def _bounds(self, part: int) -> tuple[int, int]:
        shares = self.parts * self.processes
        place = part * self.processes + self.process
        return place * self.batch // shares, (place + 1) * self.batch // shares
