"""Table 3 of the paper, measured: parameters, FLOPs, memory and time of one image through the real pipeline call.

Everything the call runs is counted: segmentation, prompt, text and image encoder, every denoising step with ControlNet
and both guidance branches, and the decoder. One multiply-add is two FLOPs, as in torch's counter. Like every such
counter it sees convolutions, matrix products and attention; elementwise work, normalisation and resizing are not
counted.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sisrm.errors import ParameterError
from sisrm.replay import Replay

PAPER = {
    "SISRM": {"parameters": 48e6, "gflops": 198.0, "peak_memory_mb": 5500.0, "milliseconds": 73.0},
    "SeeSR": {"parameters": 129e6, "gflops": 612.0, "peak_memory_mb": 9800.0, "milliseconds": 120.0},
    "Real-ESRGAN": {"parameters": 43e6, "gflops": 149.0, "peak_memory_mb": 3100.0, "milliseconds": 41.0},
}
"""Table 3's rows, one 128x128 -> 512x512 image on an A10."""

MEBIBYTE = 2**20

WARM_UP = 2
"""Calls after which all work of the next one is recorded, where recordings are on: the first meets it, the second records it."""


def attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of softmax(Q K^T) V from the shapes of its operands, (B, heads, length, width) each."""
    return sdpa_flop_count(query, key, value)


# torch's counter knows the CUDA kernels of scaled_dot_product_attention but not the one that runs on a CPU.
EXTRA_OPERATIONS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


class UncountedAttention(TorchDispatchMode):
    """Collects attention kernels that the counter has no formula for, so that a total never hides them.

    Args:
        counted: operations the counter has a formula for.
    """

    def __init__(self, counted):
        super().__init__()
        self.counted = counted
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().lower()
        unknown = ("attention" in name or "flash" in name) and func._overloadpacket not in self.counted
        # A composite operation is taken apart by the counter; only a kernel of its own escapes it.
        if unknown and not func._can_decompose():
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class ComponentFlops:
    """Splits the counter's running total over the components whose modules are running.

    A component is running from the moment any of its modules is entered until that module is left, so methods such as
    `vae.decode` count as well as `forward`. Operations outside every module are what remains of the total.

    Args:
        components: name -> module.
        total: gives the counter's FLOPs so far.
    """

    def __init__(self, components: dict[str, nn.Module], total):
        self.flops = dict.fromkeys(components, 0)
        self._total = total
        self._components = components
        self._depth = 0
        self._started_at = 0

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch the components while the block runs."""
        with ExitStack() as hooks:
            for name, component in self._components.items():
                for module in component.modules():
                    hooks.callback(module.register_forward_pre_hook(self._enter).remove)
                    hooks.callback(module.register_forward_hook(self._leaver(name), always_call=True).remove)
            yield

    def _enter(self, module, args) -> None:
        if self._depth == 0:
            self._started_at = self._total()
        self._depth += 1

    def _leaver(self, name: str):
        def leave(module, args, output) -> None:
            self._depth -= 1
            if self._depth == 0:
                self.flops[name] += self._total() - self._started_at

        return leave


def measure(pipe, size: int = 128, repeats: int = 5, options: dict | None = None) -> dict:
    """Measure one size x size image through `pipe`.

    Args:
        pipe: SISRMPipeline, ready to run.
        size: side of the low-resolution input in pixels, at least 16.
        repeats: timed runs after one warm-up.
        options: further keyword arguments of the call; none means its default settings.

    Returns:
        parameters: of all components, shared ones once.
        gflops: 1e9 floating-point operations of the whole call.
        peak_memory_mb: MiB; on CUDA the allocator's peak during a call, weights included; on a CPU the largest
            resident size this process ever had, Python and its libraries included.
        milliseconds: median wall time of `repeats` warm calls.
        components: name -> {"parameters", "gflops"}; "other" is work outside every component.
        uncounted: attention kernels that the counter has no formula for; empty when the total is complete.
        device, size.

    Raises:
        ParameterError: `size` or `repeats` is out of range.
    """
    if size < 16:
        raise ParameterError("--size", size, "an integer of at least 16")
    if repeats < 1:
        raise ParameterError("repeats", repeats, "an integer of at least 1")
    image = probe_image(size)
    device = torch.device(pipe._execution_device)

    def call() -> None:
        pipe(image, generator=torch.Generator("cpu").manual_seed(0), **(options or {}))
        wait_for(device)

    for _ in range(calls_to_warm_up(pipe)):
        call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    peak = peak_memory(device) + held_by_recordings(pipe)
    components, uncounted = count(pipe, call)
    return {
        "parameters": sum(entry["parameters"] for entry in components.values()),
        "gflops": sum(entry["gflops"] for entry in components.values()),
        "peak_memory_mb": round(peak / MEBIBYTE, 1),
        "milliseconds": round(statistics.median(times), 1),
        "components": components,
        "uncounted": uncounted,
        "device": device_name(device),
        "size": size,
    }


