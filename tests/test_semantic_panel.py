"""The semantic panel: the pictures behind it, and a visitor's edits on their way back."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sisrm.drawing import class_colors
from sisrm.errors import ImageError, ParameterError
from sisrm.ui.pictures import LONGEST_SIDE, draw_mask, write_views
from sisrm.ui.regions import ADD_COLOR, PROTECT_COLOR
from sisrm.ui.semantic_panel import Edits, edits_of, region_of

CLASS_MAP = np.repeat(np.arange(4, dtype=np.uint8) * 30, 20)[None].repeat(40, 0)


def data_url(image: Image.Image) -> str:
    held = io.BytesIO()
    image.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def panel_value(**edits):
    return {"source": "a", "edits": {"added": [], "muted": [], "region": None, **edits}}


def test_the_pictures_show_regions_classes_and_mask(tmp_path):
    mask = CLASS_MAP >= 60
    views = write_views(Image.new("RGB", (80, 40), "gray"), CLASS_MAP, tmp_path, mask)
    with Image.open(views.photo) as photo, Image.open(views.regions) as regions, Image.open(views.classes) as classes:
        assert photo.size == regions.size == classes.size == (80, 40)
        assert np.array_equal(np.asarray(classes), CLASS_MAP)
        colours = np.asarray(regions)
    for position, index in ((10, 0), (30, 30), (50, 60), (70, 90)):
        assert np.array_equal(colours[20, position], class_colors()[index])
    with Image.open(views.mask) as drawn:
        opacity = np.asarray(drawn)[..., 3]
    assert (opacity[:, :40] > 100).all() and (opacity[:, 45:] == 0).all()
    assert write_views(Image.new("RGB", (80, 40)), CLASS_MAP, tmp_path).mask is None


def test_large_pictures_are_shown_smaller(tmp_path):
    class_map = np.zeros((100, 3 * LONGEST_SIDE), np.uint8)
    views = write_views(Image.new("RGB", (3 * LONGEST_SIDE, 100)), class_map, tmp_path, class_map > 0)
    sizes = [Image.open(path).size for path in (views.photo, views.regions, views.mask, views.classes)]
    assert sizes[0] == sizes[1] == sizes[2] == (LONGEST_SIDE, 34) and max(sizes[3]) <= LONGEST_SIDE


def test_a_mask_that_is_everywhere_hides_nothing():
    assert np.asarray(draw_mask(np.ones((20, 30), bool)))[..., 3].max() == 0


def test_edits_belong_to_the_photo_that_they_were_made_on():
    value = panel_value(added=["boat"], muted=["sky"])
    assert edits_of(value, "a") == Edits(("boat",), ("sky",))
    unchanged = {"source": "a", "used": value["edits"]}
    assert edits_of(unchanged, "a") == Edits(("boat",), ("sky",))
    assert edits_of({**unchanged, "edits": Edits().as_json()}, "a") == Edits()
    for nothing in (None, {}, {"source": "a"}, "text", {**value, "source": "b"}):
        assert edits_of(nothing, "a") == Edits()


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("extra_labels", {"added": "boat"}), ("extra_labels", {"added": [3]}), ("muted_labels", {"muted": {"sky": 1}}),
        ("region", {"region": 3}), ("region", {"region": "http://example.org/a.png"}), ("region", {"region": ["data:"]}),
        ("region", {"region": "data:image/png;base64," + "A" * 2**20}),
    ],
)  # fmt: skip
def test_edits_that_the_panel_never_sends_are_refused(name, edits):
    with pytest.raises(ParameterError, match=name):
        edits_of(panel_value(**edits), "a")


def test_a_painted_region_is_read(tmp_path):
    strokes = Image.new("RGBA", (8, 6))
    strokes.paste(ADD_COLOR, (0, 0, 3, 6))
    strokes.paste(PROTECT_COLOR, (6, 0, 8, 6))
    region = region_of(edits_of(panel_value(region=data_url(strokes)), "a"), tmp_path)
    assert region.shape == (6, 8)
    assert (region[:, :3] == 1).all() and (region[:, 3:6] == 0).all() and (region[:, 6:] == -1).all()
    assert region_of(Edits(), tmp_path) is None
    for damaged in ("???", base64.b64encode(b"no picture").decode()):
        with pytest.raises((ParameterError, ImageError), match="region"):
            region_of(Edits(region="data:image/png;base64," + damaged), tmp_path)
