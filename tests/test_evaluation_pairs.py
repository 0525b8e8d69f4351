"""Evaluation: image pairs of a folder and of the published protocols."""

import numpy as np
import pytest
from PIL import Image
from test_evaluation import textured

from sisrm.errors import ImageError, ParameterError
from sisrm.evaluation.pairs import PairFolder
from sisrm.evaluation.protocols import Div2kVal, RealSR, open_pairs


@pytest.fixture
def folder(tmp_path):
    """DIR with three HR images in different formats and their LR images."""
    for name in ("HR", "LR"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for seed, ending in enumerate((".png", ".webp", ".bmp")):
        image = textured(seed, 64, 64)
        image.save(tmp_path / "set" / "HR" / f"p{seed}{ending}", **({"lossless": True} if ending == ".webp" else {}))
        image.resize((16, 16), Image.Resampling.BOX).save(tmp_path / "set" / "LR" / f"p{seed}.png")
    return tmp_path / "set"


def test_pairs_join_by_name_whatever_the_format(folder):
    pairs = list(PairFolder(folder))
    assert [pair.name for pair in pairs] == ["p0", "p1", "p2"]
    assert all(pair.reference.size == (64, 64) and pair.low.size == (16, 16) for pair in pairs)
    assert len(PairFolder(folder, limit=2)) == len(list(PairFolder(folder, limit=2))) == 2


def test_degraded_pairs_depend_on_seed_and_name_only(folder):
    def lows(**options) -> dict[str, bytes]:
        return {pair.name: pair.low.tobytes() for pair in PairFolder(folder, **options)}

    first = lows(degrade_seed=3)
    assert first == lows(degrade_seed=3)
    assert all(first[name] != other for name, other in lows(degrade_seed=4).items())
    assert first["p0"] != lows(degrade_seed=3, degradation="light")["p0"]
    (folder / "HR" / "p0.png").unlink()
    assert lows(degrade_seed=3) == {name: first[name] for name in ("p1", "p2")}


def test_degraded_references_are_cut_to_whole_pixels(folder):
    textured(5, 71, 66).save(folder / "HR" / "p0.png")
    pair = next(iter(PairFolder(folder, degrade_seed=0)))
    assert pair.reference.size == (68, 64) and pair.low.size == (17, 16)


@pytest.mark.parametrize("options, named", [
    ({"degrade_seed": -1}, "--degrade"),
    ({"limit": 0}, "--limit"),
    ({"degrade_seed": 0, "degradation": "x"}, "--degradation"),
])  # fmt: skip
def test_wrong_pair_settings_are_named(folder, options, named):
    with pytest.raises(ParameterError, match=named):
        PairFolder(folder, **options)


def test_incomplete_folders_are_refused(folder, tmp_path):
    with pytest.raises(ParameterError, match="HR"):
        PairFolder(tmp_path)
    (folder / "LR" / "p1.png").unlink()
    with pytest.raises(ImageError, match="p1"):
        list(PairFolder(folder))
    textured(1, 60, 64).save(folder / "LR" / "p1.png")
    with pytest.raises(ImageError, match="exactly 4x"):
        list(PairFolder(folder))
    (folder / "HR" / "p0.jpg").write_bytes(b"x")
    with pytest.raises(ParameterError, match="p0"):
        PairFolder(folder)


# Protocols


def test_realsr_takes_stablesr_crops_alone(tmp_path):
    for name, side in (("HR", 512), ("LR", 128)):
        (tmp_path / name).mkdir()
        textured(0, side, side).save(tmp_path / name / "a.png")
    pairs = open_pairs("realsr", tmp_path)
    assert isinstance(pairs, RealSR) and pairs.describe()["name"] == "realsr"
    (pair,) = pairs
    assert np.array_equal(np.asarray(pair.low), np.asarray(textured(0, 128, 128)))
    textured(1, 512, 384).save(tmp_path / "HR" / "b.png")
    textured(1, 128, 96).save(tmp_path / "LR" / "b.png")
    with pytest.raises(ImageError, match=r"b\.png: 128 x 96 pixels; --protocol realsr takes .* 128 x 128"):
        open_pairs("realsr", tmp_path)
    assert len(open_pairs("realsr", tmp_path, limit=1)) == 1
    assert len(list(open_pairs("folder", tmp_path))) == 2


@pytest.mark.parametrize("inner", ["HR", "."])
def test_div2k_resizes_and_cuts_the_centre(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    photo = textured(0, 1100, 620)
    photo.save(tmp_path / inner / "0801.png")
    pair = next(iter(open_pairs("div2k-val", tmp_path)))
    width = round(1100 * 512 / 620)
    left = (width - 512) // 2
    expected = photo.resize((width, 512), Image.Resampling.BICUBIC).crop((left, 0, left + 512, 512))
    assert np.array_equal(np.asarray(pair.reference), np.asarray(expected))
    assert pair.low.size == (128, 128)
    again, other = Div2kVal(tmp_path, 0).pair("0801"), Div2kVal(tmp_path, 1).pair("0801")
    assert again.low.tobytes() == pair.low.tobytes() != other.low.tobytes()
    # the degradation is the one of --protocol folder: same seed, same name, same picture
    (tmp_path / "cut" / "HR").mkdir(parents=True)
    expected.save(tmp_path / "cut" / "HR" / "0801.png")
    assert PairFolder(tmp_path / "cut", 0, "seesr").pair("0801").low.tobytes() == pair.low.tobytes()
    described = Div2kVal(tmp_path, 3).describe()
    assert (described["degradation"], described["degrade_seed"], described["name"]) == ("seesr", 3, "div2k-val")
    assert "512" in described["reference"]


def test_a_small_photo_is_enlarged_with_a_warning(tmp_path, caplog):
    textured(0, 300, 200).save(tmp_path / "small.png")
    assert Div2kVal(tmp_path).pair("small").reference.size == (512, 512)
    assert "small: 300 x 200" in caplog.text


@pytest.mark.parametrize("arguments, named", [
    ({"protocol": "set5"}, "--protocol is 'set5'; accepted: one of folder, realsr, div2k-val"),
    ({"protocol": "realsr", "degrade_seed": 0}, "--degrade"),
    ({"protocol": "div2k-val", "degradation": "light"}, "--degradation is 'light'; accepted: seesr"),
    ({"protocol": "div2k-val", "degrade_seed": -1}, "--degrade"),
])  # fmt: skip
def test_protocols_refuse_what_they_do_not_take(folder, arguments, named):
    with pytest.raises(ParameterError, match=named):
        open_pairs(**{"folder": folder, **arguments})
