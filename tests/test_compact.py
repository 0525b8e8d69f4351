"""The bundled model: within its budget, better than bicubic where that can be measured here, and every control alive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sisrm.evaluation.metrics import gradient_energy, to_tensor
from sisrm.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = PRESETS["compact"].location


def run(pipe, **changes):
    photo, box = changes.pop("photo", ("coffee", (40, 20, 104, 84)))
    image = Image.open(ROOT / "examples" / f"{photo}.png").convert("RGB").crop(box)
    return pipe(image, generator=torch.Generator().manual_seed(changes.pop("seed", 0)), **changes)


@pytest.fixture(scope="module")
def default_result(compact_pipeline):
    return run(compact_pipeline)


def test_files_and_parameters_are_within_the_budget(compact_pipeline):
    weights = list(FOLDER.glob("*/*.safetensors"))
    assert max(path.stat().st_size for path in FOLDER.rglob("*")) <= 9e6
    assert sum(path.stat().st_size for path in weights) <= 40e6
    assert not list(FOLDER.rglob("*.bin")) and not list(FOLDER.rglob("*.pt"))
    parts = [part for part in compact_pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert sum(p.numel() for part in parts for p in part.parameters()) <= 20e6


def test_result_is_sharper_than_bicubic_and_keeps_the_photo(compact_pipeline, default_result):
    image = Image.open(ROOT / "examples" / "coffee.png").convert("RGB").crop((40, 20, 104, 84))
    bicubic = image.resize((256, 256), Image.Resampling.BICUBIC)
    result = default_result.images[0]
    assert 1.15 < float(gradient_energy(to_tensor(result)) / gradient_energy(to_tensor(bicubic))) < 4
    small = np.asarray(result.resize((64, 64), Image.Resampling.BOX), float)
    assert np.abs(small - np.asarray(image, float)).mean() < 6


@pytest.mark.parametrize("photo", ["coffee", "cat", "astronaut"])
def test_colours_are_those_of_the_photo(compact_pipeline, photo):
    image = Image.open(ROOT / "examples" / f"{photo}.png").convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
    result = compact_pipeline(image, generator=torch.Generator().manual_seed(0)).images[0]
    means = [np.asarray(picture, dtype=float).mean((0, 1)) for picture in (image, result)]
    assert np.abs(means[0] - means[1]).max() < 1.5  # grey levels; saturated reds and greens drift first


@pytest.mark.parametrize(
    "change",
    [{"num_inference_steps": 4}, {"guidance_scale": 4.0}, {"top_k": 1}, {"use_mff": False}, {"seed": 1}, {"labels": ["sea"]},
     {"start_strength": 0.4}, {"color_fix": "none"}, {"region_mask": np.ones((8, 8))}],
    ids=str,
)  # fmt: skip
def test_every_control_changes_pixels_that_a_person_gets(compact_pipeline, default_result, change):
    # M only matters where it leaves something out: the labels seen in this photo may well cover all of it
    base = {"labels": ["sea"]} if set(change) & {"use_mff", "region_mask"} else {}
    if "top_k" in change:  # it can only take away where more than one label is sure enough to be used
        base = {"photo": ("raccoon", (0, 0, 192, 144))}
    before = run(compact_pipeline, **base).images[0] if base else default_result.images[0]
    after = run(compact_pipeline, **base, **change).images[0]
    assert np.asarray(after).tobytes() != np.asarray(before).tobytes()


def test_defaults_travel_with_the_weights(compact_pipeline):
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert compact_pipeline.defaults == {name: index[name] for name in compact_pipeline.defaults}


def test_all_parts_of_the_method_are_trained(compact_pipeline):
    from sisrm.runtime import trained_parts

    assert trained_parts(compact_pipeline) == {"sca": True, "controlnet": True, "image_encoder": True}
