"""Weight files: the bundled ones are those that were published, and a damaged one is named."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from sisrm.errors import WeightsError
from sisrm.presets import PRESETS, check_folder
from sisrm.weights import CHECKSUMS, check_weights, weight_files, write_checksums

BUNDLED = PRESETS["compact"].location


@pytest.fixture
def folder(tmp_path):
    """Two parts of a pipeline, published."""
    for name in ("unet", "vae"):
        (tmp_path / "model" / name).mkdir(parents=True)
        save_file({"weight": torch.arange(64.0)}, tmp_path / "model" / name / "weights.safetensors")
    write_checksums(tmp_path / "model")
    return tmp_path / "model"


def refused(folder) -> str:
    with pytest.raises(WeightsError) as caught:
        check_weights(folder)
    assert str(folder.parent) not in str(caught.value)
    return str(caught.value)


def test_bundled_weights_are_the_published_ones_and_safetensors_only():
    assert weight_files(BUNDLED)
    others = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".h5", ".msgpack", ".onnx", ".py")
    assert [path.name for path in BUNDLED.rglob("*") if path.suffix in others] == []
    check_weights(BUNDLED)
    listed = {line.split("  ")[1] for line in (BUNDLED / CHECKSUMS).read_text().splitlines()}
    assert listed == {path.relative_to(BUNDLED).as_posix() for path in weight_files(BUNDLED)}


def test_checksums_are_those_of_sha256sum(folder):
    lines = (folder / CHECKSUMS).read_text().splitlines()
    assert [line[64:] for line in lines] == ["  unet/weights.safetensors", "  vae/weights.safetensors"]
    check_weights(folder)
    (folder / CHECKSUMS).unlink()
    check_weights(folder)


@pytest.mark.parametrize("length", [0, 5, 60, 300])
def test_a_file_cut_short_is_named_with_or_without_checksums(folder, length):
    path = folder / "vae" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert refused(folder).startswith("model/vae/weights.safetensors: the file ")
    (folder / CHECKSUMS).unlink()
    assert refused(folder).startswith("model/vae/weights.safetensors: the file ")


def test_one_changed_bit_or_a_missing_file_is_named(folder):
    path = folder / "unet" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert refused(folder).startswith("model/unet/weights.safetensors: the file is damaged or was changed")
    path.unlink()
    assert "model/unet/weights.safetensors: the file is missing" in refused(folder)


@pytest.mark.parametrize("text", ["nonsense", "0" * 64 + "  ../../secret", "0" * 64 + "  /etc/passwd"])
def test_a_damaged_list_of_checksums_is_named(folder, text):
    (folder / CHECKSUMS).write_text(text + "\n")
    assert f"model/{CHECKSUMS}" in refused(folder)


@pytest.mark.parametrize("damage", ["cut", "pickle", "nonsense"])
def test_loading_names_the_damaged_file(tmp_path, damage):
    model = tmp_path / "compact"
    shutil.copytree(BUNDLED, model)
    path = model / "mff" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "nonsense":
        path.write_bytes(b"\xff" * len(data))
    else:  # the same part as a pickle is not an alternative
        torch.save({}, path.with_name("diffusion_pytorch_model.bin"))
        path.unlink()
    with pytest.raises(WeightsError, match="compact/mff") as caught:
        check_folder(model)
    assert str(tmp_path) not in str(caught.value)
