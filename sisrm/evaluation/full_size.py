"""What a pipeline of Stable Diffusion's size costs, from runs of one and of two denoising steps: all later steps are the same work.

One image goes through the real pipeline call with guidance; FLOPs, the peak of memory and the time of each part are measured
there, and the image's costs at other settings follow: the parts around denoising once, the first step once (it also computes
what the others share), a later step as often as there are more, half of both where guidance is off.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from sisrm.evaluation import complexity

SEESR = {"num_inference_steps": 50, "guidance_scale": 5.5}
"""SeeSR's published settings, here on this pipeline's own networks: SeeSR's are SD 2's U-Net and a ControlNet, with attention to
its image tags in both, so about as large."""


def measure(pipe, fast: dict | None = None, size: int = 128, repeats: int = 3) -> dict:
    """Measure one size x size image through `pipe`.

    Args:
        pipe: SISRMPipeline, ready to run; its default settings use guidance.
        fast: settings of the fast mode, to be reported beside the default ones.
        repeats: timed runs of the whole call for every attention backend, on CUDA alone.
    Returns:
        What `complexity.measure` returns, for the default settings.
        gflops_per_step: of one guided step after the first, U-Net and ControlNet.
        settings: name -> {"num_inference_steps", "guidance_scale", "gflops", "seesr_ratio", "milliseconds", "denoising": of them
            in the loop}; seesr_ratio: how many times more GFLOPs SeeSR's settings take. Times are medians of `repeats` warm calls on
            CUDA; on a CPU they are reckoned from the one step.
        backends: attention backend -> milliseconds of the whole call at default settings, the pipeline's own first; empty on a CPU.
    """
    image, device = complexity.probe_image(size), torch.device(pipe._execution_device)
    outputs = []

    def call(**options) -> None:
        outputs.append(pipe(image, generator=torch.Generator("cpu").manual_seed(0), **options))
        complexity.wait_for(device)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    guidance = max(pipe.defaults["guidance_scale"], SEESR["guidance_scale"])
    one, uncounted = complexity.count(pipe, lambda: call(num_inference_steps=1, guidance_scale=guidance))
    peak, seconds = complexity.peak_memory(device), outputs[-1].timings
    two, _ = complexity.count(pipe, lambda: call(num_inference_steps=2, guidance_scale=guidance))
    components = {name: dict(part) for name, part in one.items()}
    denoisers = ("unet", "controlnet")
    first = {name: one[name]["gflops"] for name in denoisers}
    later = {name: two[name]["gflops"] - one[name]["gflops"] for name in denoisers}
    around = sum(part["gflops"] for name, part in one.items() if name not in denoisers)

    def denoising(name: str, settings: dict) -> float:
        branches = 1.0 if settings["guidance_scale"] > 1 else 0.5
        return branches * (first[name] + (settings["num_inference_steps"] - 1) * later[name])

    def at(settings: dict) -> dict:
        branches = 1.0 if settings["guidance_scale"] > 1 else 0.5
        passes = settings["num_inference_steps"] * branches
        text = one["text_encoder"]["gflops"] * (1 - branches)
        rest = seconds["total"] - seconds["denoising"]
        return {
            **settings,
            "gflops": around - text + sum(denoising(name, settings) for name in denoisers),
            **(
                warm_milliseconds(lambda: call(**settings), outputs, repeats)
                if device.type == "cuda"
                else {
                    "milliseconds": round(1000 * (rest + passes * seconds["denoising"]), 1),
                    "denoising": round(1000 * passes * seconds["denoising"], 1),
                }
            ),
        }

    default = {name: pipe.defaults[name] for name in ("num_inference_steps", "guidance_scale")}
    settings = {"default": at(default), **({"fast": at(fast)} if fast else {}), "SeeSR's settings": at(SEESR)}
    for entry in settings.values():
        entry["seesr_ratio"] = round(settings["SeeSR's settings"]["gflops"] / entry["gflops"], 2)
    for name in denoisers:
        components[name]["gflops"] = denoising(name, default)
    backends = {}
    if device.type == "cuda":
        peak = complexity.peak_memory(device) + complexity.held_by_recordings(pipe)
        own = settings["default"]["milliseconds"]
        backends = attention_milliseconds(pipe, lambda: call(**default), outputs, repeats, own)
    return {
        "parameters": sum(part["parameters"] for part in components.values()),
        "gflops": settings["default"]["gflops"],
        "gflops_per_step": sum(later.values()),
        "peak_memory_mb": round(peak / complexity.MEBIBYTE, 1),
        "milliseconds": settings["default"]["milliseconds"],
        "components": components,
        "settings": settings,
        "backends": backends,
        "uncounted": uncounted,
        "device": complexity.device_name(device),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        "size": size,
    }


def warm_milliseconds(call: Callable[[], None], outputs: list, repeats: int) -> dict[str, float]:
    """Medians of `call()`, warm, whole and in the denoising loop, by the clock of the output that it adds to `outputs`."""
    for _ in range(complexity.WARM_UP):
        call()
    del outputs[:]
    for _ in range(repeats):
        call()
    times = {"milliseconds": "total", "denoising": "denoising"}
    return {
        name: round(1000 * statistics.median(output.timings[part] for output in outputs), 1)
        for name, part in times.items()
    }


def attention_milliseconds(pipe, call: Callable[[], None], outputs: list, repeats: int, own: float) -> dict[str, float]:
    """Attention backend -> whole time of `call()`: `own` for the pipeline's, and where that is xformers PyTorch's too."""
    name = pipe.attention_backend.name
    found = {name: own}
    if name == "xformers":
        with complexity.plain_attention(pipe):
            found["sdpa"] = warm_milliseconds(call, outputs, repeats)["milliseconds"]
    return found


def table(name: str, report: dict) -> str:
    """The settings side by side, then the components, as Markdown."""
    lines = [
        f"{name}: {report['parameters'] / 1e6:,.1f} M parameters with random weights, {report['device']}, {report['dtype']}, one image of "
        f"{report['size']} x {report['size']} to {4 * report['size']} x {4 * report['size']}; "
        f"{report['gflops_per_step']:,.1f} GFLOPs per guided step; peak memory {report['peak_memory_mb']:,.0f} MB",
        "",
        f"| settings | steps | guidance | GFLOPs | SeeSR's are | time{'' if report['backends'] else ', from one step'} | in the loop |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, entry in report["settings"].items():
        lines.append(
            f"| {row} | {entry['num_inference_steps']} | {entry['guidance_scale']:g} | {entry['gflops']:,.1f} | "
            f"{entry['seesr_ratio']:.2f}x | {entry['milliseconds'] / 1000:,.3f} s | {entry['denoising'] / 1000:,.3f} s |"
        )
    for backend, milliseconds in report["backends"].items():
        lines += ["", f"default settings with {backend}: {milliseconds:,.1f} ms"]
    lines += ["", "| component, default settings | parameters | GFLOPs |", "|---|---|---|"]
    for component, values in report["components"].items():
        lines.append(f"| {component} | {values['parameters'] / 1e6:,.2f} M | {values['gflops']:,.2f} |")
    if report["uncounted"]:
        lines += ["", "Not in the total, as the counter has no formula for them: " + ", ".join(report["uncounted"])]
    return "\n".join(lines) + "\n"
