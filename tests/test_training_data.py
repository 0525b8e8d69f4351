"""Training photos: folders and WebDataset shards of any size, read where they lie."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from sisrm.errors import ParameterError
from sisrm.training.data import UNSURE, Crops, CropSettings, Photos
from sisrm.training.recipes import RECIPES


def picture(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours)


def pixels(image) -> np.ndarray:
    return np.asarray(image)


def test_a_large_photo_is_cropped_at_its_own_scale(tmp_path):
    """DIV2K's size, without a label map, with the settings of the `sd` preset."""
    rows, columns = np.mgrid[0:1356, 0:2040]
    whole = np.stack([columns % 256, rows % 256, (columns // 256) * 16 + rows // 256], axis=-1).astype(np.uint8)
    Image.fromarray(whole).save(tmp_path / "0001.png", compress_level=1)
    for recipe in RECIPES["sd"].values():
        options = {key: recipe.options[key] for key in ("scale", "degradations")}
        crops = Crops(Photos([tmp_path]), CropSettings(crop=recipe.crop, **options))
        for number in range(2):
            sample = crops[number]
            assert sample["hr"].shape == (3, 512, 512) and sample["lr"].shape == (3, 128, 128)
            assert (sample["classes"] == UNSURE).all()
            hr = (sample["hr"].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
            left, top, right, bottom = (
                round(share * side) for share, side in zip(sample["view"].tolist(), (2040, 1356) * 2)
            )
            expected = whole[top:bottom, min(left, right) : max(left, right)]
            assert np.array_equal(hr, expected if left < right else expected[:, ::-1])


def test_a_small_photo_is_enlarged_to_the_crop(tmp_path):
    picture(0, 30, 50).save(tmp_path / "a.png")
    assert Crops(Photos([tmp_path]), CropSettings(crop=64))[0]["hr"].shape == (3, 64, 64)


def test_folders_are_read_with_their_subfolders(tmp_path):
    """As LSDIR comes: 0001000/0000001.png."""
    for index in range(3):
        folder = tmp_path / f"000{index}"
        folder.mkdir()
        picture(index).save(folder / f"{index}.png")
    Image.fromarray(np.full((40, 40), 3, np.uint8)).save(tmp_path / "0001" / "1.seg.png")
    (tmp_path / "notes.txt").write_text("not a photo")
    photos = Photos([tmp_path])
    assert [key for key, _, _ in photos.files] == ["0000/0", "0001/1", "0002/2"]
    assert [photos.read(index)[2] is not None for index in range(3)] == [False, True, False]
    assert len(Photos([tmp_path], exclude_sources=("0001", "0002"))) == 1


def test_shards_of_webdatasets_own_writer(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a-000.tar")) as writer:
        for index in range(3):
            labels = np.full((40, 40), index + 1, np.uint8)
            writer.write({"__key__": f"dir/{index}", "png": picture(index), "seg.png": labels, "json": {"n": index}})
        writer.write({"__key__": "words", "txt": "no photo in it"})
    photos = Photos([tmp_path])
    assert [key for key, _, _ in photos.files] == ["dir/0", "dir/1", "dir/2"]
    for index in (2, 0, 1):
        key, image, labels = photos.read(index)
        assert np.array_equal(pixels(image), pixels(picture(index))) and (pixels(labels) == index + 1).all()
    theirs = list(webdataset.WebDataset(str(tmp_path / "a-000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in theirs[:3]] == [key for key, _, _ in photos.files]
    assert theirs[1]["png"] == photos.files[1][1].read() and theirs[1]["seg.png"] == photos.files[1][2].read()


def test_only_places_are_kept_in_memory(tmp_path):
    picture(0, 400, 400).save(tmp_path / "a.png")
    photos = Photos([tmp_path])
    held = sum(len(repr(entry)) for entry in photos.files)
    assert held < 1000 < (tmp_path / "a.png").stat().st_size
    picture(1, 400, 400).save(tmp_path / "a.png")
    assert np.array_equal(pixels(photos.read(0)[1]), pixels(picture(1, 400, 400)))


def test_a_damaged_photo_does_not_end_a_run(tmp_path, caplog):
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    crops = Crops(Photos([tmp_path]), CropSettings(crop=32))
    drawn = [crops[number] for number in range(6)]
    assert {int(sample["photo"]) for sample in drawn} == {0}
    assert "b cannot be read" in caplog.text and "another photo takes its place" in caplog.text
    assert torch.equal(drawn[3]["hr"], Crops(Photos([tmp_path]), CropSettings(crop=32))[3]["hr"])
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ParameterError, match="at least one that can be read"):
        crops[0]


def test_shards_that_are_cut_or_compressed_are_refused(tmp_path):
    picture(0).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for index in range(3):
            archive.add(tmp_path / "a.png", f"{index}.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:6000])
    assert len(Photos([tmp_path / "whole.tar"])) == 3
    for name in ("packed.tar", "cut.tar"):
        with pytest.raises(ParameterError, match=rf"{name}.*whole and not compressed"):
            Photos([tmp_path / name])


def test_every_photo_comes_once_a_pass(tmp_path):
    for index in range(5):
        picture(index).save(tmp_path / f"{index}.png")
    crops = Crops(Photos([tmp_path]), CropSettings(crop=32), seed=3)
    passes = [[crops.photo_of(5 * turn + place) for place in range(5)] for turn in range(4)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in passes) and len(set(map(tuple, passes))) > 1
    assert [crops.photo_of(place) for place in range(5)] == passes[0]
