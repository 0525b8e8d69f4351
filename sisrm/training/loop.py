"""One training loop for every stage, on accelerate: mixed precision, several processes, logs, checkpoints and exact resume.

A `Stage` is a module whose forward is its loss; the loop knows nothing about what is trained.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sisrm.errors import ParameterError
from sisrm.training.batches import Batches
from sisrm.training.checkpoints import load_checkpoint, save_checkpoint
from sisrm.training.data import Crops, CropSettings, Photos
from sisrm.training.optimizers import build as build_optimizers
from sisrm.training.randomness import StepGenerator

logger = logging.getLogger(__name__)

Figures = dict[str, "float | torch.Tensor"]
"""What a stage measured, for the log. Tensors stay on their device until the loop reads them all at once."""


class Stage(nn.Module):
    """What one stage trains. Subclasses hold their networks as attributes; frozen ones have `requires_grad` off."""

    name = ""
    roles: tuple[str, ...] = ("main",)  # one optimiser step each, in this order, per batch

    def crops(self) -> CropSettings:
        """What the stage's samples look like."""
        raise NotImplementedError

    def role_parameters(self, role: str) -> list[nn.Parameter]:
        """The parameters that this role's optimiser moves."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def role_rate(self, role: str) -> float:
        """This role's learning rate as a multiple of the setting."""
        return 1.0

    def checkpoint_gradients(self) -> None:
        """Keep fewer activations and compute them again on the way back. Raises ParameterError where that is not built in."""
        raise ParameterError("--gradient-checkpointing", self.name, "the stages sape and it2ic")

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, Figures]:
        """-> (loss to go down, figures for the log). All randomness comes from `generator` (CPU), see `randomness`.

        A loss that is a mean over samples is the same however a batch is split over processes and parts.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trained components into a pipeline folder."""
        raise NotImplementedError


@dataclass(frozen=True)
class LoopSettings:
    """batch: images per step, of all processes together. accumulation: each process works on its share in so many parts.
    minutes: when set, the learning rate falls to its floor over this wall time (or over `steps`, whichever ends first).
    warmup: steps in which it rises to the peak. final_rate: the floor as a share of the peak; 1 keeps it constant."""

    output: str
    steps: int = 10_000
    batch: int = 32
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    minutes: float | None = None
    warmup: int = 100
    final_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_gradient: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    workers: int = 1
    checkpoint_minutes: float = 4.0
    mixed_precision: str = "no"
    resume: bool = False


