"""python -m benchmarks.steering: how far each control moves the result, in grey levels, from the result at default settings.

The noise is the same in all runs but the one with another seed, so what is seen is the control's doing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from sisrm.images import read_photo

CONTROLS: dict[str, dict] = {
    "another seed": {"seed": 1},
    "8 steps": {"num_inference_steps": 8},
    "guidance 4": {"guidance_scale": 4.0},
    "start strength 0.5": {"start_strength": 0.5},
    "labels: grass, tree": {"labels": ["grass", "tree"]},
    "labels: water, building": {"labels": ["water", "building"]},
    "MFF off": {"use_mff": False},
    "SCA off": {"use_sca": False},
    "SAPE off": {"use_sape": False},
    "ControlNet's strength 0.5": {"controlnet_conditioning_scale": 0.5},
    "detail 0.5": {"detail_strength": 0.5},
}


def moves(pipe, photo: Image.Image, controls: dict[str, dict] = CONTROLS) -> dict[str, float]:
    """Control -> mean absolute difference, 0 to 255, between the result with it and the one without."""

    def result(seed: int = 0, **options) -> np.ndarray:
        image = pipe(photo, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0]
        return np.asarray(image, np.float32)

    plain = result()
    return {name: float(np.abs(result(**options) - plain).mean()) for name, options in controls.items()}


def table(found: dict[str, dict[str, float]]) -> str:
    """Photo's name -> `moves` as Markdown, a column a photo."""
    lines = ["| grey levels, mean | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for control in next(iter(found.values())):
        lines.append(f"| {control} | " + " | ".join(f"{moved[control]:.2f}" for moved in found.values()) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steering", description=__doc__.partition(":")[2].strip()
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    parser.add_argument("--preset", metavar="NAME", help="a preset's name or a pipeline's folder (default: compact)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    options = parser.parse_args(arguments)
    from sisrm.presets import load_pipeline

    pipe = load_pipeline(options.preset, options.device)
    pipe.set_progress_bar_config(disable=True)
    print(table({path: moves(pipe, read_photo(path).image) for path in options.photos}), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
