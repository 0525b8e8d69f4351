"""`publish`: trained weights in half precision, as a whole pipeline folder or as SISRM's own part of one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sisrm.assembly import TRAINED, save_trained
from sisrm.errors import ParameterError
from sisrm.presets import load_pipeline
from sisrm.runtime import trained_parts
from sisrm.weights import write_checksums

LARGEST_FILE = "8MB"  # a repository takes files below 9 MB without large-file storage


def publish(model: str, output: Path) -> None:
    """Write the components of a pipeline folder or preset in float16 into `output`, in files of at most `LARGEST_FILE`, with checksums.

    Weights that lie there already are replaced; other files, such as the model card, stay.
    """
    pipe = load_pipeline(model, device="cpu", dtype=torch.float32)
    _halve(pipe)
    for stale in [*output.glob("*/*.safetensors"), *output.glob("*/*.safetensors.index.json")]:
        stale.unlink()
    pipe.save_pretrained(output, safe_serialization=True, max_shard_size=LARGEST_FILE)
    _forget_where([output / "model_index.json", *output.glob("*/config.json")])
    write_checksums(output)


def publish_trained(model: str, output: Path) -> list[str]:
    """Write what SISRM trained on public parts, in float16, as SISRM_WEIGHTS reads it; -> which of `TRAINED`.

    SCA and the ControlNet (with it the image encoder) are left out until eq 9 has moved them.

    Args:
        model: a pipeline folder that stands on public parts, such as RUN/model of a stage with `--preset sd`.
    Raises:
        ParameterError: a pipeline with an image encoder of its own, all of which is SISRM's.
    """
    pipe = load_pipeline(model, device="cpu", dtype=torch.float32)
    if pipe.image_encoder is not None:
        raise ParameterError("--trained-only", model, "a pipeline on Stable Diffusion, trained with --preset sd")
    names = TRAINED if trained_parts(pipe)["sca"] else tuple(name for name in TRAINED if name in ("sape", "segmenter"))
    _halve(pipe)
    save_trained(pipe, output, names)
    _forget_where(list(output.glob("*/config.json")))
    return list(names)


def _halve(pipe) -> None:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()


def _forget_where(configs: list[Path]) -> None:
    """Where the weights lay while they were trained is nobody's business."""
    for config in configs:
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2) + "\n")