def train(stage: Stage, photos: Photos, settings: LoopSettings) -> dict[str, float]:
    """Run `stage` to the end of its steps or minutes; -> the last smoothed figures. The trained components are in OUTPUT/model."""
    if settings.accumulation > 1 and len(stage.roles) > 1:
        raise ParameterError("--accumulation", settings.accumulation, f"1 for {stage.name}, whose roles take turns")
    output = Path(settings.output)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.accumulation,
        log_with="tensorboard",
        project_dir=str(output),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    accelerator.init_trackers("logs")
    stage.to(memory_format=torch.channels_last)
    optimizers = {
        role: build_optimizers(
            stage,
            stage.role_parameters(role),
            settings.optimizer,
            settings.learning_rate,
            settings.betas,
            settings.weight_decay,
        )
        for role in stage.roles
    }
    averaged = [parameter for parameter in stage.role_parameters(stage.roles[0])]
    wrapped = accelerator.prepare(stage)
    optimizers = {role: [accelerator.prepare(entry) for entry in entries] for role, entries in optimizers.items()}
    ema = EMAModel(averaged, decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    accelerator.register_for_checkpointing(ema)
    progress = {"step": 0, "seconds": 0.0}
    if settings.resume:
        progress = load_checkpoint(accelerator, stage, output, settings)
    ema.to(accelerator.device)

    batches = Batches(
        settings.batch,
        settings.steps,
        progress["step"],
        settings.accumulation,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = DataLoader(
        Crops(photos, stage.crops(), settings.seed),
        batch_sampler=batches,
        num_workers=settings.workers,
        prefetch_factor=3 if settings.workers else None,
        persistent_workers=settings.workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    bar = tqdm(
        total=settings.steps,
        initial=progress["step"],
        desc=stage.name,
        disable=not accelerator.is_main_process,
        mininterval=5,
    )
    smoothed: dict[str, float] = {}
    started = last_checkpoint = time.monotonic()
    finished = progress["step"]
    samples = iter(loader)
    for step in range(progress["step"], settings.steps):
        elapsed = progress["seconds"] + time.monotonic() - started
        done = step / settings.steps
        if settings.minutes:
            done = max(done, elapsed / (60 * settings.minutes))
            if of_main_process(accelerator, done >= 1.0):
                break
        rate = settings.learning_rate * rate_factor(step, done, settings)
        parts = []
        for _ in range(settings.accumulation):
            batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in next(samples).items()}
            numbers = batch["index"].tolist()
            parts.append((batch, StepGenerator(settings.seed, step, numbers), batches.weight(len(numbers))))
        figures: dict[str, float] = {}
        for role in stage.roles:
            for optimizer in optimizers[role]:
                for group in optimizer.param_groups:
                    group["lr"] = rate * stage.role_rate(role)
                optimizer.zero_grad(set_to_none=True)
            found = {"loss": 0.0}
            for batch, generator, weight in parts:
                with accelerator.accumulate(wrapped):
                    loss, more = wrapped(batch, role, generator)
                    accelerator.backward(loss * weight)
                for key, value in numbers_of({"loss": loss.detach(), **more}).items():
                    found[key] = found.get(key, 0.0) + value * weight / len(parts)
            found["gradient"] = move(accelerator, stage.role_parameters(role), optimizers[role], settings.max_gradient)
            figures |= {key if role == stage.roles[0] else f"{role}_{key}": value for key, value in found.items()}
        for key, value in figures.items():
            old = smoothed.get(key, value)
            smoothed[key] = old + 0.02 * (value - old) if math.isfinite(value) else old
        ema.step(averaged)
        finished = step + 1
        bar.update()
        if step % 20 == 0:
            speed = (finished - progress["step"]) * settings.batch / (time.monotonic() - started)
            shown = of_all_processes(accelerator, smoothed)
            bar.set_postfix(
                {"images/s": f"{speed:.1f}", **{key: f"{value:.4g}" for key, value in shown.items()}}, refresh=False
            )
            accelerator.log({**shown, "images_per_second": speed, "learning_rate": rate}, step=step)
        due = time.monotonic() - last_checkpoint > 60 * settings.checkpoint_minutes
        if of_main_process(accelerator, due):
            save_checkpoint(accelerator, stage, ema, averaged, output, settings, finished, elapsed)
            last_checkpoint = time.monotonic()
    bar.close()
    elapsed = progress["seconds"] + time.monotonic() - started
    save_checkpoint(accelerator, stage, ema, averaged, output, settings, finished, elapsed)
    smoothed = of_all_processes(accelerator, smoothed)
    # The wrapper's reducer would let the process group go while it holds the interpreter's lock, which gloo's threads wait for: now and
    # then a process never ended. Gone before the group, it cannot.
    del wrapped
    accelerator.free_memory()
    accelerator.end_training()
    return smoothed


def numbers_of(figures: Figures) -> dict[str, float]:
    """Figures read from their device, which then has to be waited for once only."""
    tensors = {key: value for key, value in figures.items() if isinstance(value, torch.Tensor)}
    read = torch.stack([value.float() for value in tensors.values()]).tolist() if tensors else []
    return {**figures, **dict(zip(tensors, read))}


def move(accelerator, parameters: list[nn.Parameter], optimizers: list, max_gradient: float) -> float:
    """Clip the gradients of one role and take its optimisers' step, unless they are not finite; -> their norm before."""
    accelerator.unscale_gradients(optimizers)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_gradient)
    # A gradient scaler passes over such a step by itself, and must be asked, or it never scales less.
    if accelerator.scaler is not None or torch.isfinite(norm):
        for optimizer in optimizers:
            optimizer.step()
    return float(norm)


def of_main_process(accelerator, decision: bool) -> bool:
    """What the main process decided, in every process: clocks differ, and all must do the same at the same step."""
    if accelerator.num_processes == 1:
        return decision
    mine = torch.tensor(float(decision and accelerator.is_main_process), device=accelerator.device)
    return bool(accelerator.reduce(mine))


def of_all_processes(accelerator, figures: dict[str, float]) -> dict[str, float]:
    """The mean of each figure over the processes."""
    values = torch.tensor(list(figures.values()), device=accelerator.device)
    return dict(zip(figures, accelerator.reduce(values, "mean").tolist()))


def rate_factor(step: int, done: float, settings: LoopSettings) -> float:
    """Linear warm-up, then a cosine from 1 to `final_rate` as `done` goes from 0 to 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return min(1.0, (step + 1) / max(1, settings.warmup)) * (settings.final_rate + (1 - settings.final_rate) * cosine)