def count(pipe, call) -> tuple[dict[str, dict], list[str]]:
    """Parameters and GFLOPs per component while `call()` runs once, and the names of attention kernels not counted."""
    with countable(pipe):
        return _count(pipe, call)


@contextmanager
def countable(pipe) -> Iterator[None]:
    """While the block runs every kernel is started by itself, so that it is seen, and attention is PyTorch's: the same products as
    xformers', in kernels with a formula."""
    replay = getattr(pipe, "replay", None)
    try:
        pipe.replay = None
        with plain_attention(pipe):
            yield
    finally:
        pipe.replay = replay


@contextmanager
def plain_attention(pipe) -> Iterator[None]:
    """Replace xformers by PyTorch's attention while the block runs."""
    if getattr(getattr(pipe, "attention_backend", None), "name", "sdpa") != "xformers":
        yield
        return
    recorded = pipe.replay
    pipe.disable_xformers_memory_efficient_attention()
    pipe.replay = None if recorded is None else Replay()
    try:
        yield
    finally:
        pipe.enable_xformers_memory_efficient_attention()
        pipe.replay = recorded


def _count(pipe, call) -> tuple[dict[str, dict], list[str]]:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    counter = FlopCounterMode(display=False, custom_mapping=EXTRA_OPERATIONS)
    split = ComponentFlops(modules, counter.get_total_flops)
    watch = UncountedAttention(counter.flop_registry)
    with split.hooked(), counter, watch:
        call()
    seen: set[int] = set()
    components = {}
    for name, module in modules.items():
        own = [weight for weight in module.parameters() if id(weight) not in seen]
        seen.update(id(weight) for weight in own)
        components[name] = {
            "parameters": sum(weight.numel() for weight in own),
            "gflops": split.flops[name] / 1e9,
        }
    rest = counter.get_total_flops() - sum(split.flops.values())
    components["other"] = {"parameters": 0, "gflops": rest / 1e9}
    return components, sorted(watch.names)


def probe_image(size: int) -> Image.Image:
    """A fixed picture of waves and some noise; the work does not depend on what it shows."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = np.stack([np.sin(9 * x + 4 * y), np.sin(15 * y), np.cos(12 * x * y)], -1)
    noise = np.random.default_rng(0).normal(0, 0.05, waves.shape)
    return Image.fromarray(((waves * 0.4 + 0.5 + noise).clip(0, 1) * 255).astype(np.uint8))


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the CUDA allocator's peak since its last reset, or this process's largest resident size so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # what `getrusage` says starts at the size of the process that started this one
        return process_status("VmHWM")
    except OSError:
        pass
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def calls_to_warm_up(pipe) -> int:
    """How many calls come before one that is to be timed."""
    return 1 if pipe.replay is None else WARM_UP


def held_by_recordings(pipe) -> int:
    """Bytes that CUDA graphs keep for themselves, which the allocator does not count as in use."""
    return 0 if pipe.replay is None else pipe.replay.held


def process_status(field: str) -> int:
    """Bytes of a field of /proc/self/status. Raises OSError where the system has no such file, or none of that field in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU with the number of threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def table(reports: dict[str, dict]) -> str:
    """Reports by the name of their preset as a Markdown table beside the paper's rows, then each one's components."""
    lines = [
        "| one image, 128 x 128 to 512 x 512 | parameters | GFLOPs | peak memory | time |",
        "|---|---|---|---|---|",
    ]
    rows = {f"{name}, {report['device']}{size_note(report)}": report for name, report in reports.items()}
    for row, values in (rows | {f"paper, table 3: {name}, A10": values for name, values in PAPER.items()}).items():
        lines.append(
            f"| {row} | {values['parameters'] / 1e6:.2f} M | {values['gflops']:.1f} | "
            f"{values['peak_memory_mb']:,.0f} MB | {values['milliseconds']:,.0f} ms |"
        )
    for name, report in reports.items():
        lines += ["", f"| {name}: component | parameters | GFLOPs |", "|---|---|---|"]
        for component, values in report["components"].items():
            lines.append(f"| {component} | {values['parameters'] / 1e6:.2f} M | {values['gflops']:.2f} |")
        if report["uncounted"]:
            lines += ["", "Not in the total, as the counter has no formula for them: " + ", ".join(report["uncounted"])]
    return "\n".join(lines) + "\n"


def size_note(report: dict) -> str:
    """What a row's name says when it is not the reference size."""
    return "" if report["size"] == 128 else f", {report['size']} x {report['size']} input"
