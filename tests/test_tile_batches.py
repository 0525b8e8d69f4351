"""Tiles in batches: what one by one gives, no more than memory holds, and stopped between two of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sisrm.errors import Interrupted
from sisrm.tile_batches import MOST, Batching, room_on
from sisrm.tiling import Tiles


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def image() -> Image.Image:
    """So large that tiles of 64 are six, and nowhere alike, so that a tile with another's conditions is another tile."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 100, 3)) * np.linspace(0.2, 1, 100)[None, :, None]
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def roomy(monkeypatch):
    """This machine as a GPU with much memory."""
    monkeypatch.setattr("sisrm.tiling.room_on", lambda device: True)


def batches_of(pipe) -> list[int]:
    """Filled with the sizes of the U-Net's batches."""
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize(
    "settings, pictures", [({}, 2), ({"guidance_scale": 1.0, "use_mff": False}, 1), ({"use_sca": False}, 1)], ids=str
)
def test_a_batch_of_tiles_gives_what_one_after_the_other_gives(tiny_pipeline, image, settings, pictures, monkeypatch):
    images = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)][:pictures]
    run = {"num_inference_steps": 2, "tile_size": 64, "output_type": "np", **settings}

    def result() -> np.ndarray:
        return tiny_pipeline(images, generator=[seeded() for _ in images], **run).images

    alone, seen = result(), batches_of(tiny_pipeline)
    monkeypatch.setattr("sisrm.tiling.room_on", lambda device: True)
    together = result()
    branches = 1 if settings.get("guidance_scale") == 1 else 2
    assert seen == [tiles * branches * pictures for tiles in (1, 2, 3, 6)]
    assert np.abs(together - alone).max() < 1e-4


def test_on_a_cpu_tiles_run_one_by_one(tiny_pipeline, image):
    seen = batches_of(tiny_pipeline)
    tiny_pipeline(image, num_inference_steps=1, guidance_scale=1.0, tile_size=64)
    assert seen == [1] * 6


def test_what_does_not_fit_runs_in_smaller_batches_before_tiles_are_made_smaller(tiny_pipeline, image, roomy):
    tried = []

    def full(module, inputs):
        tried.append(len(inputs[0]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "tile_size": 64, "output_type": "np"}
    hook = tiny_pipeline.unet.register_forward_pre_hook(full)
    output = tiny_pipeline(image, generator=seeded(), **settings)
    hook.remove()
    # Halves of 4, of which there were 3 left: begun again with 2, and so on.
    assert tried == [1, 2, 3] + [2, 2, 2] * 2
    assert output.notices == [] and output.tiles == 6
    expected = tiny_pipeline(image, generator=seeded(), **settings)
    assert np.abs(output.images - expected.images).max() < 1e-4


def test_progress_counts_tiles_and_a_run_stops_between_two_batches(tiny_pipeline, image, roomy):
    told = []

    def stop(pipe, part, done, total):
        told.append((part, done, total))
        pipe.interrupt = part == "denoising" and done == 3

    with pytest.raises(Interrupted, match="tiles"):
        tiny_pipeline(image, num_inference_steps=2, tile_size=64, callback_on_tile_end=stop)
    assert told[6:] == [("denoising", 1, 12), ("denoising", 3, 12)]


def test_a_batch_doubles_while_there_is_room_and_never_again_what_did_not_fit():
    room = [True]
    batching = Batching(lambda: room[0])
    sizes = []
    for _ in range(6):
        sizes.append(batching.size)
        batching.grow()
    assert sizes == [1, 2, 4, MOST, MOST, MOST]
    assert batching.shrink() and batching.size == MOST // 2
    batching.grow()
    assert batching.size == MOST // 2
    assert batching.shrink() and batching.shrink() and batching.size == 1 and not batching.shrink()
    room[0], fresh = False, Batching(lambda: room[0])
    fresh.grow()
    assert fresh.size == 1


@pytest.mark.parametrize("free, expected", [(599, False), (600, True)])
def test_room_is_twice_what_was_needed_beside_what_stays(monkeypatch, free, expected):
    """The allocator's figures stand in for a GPU's: 500 reserved, of which 200 are in use."""
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    assert room_on(torch.device("cuda")) is expected
    assert room_on(torch.device("cpu")) is False


def test_tiles_that_were_made_smaller_run_one_by_one(roomy):
    tiles, sizes = Tiles(192, 192, 128, 8), []

    def make(group):
        sizes.append((len(group), group[0].height))
        if group[0].height > 64:
            raise MemoryError
        return torch.zeros(len(group), 1, 32, 32)

    assert tiles.blend(make).shape == (1, 1, 96, 96)
    assert sizes[0] == (1, 112) and {count for count, height in sizes[1:]} == {1}
