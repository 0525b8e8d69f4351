"""What a run leaves behind while it goes on: a checkpoint to go on from, and a pipeline folder with the averaged weights.

A run may be killed at any moment: there is a whole checkpoint from the first one on, the newest or the one before.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from sisrm.errors import ParameterError, WeightsError

WHOLE = "progress.json"  # is written last

SAME = ("seed", "batch", "optimizer")
"""Settings that must be what they were when a run goes on."""


def save_checkpoint(accelerator, stage, ema, averaged, output: Path, settings, step: int, seconds: float) -> None:
    """OUTPUT/checkpoint to go on from and OUTPUT/model with the averaged weights.

    Args:
        accelerator: with everything prepared. stage, ema, averaged: what is trained, its averages, and the parameters they are of.
        settings: the loop's. step: how many are done. seconds: of work so far.
    """
    fresh, kept = output / "checkpoint.new", output / "checkpoint"
    if accelerator.is_main_process:
        if (fresh / WHOLE).is_file():
            # What a killed run went on from: until there is another one it is the only whole checkpoint.
            shutil.rmtree(kept, ignore_errors=True)
            fresh.rename(kept)
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()  # each process writes a file of its own there
    if accelerator.is_main_process:
        state = {"step": step, "seconds": seconds, **_kind(stage), "settings": asdict(settings)}
        unfinished = fresh / (WHOLE + ".tmp")
        unfinished.write_text(json.dumps(state, indent=1))
        os.replace(unfinished, fresh / WHOLE)
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
        ema.store(averaged)
        ema.copy_to(averaged)
        _save_model(stage, output / "model")
        ema.restore(averaged)
    accelerator.wait_for_everyone()


def _kind(stage) -> dict[str, object]:
    """What of a stage must be what it was when a run goes on."""
    return {"stage": stage.name, "--crop": stage.crops().crop}


def _save_model(stage, folder: Path) -> None:
    """The stage's components, file by file in place of those in `folder`, each of which is whole at any moment."""
    fresh = folder.with_name("model.new")
    shutil.rmtree(fresh, ignore_errors=True)
    stage.save(fresh)
    for path in [path for path in sorted(fresh.rglob("*")) if path.is_file()]:
        target = folder / path.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(fresh)


def load_checkpoint(accelerator, stage, output: Path, settings) -> dict:
    """Restore weights, optimisers and averages -> {"step", "seconds"}.

    Raises:
        WeightsError: there is nothing to resume.
        ParameterError: it is of another stage, or would see other samples or another optimiser from here on. How long and how fast it
            learns may change.
    """
    folder = _whole_one(output)
    if folder is None:
        raise WeightsError(f"nothing to resume in {output}: expected checkpoint/{WHOLE} there")
    state = json.loads((folder / WHOLE).read_text())
    begun = state | {f"--{name}": state["settings"][name] for name in SAME}
    asked = _kind(stage) | {f"--{name}": getattr(settings, name) for name in SAME}
    for name, value in asked.items():
        if value != begun.get(name, value):  # checkpoints of earlier versions do not tell their crop
            raise ParameterError(name, value, f"{begun[name]}, which {folder} was begun with; or another --output")
    accelerator.load_state(str(folder))
    return state


def require_no_checkpoint(output: Path) -> None:
    """Raise ParameterError where a run that begins would write over what an earlier one has learnt."""
    if _whole_one(output) is not None:
        raise ParameterError(
            "--output", str(output), "a folder without a checkpoint; or --resume, to go on from the one that is there"
        )


def _whole_one(output: Path) -> Path | None:
    """The checkpoint to go on from. A whole new one beside the old one, or alone, is what a run leaves that is killed while it puts one in
    the other's place."""
    folders = (output / "checkpoint.new", output / "checkpoint")
    return next((folder for folder in folders if (folder / WHOLE).is_file()), None)
