"""Other samplers than the one that comes with the weights, from diffusers, over the same noise schedule."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, SchedulerMixin, UniPCMultistepScheduler
from diffusers.utils import BaseOutput

from sisrm.errors import ParameterError

SCHEDULERS = {"ddim": DDIMScheduler, "unipc": UniPCMultistepScheduler}
"""Name -> class: DDIM (Song et al. 2021), which the weights come with, and UniPC (Zhao et al. 2023), of second order."""


def choose_scheduler(name: str, current: SchedulerMixin) -> SchedulerMixin:
    """The named scheduler with the noise schedule and the kind of prediction of the current one.

    Raises:
        ParameterError: an unknown name, or the current one belongs to the fast mode, whose LoRA knows no other.
    """
    if name not in SCHEDULERS:
        raise ParameterError("scheduler", name, f"one of {', '.join(SCHEDULERS)}")
    if type(current) not in SCHEDULERS.values():
        raise ParameterError("scheduler", name, "none in the fast mode, which has its own")
    return SCHEDULERS[name].from_config(current.config)


def clean_estimate(scheduler: SchedulerMixin, step: BaseOutput) -> torch.Tensor:
    """The estimate of the clean latents that a step was taken with; the step's latents where a scheduler tells none.

    Args:
        step: what `scheduler.step` has just returned.
    """
    for name in ("pred_original_sample", "denoised"):
        if step.get(name) is not None:
            return step[name]
    if getattr(scheduler, "predict_x0", False):  # UniPC keeps its last estimates instead of returning them
        return scheduler.model_outputs[-1]
    return step.prev_sample
