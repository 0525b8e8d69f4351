"""Randomness that is the same however a batch is split over processes, or over parts of one step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

_STEPS, _SAMPLES = 2, 3  # streams apart from each other, and from those that samples are cut with (`data`)


class StepGenerator(torch.Generator):
    """The generator of one optimiser step, on the CPU.

    Drawn from directly it gives what concerns the whole batch: the same numbers wherever a part of that batch is worked on.
    `samples` holds one generator for each sample of the part at hand, seeded by the sample's number alone.

    Args:
        seed: of the run. step: its number. samples: the numbers of the samples at hand.
    """

    def __new__(cls, seed: int, step: int, samples: Iterable[int]):
        return super().__new__(cls)

    def __init__(self, seed: int, step: int, samples: Iterable[int]):
        self.manual_seed(_mixed(seed, _STEPS, step))
        self.samples = [torch.Generator().manual_seed(_mixed(seed, _SAMPLES, number)) for number in samples]


def generators_of(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """A generator for each of `count` samples; a plain one serves all of them in turn."""
    return generator.samples if isinstance(generator, StepGenerator) else [generator] * count


def random_normal(shape: torch.Size, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Standard normal noise (B, ...), each sample's from its own generator, drawn on the CPU, so that a seed means the same everywhere."""
    return torch.stack([torch.randn(shape[1:], generator=own) for own in generators_of(generator, shape[0])]).to(
        like.device
    )


def random_uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Uniform numbers (B, ...) in [0, 1), each sample's from its own generator, on the CPU."""
    return torch.stack([torch.rand(shape[1:], generator=own) for own in generators_of(generator, shape[0])])


def _mixed(*numbers: int) -> int:
    # torch's generator takes 32 bits of a seed, and neighbours are mixed well before they get there
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
