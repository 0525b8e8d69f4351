"""One training loop for every stage, on accelerate: mixed precision, several processes, logs, checkpoints and exact resume.

A `Stage` is a module whose forward is its loss; the loop knows nothing about what is trained.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sisrm.errors import WeightsError
from sisrm.training.data import Crops, CropSettings, Photos
from sisrm.training.optimizers import build as build_optimizers

logger = logging.getLogger(__name__)


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

    def forward(self, batch: dict, role: str, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """-> (loss to go down, figures for the log). All randomness comes from `generator` (CPU)."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the trained components into a pipeline folder."""
        raise NotImplementedError


@dataclass(frozen=True)
class LoopSettings:
    """`minutes`: when set, the learning rate falls to its floor over this wall time (or over `steps`, whichever ends first)."""

    output: str
    steps: int = 10_000
    batch: int = 32
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


class Batches:
    """The sample numbers of each batch of this process, from `start_step` on."""

    def __init__(self, settings: LoopSettings, start_step: int, process: int, processes: int):
        self.settings, self.start, self.process, self.processes = settings, start_step, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        size = self.settings.batch
        for step in range(self.start, self.settings.steps):
            first = (step * self.processes + self.process) * size
            yield list(range(first, first + size))

    def __len__(self) -> int:
        return self.settings.steps - self.start


def train(stage: Stage, photos: Photos, settings: LoopSettings) -> dict[str, float]:
    """Run `stage` to the end of its steps or minutes; -> the last smoothed figures. The trained components are in OUTPUT/model."""
    output = Path(settings.output)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
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
    ema = EMAModel(averaged, decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
    accelerator.register_for_checkpointing(ema)
    progress = {"step": 0, "seconds": 0.0}
    if settings.resume:
        progress = load_checkpoint(accelerator, output)
    ema.to(accelerator.device)

    batches = Batches(settings, progress["step"], accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        Crops(photos, stage.crops(), settings.seed),
        batch_sampler=batches,
        num_workers=settings.workers,
        prefetch_factor=3 if settings.workers else None,
        persistent_workers=settings.workers > 0,
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
    seconds_before, step = progress["seconds"], progress["step"]
    for step, batch in enumerate(loader, start=progress["step"]):
        elapsed = seconds_before + time.monotonic() - started
        done = step / settings.steps
        if settings.minutes:
            done = max(done, elapsed / (60 * settings.minutes))
            # every process must leave the loop at the same step, so the first one's clock decides
            if bool(
                accelerator.reduce(
                    torch.tensor(float(done >= 1.0 and accelerator.is_main_process), device=accelerator.device)
                )
            ):
                break
        rate = settings.learning_rate * rate_factor(step, done, settings)
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        generator = torch.Generator().manual_seed(hash((settings.seed, step, accelerator.process_index)) % 2**63)
        for role in stage.roles:
            for optimizer in optimizers[role]:
                for group in optimizer.param_groups:
                    group["lr"] = rate * stage.role_rate(role)
                optimizer.zero_grad(set_to_none=True)
            loss, figures = wrapped(batch, role, generator)
            accelerator.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(stage.role_parameters(role), settings.max_gradient)
            if torch.isfinite(norm):
                for optimizer in optimizers[role]:
                    optimizer.step()
            figures = {"loss": float(loss.detach()), "gradient": float(norm), **figures}
            prefix = "" if role == stage.roles[0] else role + "_"
            for key, value in figures.items():
                old = smoothed.get(prefix + key, value)
                smoothed[prefix + key] = old + 0.02 * (value - old) if math.isfinite(value) else old
        ema.step(averaged)
        bar.update()
        if step % 20 == 0:
            speed = (
                (step + 1 - progress["step"])
                * settings.batch
                * accelerator.num_processes
                / (time.monotonic() - started)
            )
            bar.set_postfix(
                {"images/s": f"{speed:.1f}", **{key: f"{value:.4g}" for key, value in smoothed.items()}}, refresh=False
            )
            accelerator.log({**smoothed, "images_per_second": speed, "learning_rate": rate}, step=step)
        if time.monotonic() - last_checkpoint > 60 * settings.checkpoint_minutes:
            save_checkpoint(accelerator, stage, ema, averaged, output, settings, step + 1, elapsed)
            last_checkpoint = time.monotonic()
    bar.close()
    elapsed = seconds_before + time.monotonic() - started
    save_checkpoint(accelerator, stage, ema, averaged, output, settings, step + 1, elapsed)
    accelerator.end_training()
    return smoothed


def rate_factor(step: int, done: float, settings: LoopSettings) -> float:
    """Linear warm-up, then a cosine from 1 to `final_rate` as `done` goes from 0 to 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return min(1.0, (step + 1) / max(1, settings.warmup)) * (settings.final_rate + (1 - settings.final_rate) * cosine)


def save_checkpoint(
    accelerator, stage, ema, averaged, output: Path, settings: LoopSettings, step: int, seconds: float
) -> None:
    """OUTPUT/checkpoint to go on from and OUTPUT/model with the averaged weights; replaced only when the new one is complete."""
    accelerator.wait_for_everyone()
    fresh = output / "checkpoint.new"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        state = {"step": step, "seconds": seconds, "stage": stage.name, "settings": asdict(settings)}
        (fresh / "progress.json").write_text(json.dumps(state, indent=1))
        shutil.rmtree(output / "checkpoint", ignore_errors=True)
        fresh.rename(output / "checkpoint")
        ema.store(averaged)
        ema.copy_to(averaged)
        stage.save(output / "model")
        ema.restore(averaged)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator, output: Path) -> dict:
    """Restore weights, optimisers and averages -> {"step", "seconds"}. Raises WeightsError when there is nothing to resume."""
    folder = output / "checkpoint"
    if not (folder / "progress.json").exists():
        raise WeightsError(f"nothing to resume in {output}: expected {folder.name}/progress.json there")
    accelerator.load_state(str(folder))
    return json.loads((folder / "progress.json").read_text())
