"""Large pictures: the work grows with the pixels and no faster, and what they cost can be measured."""

from __future__ import annotations

import json

import pytest

from sisrm.cli import main
from sisrm.evaluation import large
from sisrm.images import MAX_PIXELS
from sisrm.resize import SCALE
from sisrm.tiling import Tiles


@pytest.mark.parametrize("tile_size", [128, 256, 512])
def test_work_is_linear_in_pixels(tile_size):
    """Pixels that the networks see, overlaps and surroundings included, per pixel of the photo: the same for every large photo."""
    shares = []
    for side in (1024, 1500, 2048, 4096):
        tiles = Tiles(side, side, tile_size, 8)
        seen = [sum(tile.height * tile.width for tile in some) for some in (tiles.list, map(tiles.wide, tiles.list))]
        shares.append([count / side**2 for count in seen])
    for narrow, wide in shares:
        assert 1 < narrow < 2 and narrow < wide < 3.2
        assert narrow == pytest.approx(shares[0][0], rel=0.12) and wide == pytest.approx(shares[0][1], rel=0.15)


def test_the_largest_result_is_that_of_the_largest_photo():
    assert large.MOST * 2**20 == SCALE**2 * MAX_PIXELS


def test_every_size_is_measured_by_itself(tiny_pipeline, tmp_path, capsys, monkeypatch):
    tiny_pipeline.save_pretrained(tmp_path / "tiny")
    arguments = ["profile", "--preset", tmp_path / "tiny", "--device", "cpu", "--steps", 1, "--megapixels", 0.02, 0.3]
    with monkeypatch.context() as patch:  # --compile goes before it, in the processes that are started, too
        patch.setenv("SISRM_COMPILE", "nonsense")
        assert main([*map(str, arguments), "--json", "--compile", "off"]) == 0
    small, big = json.loads(capsys.readouterr().out)["large"]
    assert (small["input"], small["output"], small["tiles"], big["input"]) == (36, 144, 1, 140)
    assert 0 < small["seconds"] < big["seconds"] + 5 and 100 < small["peak_memory_mb"] < big["peak_memory_mb"] + 50
    words = large.table([small, big])
    assert "| 0.02 MP | 36 x 36 | 1 |" in words and words.count("\n") == 4
    assert main([*map(str, arguments[:-1]), "300"]) == 2
    assert "--megapixels is 300" in capsys.readouterr().err
