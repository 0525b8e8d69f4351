"""Patches of a photo, enlarged as a sample."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_pipe
from PIL import Image

from sisrm.images import Photo
from sisrm.ui.crops import box_around, preview
from sisrm.ui.handlers import Handlers


@pytest.mark.parametrize(
    ("size", "at", "box"),
    [
        ((24, 20), (0.5, 0.5), (0, 0, 24, 20)),
        ((300, 200), (0, 0), (0, 0, 128, 128)),
        ((300, 200), (1, 1), (172, 72, 300, 200)),
        ((300, 100), (0.5, 0.9), (86, 0, 214, 100)),
    ],
)
def test_patches_lie_in_the_photo(size, at, box):
    assert box_around(size, at) == box


def test_a_patch_has_its_part_of_the_region_and_of_the_transparency(tmp_path):
    handlers = Handlers(tiny_pipe(), {})
    photo = Photo(
        Image.new("RGB", (256, 32), "gray"), Image.linear_gradient("L").resize((32, 256)).rotate(90, expand=True)
    )
    region = np.zeros((4, 16), np.int8)
    region[:, 8:] = 1
    settings = handlers.check({"steps": 1, "guidance_scale": 1.0, "sape": False})
    for x, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        done = preview(handlers, photo, settings, (x, 0.5), tmp_path, region=region)
        assert done.report["region"]["add"] == share
        left = done.report["crop"]["left"]
        expected = photo.alpha.crop((left, 0, left + 128, 32)).resize((512, 128), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(Image.open(done.result).getchannel("A")), np.asarray(expected))


def test_a_patch_has_no_label_where_all_of_the_photo_are_muted(compact_pipeline, tmp_path):
    handlers = Handlers(compact_pipeline, {})
    photo = Photo(Image.open("examples/raccoon.png").convert("RGB").resize((288, 216)))
    given = {"steps": 1, "guidance_scale": 1.0, "top_k": 3}
    names = [label.name for label in handlers.labels_of(photo, handlers.check(given))]
    corner = Photo(photo.image.crop((0, 0, 128, 128)))
    own = {label.name for label in handlers.labels_of(corner, handlers.check(given))}
    assert own - set(names)  # the patch alone would bring others in
    done = preview(handlers, photo, handlers.check({**given, "muted_labels": names}), (0.0, 0.0), tmp_path)
    assert done.report["labels"] == [] and done.report["prompt"] == ""
