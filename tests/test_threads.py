"""Threads: no more than the cores that this process may use, and what OMP_NUM_THREADS says."""

from __future__ import annotations

import os

import pytest
import torch

from sisrm import threads
from sisrm.runtime import prepare


@pytest.fixture
def eight_cores(monkeypatch):
    """A machine of eight cores where PyTorch begins with eight threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "broken"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_containers_share_counts(eight_cores, tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert threads.allowed_cores(tmp_path) == expected


def test_a_pipeline_that_is_prepared_uses_no_more_threads_than_cores(eight_cores, tiny_pipeline):
    eight_cores.setattr(threads, "allowed_cores", lambda: 3)
    prepare(tiny_pipeline, torch.device("cpu"))
    assert torch.get_num_threads() == 3


def test_fewer_threads_than_cores_stay_and_a_given_number_too(eight_cores):
    eight_cores.setattr(threads, "allowed_cores", lambda: 16)
    assert threads.limit_threads() == 8
    eight_cores.setattr(threads, "allowed_cores", lambda: 2)
    eight_cores.setenv("OMP_NUM_THREADS", "8")
    assert threads.limit_threads() == 8
