"""What one pipeline call spends where: a quantity such as time, operations or memory, split over the call's stages.

The stages are the pipeline's own public steps. A stage inside another one is taken out of it, so the parts add up to the whole.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import sisrm.networks as networks_module
import sisrm.semantics as semantics_module
from sisrm.evaluation.complexity import process_status

OTHER = "other"
"""What is spent outside every stage."""


class StageMeter:
    """Charges a quantity to the stage that is running.

    Args:
        lap: gives the quantity since it was last asked.
        combine: joins two laps of one stage: their sum for time and operations, the larger one for memory.
    """

    def __init__(self, lap: Callable[[], float], combine: Callable[[float, float], float] = operator.add):
        self.spent: dict[str, float] = {}
        self._lap, self._combine = lap, combine
        self._running = [OTHER]
        self._step = 1
        lap()

    def charge(self) -> None:
        """Give the current stage what was spent since the last change of stage."""
        name, lap = self._running[-1], self._lap()
        self.spent[name] = self._combine(self.spent[name], lap) if name in self.spent else lap

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """`name` is running while the block runs; {step} in it stands for the denoising step."""
        self.charge()
        self._running.append(name.format(step=self._step))
        try:
            yield
        finally:
            self.charge()
            self._running.pop()

    def next_step(self) -> None:
        """The next denoising step begins."""
        self._step += 1


@contextmanager
def watched(pipe, meter: StageMeter) -> Iterator[None]:
    """Charge `meter` by the stages of the calls of `pipe` made while the block runs, and take the rest as `other`."""
    named = (
        (pipe, "extract_semantics", "segmentation, SAPE"),
        (semantics_module, "class_map_of", "class map"),
        (pipe, "encode_prompt", "text"),
        (pipe, "encode_image", "image encoder"),
        (pipe, "denoise", "step {step}: mask and the rest"),
        (pipe.controlnet, "forward", "step {step}: ControlNet"),
        (pipe.unet, "forward", "step {step}: U-Net"),
        (pipe, "decode_latents", "VAE decode"),
        (pipe, "finish_image", "enlarged LR image"),
        (networks_module, "wavelet_fix", "colour"),
        (networks_module, "adain_fix", "colour"),
        (networks_module, "core_detail", "coring"),
    )
    replaced = []

    def replace(owner, attribute: str, wrapper: Callable) -> None:
        replaced.append((owner, attribute, vars(owner).get(attribute)))
        setattr(owner, attribute, wrapper)

    def timed(function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            with meter.stage(stage):
                return function(*args, **kwargs)

        return run

    def stepping(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            stepped = function(*args, **kwargs)
            meter.next_step()
            return stepped

        return run

    try:
        for owner, attribute, stage in named:
            replace(owner, attribute, timed(getattr(owner, attribute), stage))
        replace(pipe.scheduler, "step", stepping(pipe.scheduler.step))
        yield
        meter.charge()
    finally:
        for owner, attribute, original in reversed(replaced):
            if original is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)


def time_laps(device: torch.device) -> Callable[[], float]:
    """Milliseconds since the last lap, with what the device was given done."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        before, last = last, time.perf_counter()
        return 1000 * (last - before)

    return lap


def laps_of(total: Callable[[], float]) -> Callable[[], float]:
    """What a running total grew by since the last lap."""
    last = total()

    def lap() -> float:
        nonlocal last
        before, last = last, total()
        return last - before

    return lap


def memory_laps(device: torch.device) -> Callable[[], float] | None:
    """Bytes of the largest memory since the last lap, above what was held at the start; None where the system does not tell.

    On CUDA the allocator's memory, else this process's resident memory.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)

        def lap() -> float:
            peak = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            return peak - held

        return lap
    try:
        _return_free_memory()
        _forget_peak()
        held = process_status("VmRSS")
    except OSError:
        return None

    def resident_lap() -> float:
        peak = process_status("VmHWM")
        # What the stage gave free but the allocator kept is not the next stage's memory.
        _return_free_memory()
        _forget_peak()
        return peak - held

    return resident_lap


def _return_free_memory() -> None:
    """Give the system back what earlier work left free; without it the same work again seems to need nothing (glibc)."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _forget_peak() -> None:
    """Set this process's recorded peak of resident memory to what it holds now (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")
