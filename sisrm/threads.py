"""How many threads PyTorch works with on a CPU: as many as this process may use cores.

PyTorch counts the cores that it may run on, but not the share of them that a container is given (cgroups): with two of 64 cores it would
start 64 threads, which take turns on two.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows a container its own limits."""


def limit_threads() -> int:
    """Have PyTorch use no more threads than `allowed_cores`. A number given by OMP_NUM_THREADS stays. -> threads."""
    if not os.environ.get("OMP_NUM_THREADS") and (allowed := allowed_cores()) < torch.get_num_threads():
        torch.set_num_threads(allowed)
    return torch.get_num_threads()


def allowed_cores(cgroups: Path = CGROUPS) -> int:
    """Cores that this process may use at a time: those it may run on, or the container's share of them, rounded up, where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _share(cgroups)
    return cores if share is None else max(1, min(cores, math.ceil(share)))


def _share(cgroups: Path) -> float | None:
    """Processor time per time that the container is given, in both versions of cgroups; None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text() for name in names).split()
            if float(quota) > 0 and float(period) > 0:
                return float(quota) / float(period)
        except (OSError, ValueError):  # no such file, or "max", or -1
            continue
    return None
