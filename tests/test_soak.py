"""The soak's judgement: a leak of half a megabyte a job is found, noise and warming up are not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from soak import CEILING, is_flat

JOBS, COUNT = 300, 30


def readings(leak: float, seed: int, noise: float = 10.0) -> list[float]:
    """Megabytes at 30 times in 300 jobs: 60 MB of warming up in the first hundred, noise, and so many megabytes a job."""
    jobs = np.linspace(JOBS / COUNT, JOBS, COUNT)
    values = 700 + 60 * np.minimum(jobs / 100, 1) + leak * jobs
    return list(values + np.random.default_rng(seed).normal(0, noise, COUNT))


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_found_and_noise_is_not_one(seed):
    assert is_flat(readings(0.0, seed), JOBS)[0]
    assert not is_flat(readings(0.5, seed), JOBS)[0]


def test_one_high_reading_decides_nothing_but_too_much_does():
    values = readings(0.0, 0)
    values[-1] += 200
    flat, growth = is_flat(values, JOBS)
    assert flat and abs(growth) < 0.2
    assert not is_flat([CEILING + 1.0] * COUNT, JOBS)[0]
