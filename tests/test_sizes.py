"""Any size, shape, mode and setting goes through the whole pipeline: right size, finite, and no error but a typed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sisrm.errors import SISRMError
from sisrm.images import MAX_ASPECT, MIN_SIDE, Photo
from sisrm.resize import SCALE
from sisrm.ui.handlers import Handlers
from sisrm.ui.settings import CONTROLS, Choice, Limit, Names, Switch

quickly = settings(max_examples=50, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


@st.composite
def shapes(draw, longest: int = 320, most: int = 20_000):
    """(width, height) from the smallest side on, odd ones and 16:1 among them, of not too many pixels for a test."""
    short = draw(st.integers(MIN_SIDE, 96))
    long = draw(st.integers(short, max(short, min(longest, MAX_ASPECT * short, most // short))))
    return (short, long) if draw(st.booleans()) else (long, short)


def picture(width: int, height: int, mode: str, kind: str) -> Image.Image:
    """Noise, or one colour, or black, or white."""
    rng = np.random.default_rng(width * 1000 + height)
    level = {"black": 0, "white": 255, "flat": 90}.get(kind)
    bands = 4 if mode in ("RGBA", "CMYK") else 3
    pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    if level is not None:
        pixels[:] = level
    image = Image.fromarray(pixels, mode if bands == 4 else "RGB")
    return image if image.mode == mode else image.convert(mode)


@quickly
@example((16, 256), "RGB", "noise", 64, 1.0)
@example((256, 16), "L", "black", 64, 4.0)
@example((17, 17), "1", "noise", 256, 1.0)
@given(
    shapes(), st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16", "LA"]),
    st.sampled_from(["noise", "flat", "black", "white"]), st.sampled_from([64, 72, 100, 256]), st.sampled_from([1.0, 4.0]),
)  # fmt: skip
def test_every_size_and_mode_comes_out_four_times_as_large_and_finite(pipe, size, mode, kind, tile_size, guidance):
    image = picture(*size, mode, kind) if mode != "I;16" else picture(*size, "I", kind).convert("I;16")
    generator = torch.Generator().manual_seed(0)
    output = pipe(
        image,
        num_inference_steps=1,
        guidance_scale=guidance,
        tile_size=tile_size,
        generator=generator,
        output_type="np",
    )
    expected = (SCALE * size[1], SCALE * size[0])
    assert output.images.shape == (1, *expected, 3) and np.isfinite(output.images).all()
    assert output.images.min() >= 0 and output.images.max() <= 1
    assert output.class_map[0].shape == output.mff_mask[0].shape == expected
    assert (output.tiles == 1) == (max(size) <= tile_size or -(-max(size) // 4) * 4 <= tile_size // 4 * 4)


def values_of(control):
    """Values that a control accepts."""
    if isinstance(control, Limit):
        return (st.integers if control.whole else st.floats)(control.low, control.high)
    if isinstance(control, Choice):
        return st.sampled_from(control.options)
    if isinstance(control, Names):
        return st.lists(st.sampled_from(["sky", "tree", "sea", "person", "wall"]), max_size=3)
    assert isinstance(control, Switch), control
    return st.booleans()


SETTINGS = st.fixed_dictionaries({name: values_of(control) for name, control in CONTROLS.items()})


@quickly
@given(shapes(160, 6000), SETTINGS, st.booleans(), st.data())
def test_every_combination_of_settings_gives_a_picture_or_a_typed_error(
    pipe, tmp_path, size, values, transparent, data
):
    handlers = Handlers(pipe, {})
    values["steps"] = min(values["steps"], 3)  # more of the same would only take longer
    alpha = Image.linear_gradient("L").resize(size) if transparent else None
    region = data.draw(st.none() | st.sampled_from([-1, 0, 1]))
    region = None if region is None else np.full((5, 7), region, np.int8)
    try:
        checked = handlers.check(values)
        done = handlers.upscale(Photo(picture(*size, "RGB", "noise"), alpha), checked, tmp_path, region=region)
    except SISRMError as error:
        assert str(error) and "\n" not in str(error)
        return
    with Image.open(done.result) as result:
        assert result.size == tuple(checked.output_scale * side for side in size)
        assert result.mode == ("RGBA" if transparent else "RGB")
        if checked.output_scale == SCALE and checked.color_fix != "none" and checked.color_fix_strength == 1:
            # colours come from the photo: whatever the settings, the picture is not black, white or of one colour
            assert np.asarray(result)[..., :3].std() > 5
    assert done.report["settings"] == checked.as_json() and not handlers.busy
