"""Tiles: exact where they can be, without seams where they cannot, and small enough whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sisrm import cli
from sisrm.errors import Interrupted, OutOfMemory, ParameterError
from sisrm.images import NOTICES, Photo
from sisrm.presets import load_pipeline
from sisrm.tiling import OVERLAP, Axis, Canvas, Tiles
from sisrm.ui.handlers import Handlers
from sisrm.ui.panels import made

ROOT = Path(__file__).resolve().parent.parent


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def textured(width: int, height: int) -> Image.Image:
    """Waves of many directions and lengths, everywhere alike: what differs at a seam is the seam."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.full((height, width, 3), 128.0)
    for angle, length, phase in rng.uniform((0, 3, 0), (np.pi, 16, 2 * np.pi), (24, 3)):
        along = (np.cos(angle) * columns + np.sin(angle) * rows) / length
        pixels += 9 * np.sin(2 * np.pi * along + phase)[..., None] * rng.uniform(0.5, 1, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def flat(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (120, 140, 160))


# Geometry and weights


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.integers(64, 400), st.sampled_from([4, 8, 16]))
def test_tiles_cover_every_length_in_steps_of_the_networks_strides(units, size, multiple):
    length, size = units * multiple, size // multiple * multiple
    axis = Axis.cover(length, size, multiple)
    ends = [start + axis.size for start in axis.starts]
    assert axis.size <= size and axis.starts[0] == 0 and ends[-1] == length
    assert all(number % multiple == 0 for number in (axis.size, *axis.starts))
    assert all(end - start >= OVERLAP - multiple for end, start in zip(ends, axis.starts[1:]))
    assert (len(axis.starts) == 1) == (length <= size)
    weights = axis.weights(0.5)
    assert weights.shape == (len(axis.starts), length // 2)
    torch.testing.assert_close(weights.sum(0), torch.ones(length // 2))
    for row, start, end in zip(weights, axis.starts, ends):
        assert not row[: start // 2].any() and not row[end // 2 :].any()
    if multiple < OVERLAP // 2:
        assert weights.diff(dim=1).abs().max() < 0.3, "no hard edge"


@pytest.mark.parametrize("scale", [0.5, 1, 4])
def test_blending_what_agrees_gives_it_back(scale):
    tiles = Tiles(152, 200, 64, 8)
    whole = torch.randn(2, 3, round(152 * scale), round(200 * scale), generator=seeded())
    assert len(tiles) > 9
    torch.testing.assert_close(tiles.blend(lambda group: torch.cat([tile.of(whole, scale) for tile in group])), whole)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_a_canvas_joins_tiles_that_agree_and_cuts_the_padding_off(kind):
    tiles = Tiles(72, 136, 64, 8)
    whole = torch.rand(2, 3, 4 * 72, 4 * 136, generator=seeded())
    canvas = Canvas(tiles, 2, (4 * 70, 4 * 131), 4, kind)
    for tile in tiles.list:
        canvas.put(tile, tile.of(whole, 4))
    expected = whole[..., : 4 * 70, : 4 * 131].permute(0, 2, 3, 1).numpy()
    result = canvas.result(torch.device("cpu"))
    if kind == "pil":
        result = np.stack([np.asarray(picture, np.float32) / 255 for picture in result])
    elif kind == "pt":
        result = result.permute(0, 2, 3, 1).numpy()
    assert result.shape == expected.shape and np.abs(result - expected).max() < (1.1 / 255 if kind == "pil" else 1e-6)


# One tile is today's result, several are as good


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_picture_of_one_tile_is_the_plain_steps_to_the_byte(tiny_pipeline, guidance_scale):
    pipe, image = tiny_pipeline, textured(61, 50)
    result = pipe(image, guidance_scale=guidance_scale, generator=seeded(), tile_size=64)
    with torch.no_grad():
        lr_image = pipe.prepare_lr_image(image)
        padded = torch.nn.functional.pad(lr_image, (0, 3, 0, 2), mode="replicate")
        seen = pipe.extract_semantics(lr_image, 3)
        prompts = ([""] if guidance_scale > 1 else []) + seen.output.prompt
        text, encoding = pipe.encode_prompt(prompts), pipe.encode_image(padded)
        mask = pipe.prepare_masks(seen, None, True).float()
        mask = torch.nn.functional.pad(mask, (0, 12, 0, 8), mode="replicate")
        timesteps = pipe.prepare_timesteps(2, 0.5)
        latents = pipe.prepare_latents(encoding.latents, timesteps[0], [seeded()])
        for timestep in timesteps:
            twice = [torch.cat([given] * len(prompts)) for given in (latents, seen.tokens, encoding.condition, mask)]
            prediction = pipe.denoise(twice[0], timestep, text, *twice[1:])
            if guidance_scale > 1:
                avoided, wanted = prediction.chunk(2)
                prediction = avoided + guidance_scale * (wanted - avoided)
            latents = pipe.scheduler.step(prediction, timestep, latents).prev_sample
        decoded = pipe.decode_latents(latents, encoding)[..., :200, :244]
        plain = pipe.finish_image(decoded, lr_image, encoding.lr_image[..., :50, :61], "wavelet")
    pixels = (plain[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert result.tiles == 1 and np.asarray(result.images[0]).tobytes() == pixels.tobytes()


@pytest.mark.parametrize("color_fix", ["none", "wavelet", "adain"])
def test_image_branch_and_decoder_give_in_tiles_what_they_give_whole(tiny_pipeline, color_fix):
    pipe, image = tiny_pipeline, textured(150, 101)
    # With no denoising step to speak of, all that tiles can change is what is encoded, decoded and finished in them.
    pipe.guided_denoise = lambda latents, *inputs, **settings: torch.zeros_like(latents)
    whole, tiled = (
        pipe(image, color_fix=color_fix, generator=seeded(), output_type="np", tile_size=size) for size in (256, 64)
    )
    assert (whole.tiles, tiled.tiles) == (1, 12)
    assert np.abs(whole.images - tiled.images).max() < 1e-3


def gradient_at_seams(pixels: np.ndarray, tiles: Tiles, scale: float) -> float:
    """Gradient across the lines where a tile begins, ends, or gives way to the next, against that everywhere else. pixels: (H, W)."""
    at, elsewhere = [], []
    for axis, across in (
        (tiles.columns, np.abs(np.diff(pixels, axis=1))),
        (tiles.rows, np.abs(np.diff(pixels, axis=0)).T),
    ):
        pairs = [(start, before + axis.size) for before, start in zip(axis.starts, axis.starts[1:])]
        seams = np.zeros(across.shape[1], bool)
        for line in {line for start, end in pairs for line in (start, end, (start + end) // 2)}:
            seams[round(line * scale) - 1 : round(line * scale) + 1] = True
        at.append(across[:, seams].mean())
        elsewhere.append(across[:, ~seams].mean())
    return float(np.mean(at) / np.mean(elsewhere))


def grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float64).mean(2)


PICTURES = pytest.mark.parametrize("image", [flat(136, 104), textured(136, 104)], ids=["flat", "textured"])


@PICTURES
def test_a_picture_has_no_seams(tiny_pipeline, image):
    tiles = Tiles(104, 136, 64, 4)
    run = {"generator": seeded(), "start_strength": 1.0, "guidance_scale": 4.0}
    whole, tiled = (tiny_pipeline(image, **run | {"generator": seeded()}, tile_size=size) for size in (256, 64))
    assert (whole.tiles, tiled.tiles) == (1, 12)
    before, after = (gradient_at_seams(grey(output.images[0]), tiles, 4) for output in (whole, tiled))
    assert after == pytest.approx(before, rel=0.03)


@PICTURES
@pytest.mark.parametrize("blended", [True, False])
def test_tiles_that_disagree_leave_no_seam_and_side_by_side_they_would(tiny_pipeline, image, blended, monkeypatch):
    if not blended:
        monkeypatch.setattr("sisrm.tiling._smooth_step", lambda share: (share > 0.5).double())
    predict, tiles, latents = tiny_pipeline.guided_denoise, Tiles(104, 136, 64, 4), {}
    calls = iter(range(100))
    offset = 0.0
    tiny_pipeline.guided_denoise = lambda *inputs, **settings: (
        predict(*inputs, **settings) + offset * (-1) ** next(calls)
    )
    tiny_pipeline.prepare_latents = lambda start, *others: start  # noise would hide the seams

    def keep(pipe, index, timestep, values):
        latents[values["tiles"]] = values["latents"][0].mean(0).numpy()
        return {}

    for size, offset in ((256, 0.0), (64, 2.0)):  # noqa: B007
        tiny_pipeline(image, start_strength=1.0, tile_size=size, callback_on_step_end=keep)
    seams = gradient_at_seams(latents[12] - latents[1], tiles, 0.5)
    assert seams < 1.5 if blended else seams > 4


@pytest.mark.parametrize("size", [(16, 16), (16, 256), (129, 64), (65, 67)])
def test_every_size_comes_out_four_times_as_large(tiny_pipeline, size):
    output = tiny_pipeline(textured(*size), num_inference_steps=1, generator=seeded(), tile_size=64)
    expected = 4 * size[0], 4 * size[1]
    assert output.images[0].size == expected
    assert output.class_map[0].shape == output.mff_mask[0].shape == expected[::-1]
    assert output.mff_mask[0].dtype == bool and output.notices == []


def test_images_of_a_batch_do_not_mix(tiny_pipeline):
    images = [textured(100, 70), flat(100, 70)]
    both = tiny_pipeline(images, generator=[seeded(1), seeded(2)], tile_size=64)
    for picture, image, seed in zip(both.images, images, (1, 2)):
        alone = tiny_pipeline(image, generator=seeded(seed), tile_size=64).images[0]
        assert np.abs(np.asarray(picture, float) - np.asarray(alone, float)).max() <= 1


def test_tokens_are_each_tiles_own_and_the_prompt_is_the_whole_pictures(tiny_pipeline):
    image = Image.new("RGB", (140, 60))
    image.paste(textured(70, 60), (0, 0))
    seen = []
    denoise = tiny_pipeline.denoise

    def watching(latents, timestep, prompt_embeds, tokens, *rest):
        seen.append((prompt_embeds, tokens))
        return denoise(latents, timestep, prompt_embeds, tokens, *rest)

    tiny_pipeline.denoise = watching
    output = tiny_pipeline(image, num_inference_steps=2, guidance_scale=1.0, generator=seeded(), tile_size=64)
    assert output.tiles == 4 and len(seen) == 8
    assert output.prompt == tiny_pipeline.segment(image).prompt
    prompts, tokens = zip(*seen)
    assert all(torch.equal(entry, prompts[0]) for entry in prompts)
    assert not torch.equal(tokens[0], tokens[3]) and torch.equal(tokens[0], tokens[4])


# Progress, stopping, memory


def test_progress_and_stopping_between_tiles(tiny_pipeline):
    image, told, steps = textured(100, 70), [], []

    def after_tile(pipe, part, done, total):
        told.append((part, done, total))

    def after_step(pipe, index, timestep, values):
        steps.append((index, values["tiles"], values["preview"]()[0].size))
        return {}

    settings = {"tile_size": 64, "callback_on_tile_end": after_tile, "callback_on_step_end": after_step}
    output = tiny_pipeline(image, generator=seeded(), **settings)
    count = output.tiles
    expected = [("image_encoder", count), ("denoising", 2 * count), ("decode", count)]
    assert count == 6
    assert told == [(part, done + 1, total) for part, total in expected for done in range(total)]
    assert steps == [(0, count, (400, 280)), (1, count, (400, 280))]

    def stop(pipe, part, done, total):
        after_tile(pipe, part, done, total)
        pipe.interrupt = part == "denoising" and done == 2

    told.clear()
    with pytest.raises(Interrupted, match="tiles"):
        tiny_pipeline(image, generator=seeded(), tile_size=64, callback_on_tile_end=stop)
    assert told[-1] == ("denoising", 2, 2 * count)
    again = tiny_pipeline(image, generator=seeded(), tile_size=64)
    assert again.images[0].tobytes() == output.images[0].tobytes()


FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize(
    "where, fault",
    [("image_encoder", FAULTS[0]), *(("unet", fault) for fault in FAULTS), ("vae.decoder", FAULTS[1])],
    ids=lambda value: str(value)[:30],
)
def test_a_tile_that_does_not_fit_is_made_smaller_and_said_so(tiny_pipeline, where, fault):
    """The fault stands in for a machine with little memory."""
    pipe, image, largest = (
        tiny_pipeline,
        textured(120, 90),
        {"image_encoder": 110, "unet": 40, "vae.decoder": 50}[where],
    )
    module = pipe.vae.decoder.layers[0] if where == "vae.decoder" else getattr(pipe, where)
    tried = []

    def full(module, inputs, keywords):
        side = max((inputs[0] if inputs else next(iter(keywords.values()))).shape[-2:])
        tried.append(side)
        if side > largest:
            raise fault

    expected = pipe(image, generator=seeded(), tile_size=64)
    hook = module.register_forward_pre_hook(full, with_kwargs=True)
    output = pipe(image, generator=seeded(), tile_size=256)
    hook.remove()
    assert max(tried) > largest >= tried[-1]
    assert output.notices == ["smaller_tiles"] and output.tile_size < 120 and output.tiles > 1
    assert np.abs(np.asarray(output.images[0], float) - np.asarray(expected.images[0], float)).mean() < 8
    after = pipe(image, generator=seeded(), tile_size=256)
    assert after.notices == [] and after.tiles == 1


def test_adain_takes_the_whole_pictures_statistics_where_one_tile_does_not_fit(tiny_pipeline):
    pipe, image, colours = tiny_pipeline, textured(120, 90), {"color_fix": "adain", "output_type": "np"}
    dark = np.asarray(image) * np.linspace(0.1, 1, 120)[None, :, None]  # so that the tiles' own statistics differ
    image = Image.fromarray(dark.astype(np.uint8))
    expected = pipe(image, generator=seeded(), tile_size=64, **colours).images

    def full(module, inputs):
        if max(inputs[0].shape[-2:]) > 50:
            raise FAULTS[1]

    hook = pipe.vae.decoder.layers[0].register_forward_pre_hook(full)
    output = pipe(image, generator=seeded(), tile_size=256, **colours)
    hook.remove()
    assert output.notices == ["smaller_tiles"]
    assert np.abs(output.images.mean((0, 1, 2)) - expected.mean((0, 1, 2))).max() < 0.01
    columns = np.abs(output.images - expected).mean((0, 1, 3))
    assert columns.max() < 0.06, "each part keeps its brightness"


def test_where_no_tile_fits_the_error_says_so_and_the_next_job_works(tiny_pipeline, photo):
    hook = tiny_pipeline.unet.register_forward_pre_hook(lambda module, inputs: (_ for _ in ()).throw(FAULTS[0]))
    with pytest.raises(OutOfMemory, match="24 x 20 pixels, even in tiles of 64"):
        tiny_pipeline(photo, generator=seeded())
    hook.remove()
    assert tiny_pipeline(photo, generator=seeded()).notices == []


def test_another_error_is_not_taken_for_little_memory(tiny_pipeline, photo):
    hook = tiny_pipeline.unet.register_forward_pre_hook(
        lambda module, inputs: (_ for _ in ()).throw(RuntimeError("shapes do not match"))
    )
    with pytest.raises(RuntimeError, match="shapes"):
        tiny_pipeline(photo)
    hook.remove()


@pytest.mark.parametrize("value", [63, 1025, 0, -64, 64.5, "128", True, float("nan"), 2**70])
def test_tile_sizes_outside_the_range_are_refused(tiny_pipeline, photo, value):
    with pytest.raises(ParameterError, match="tile_size is .*; accepted: a whole number from 64 to 1024"):
        tiny_pipeline(photo, tile_size=value)


def test_the_tile_size_travels_with_the_weights(tiny_pipeline):
    tiny_pipeline.register_to_config(tile_size=64)
    image = textured(80, 40)
    assert tiny_pipeline(image, num_inference_steps=1).tiles == 2
    assert tiny_pipeline(image, num_inference_steps=1, tile_size=96).tiles == 1


PEAK = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import numpy as np
import torch
from PIL import Image
from conftest import tiny_pipe
from sisrm import remembering
from sisrm.evaluation.complexity import peak_memory
from sisrm.images import Photo
from sisrm.ui.handlers import Handlers
pipe, held, way = tiny_pipe(), [], sys.argv[1]
app = Handlers(pipe, {})
settings = app.check({"steps": 1, "guidance_scale": 1, "tile_size": 128, "sca": False, "seed": 0})
once = remembering.Remembered.once
remembering.Remembered.once = lambda self, *given: (once(self, *given), held.append(self.held))[0]
peaks = []
for side in (128, 640):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    if way == "app":
        tiles = app.upscale(Photo(image), settings, Path(sys.argv[2])).report["tiles"]
    else:
        options = {"num_inference_steps": 1, "guidance_scale": 1.0, "use_sca": False, "tile_size": 128}
        tiles = pipe(image, **options, output_type=way).tiles
    peaks.append(peak_memory(torch.device("cpu")) / 2**20)
print(tiles, *peaks, max(held) / 2**20)
"""


def growth(way: str, folder: Path) -> float:
    """MB that a picture of 49 tiles takes more than one of one tile, beside what the run remembers, which has a limit of its own.

    way: "app", which also writes its files to `folder`, or the pipeline's output type.
    """
    # Large blocks go back to the system at once: what the C library keeps for later is no part of the promise.
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PEAK, way, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=exact, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    tiles, small, large, held = done.stdout.split()
    assert int(tiles) == 49 and float(held) < 256
    return float(large) - float(small) - float(held)


def test_memory_grows_by_less_than_one_float_picture(tmp_path):
    floats = 4 * 3 * (4 * 640) ** 2 / 2**20
    # 8-bit results must be there: the picture, which Pillow keeps with four bytes a pixel, class map and M
    kept = 6 * (4 * 640) ** 2 / 2**20
    assert growth("app", tmp_path) < kept + 0.5 * floats
    assert growth("pt", tmp_path) > 0.9 * floats  # one whole picture of floats would be seen


# On the command line and in the app


def test_the_command_line_takes_a_tile_size(tiny_pipeline, tmp_path, capsys):
    tiny_pipeline.save_pretrained(tmp_path / "tiny")
    textured(90, 40).save(tmp_path / "a.png")
    words = [
        "upscale",
        tmp_path / "a.png",
        "-o",
        tmp_path / "out.png",
        "--preset",
        tmp_path / "tiny",
        "--seed",
        3,
        "--device",
        "cpu",
    ]
    assert cli.main([str(word) for word in (*words, "--tile-size", 64)]) == 0
    pipe = load_pipeline(str(tmp_path / "tiny"), device="cpu")
    expected = pipe(textured(90, 40), generator=seeded(3), tile_size=64)
    assert expected.tiles == 2 and Image.open(tmp_path / "out.png").tobytes() == expected.images[0].tobytes()
    assert cli.main([str(word) for word in (*words, "--overwrite", "--tile-size", 63)]) == 2
    assert "--tile-size is 63; accepted: a whole number from 64 to 1024" in capsys.readouterr().err


def test_the_app_says_that_tiles_had_to_be_smaller(tiny_pipeline, tmp_path):
    def full(module, inputs):
        if max(inputs[0].shape[-2:]) > 40:
            raise FAULTS[0]

    handlers = Handlers(tiny_pipeline, {})
    settings = handlers.check({"steps": 1, "guidance_scale": 1, "top_k": 2, "seed": 0})
    hook = tiny_pipeline.unet.register_forward_pre_hook(full)
    report = handlers.upscale(Photo(textured(96, 40)), settings, tmp_path).report
    hook.remove()
    assert report["notices"] == [{"code": "smaller_tiles", "text": NOTICES["smaller_tiles"]}]
    assert made(report).count("smaller tiles") == 1 and "分块" in made(report, "zh")


# The bundled model


def test_the_bundled_model_shows_no_seam(compact_pipeline):
    image = Image.open(ROOT / "examples" / "photographer.png").convert("RGB").crop((0, 0, 112, 80))
    settings = {"num_inference_steps": 2, "start_strength": 0.5}
    whole, tiled = (compact_pipeline(image, generator=seeded(), tile_size=size, **settings) for size in (128, 64))
    tiles = Tiles(80, 112, 64, 8)
    assert (whole.tiles, tiled.tiles) == (1, 6)
    before, after = (gradient_at_seams(grey(output.images[0]), tiles, 4) for output in (whole, tiled))
    assert after == pytest.approx(before, rel=0.03)
    assert np.abs(np.asarray(whole.images[0], float) - np.asarray(tiled.images[0], float)).mean() < 1
