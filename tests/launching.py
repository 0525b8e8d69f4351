"""`accelerate launch` as a user's shell runs it, and as a test needs it: on the CPU, one thread a process, no port in common."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launched(*arguments: object, processes: int = 2) -> list[str]:
    """The command that starts `accelerate launch ARGUMENTS` in several processes; ARGUMENTS begin with a script or with -m."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    return [*command, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread and no GPU, so that processes side by side compute what one computes."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
