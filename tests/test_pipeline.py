"""SISRMPipeline: the call as a whole, on real classes at tiny size. Every argument has to change the result or be refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image

from sisrm.class_map import class_map_of
from sisrm.errors import ImageError, Interrupted, ParameterError, WeightsError
from sisrm.pipeline import SISRMPipeline
from sisrm.presets import default_preset, load_pipeline
from sisrm.resize import pad_to_multiple
from sisrm.runtime import choose_attention_backend, choose_device, describe, trained_parts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def difference(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max())


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 16), (33, 50)])
def test_any_size_comes_back_exactly_four_times_larger(tiny_pipeline, photo, size):
    output = tiny_pipeline(photo.resize(size), generator=seeded())
    assert output.images[0].size == (4 * size[0], 4 * size[1])
    assert output.class_map[0].shape == output.mff_mask[0].shape == (4 * size[1], 4 * size[0])


def test_output_says_what_was_done(tiny_pipeline, photo):
    output = tiny_pipeline(photo, generator=seeded(7))
    assert output.seed == [7]
    assert output.prompt == [", ".join(label.name for label in output.labels[0])] and len(output.labels[0]) == 3
    assert all(0 < label.score < 1 for label in output.labels[0])
    assert output.class_map[0].dtype == np.uint8 and output.mff_mask[0].dtype == bool
    chosen = [label.index for label in output.labels[0]]
    assert np.array_equal(output.mff_mask[0], np.isin(output.class_map[0], chosen))
    assert set(output.timings) == {"segmentation", "text", "image_encoder", "denoising", "decode", "total"}
    assert sum(value for key, value in output.timings.items() if key != "total") <= output.timings["total"]


def test_same_seed_same_pixels_and_the_reported_seed_repeats_a_run(tiny_pipeline, photo):
    first = tiny_pipeline(photo)
    again = tiny_pipeline(photo, generator=seeded(first.seed[0]))
    assert difference(first.images[0], again.images[0]) == 0
    assert difference(first.images[0], tiny_pipeline(photo, generator=seeded(first.seed[0] + 1)).images[0]) > 0


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_batch_equals_single(tiny_pipeline, photo, guidance_scale):
    other = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    run = dict(guidance_scale=guidance_scale, output_type="np")
    both = tiny_pipeline([photo, other], generator=[seeded(1), seeded(2)], **run)
    for index, (image, seed) in enumerate(((photo, 1), (other, 2))):
        single = tiny_pipeline(image, generator=seeded(seed), **run)
        assert difference(both.images[index], single.images[0]) < 1e-4
        assert both.labels[index] == single.labels[0] or both.prompt[index] == single.prompt[0]
        assert np.array_equal(both.class_map[index], single.class_map[0])


@pytest.mark.parametrize(
    "change",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 4.0},
        {"guidance_scale": 1.0},
        {"top_k": 1},
        {"use_mff": False},
        {"use_sca": False},
        {"use_sape": False},
        {"labels": ["sky"]},
        {"labels": ["sky"], "extend_labels": True},
        {"region_mask": np.ones((4, 4))},
        {"negative_prompt": "mountain, sea"},
        {"controlnet_conditioning_scale": 0.3},
        {"start_strength": 0.9},
        {"color_fix": "none"},
        {"color_fix": "adain"},
        {"color_fix_strength": 0.4},
    ],
    ids=str,
)
def test_every_argument_changes_the_result(tiny_pipeline, photo, change):
    # M = 1 for the ControlNet's strength: where M is 0 it rightly has none
    base = {"use_mff": False} if "controlnet_conditioning_scale" in change else {}
    before = tiny_pipeline(photo, generator=seeded(), output_type="np", **base).images
    after = tiny_pipeline(photo, generator=seeded(), output_type="np", **base, **change).images
    assert difference(before, after) > 1e-4


def test_switches_take_out_what_they_name(tiny_pipeline, photo):
    """Hooks see what the networks are given: nothing of a module that is switched off."""
    seen = {}

    def watch(module, args, kwargs):
        seen["tokens"] = kwargs["cross_attention_kwargs"]
        seen["residual"] = kwargs["mid_block_additional_residual"]

    hook = tiny_pipeline.unet.register_forward_pre_hook(watch, with_kwargs=True)
    run = dict(generator=seeded(), num_inference_steps=1, guidance_scale=1.0)
    assert tiny_pipeline(photo, **run).prompt[0] and seen["tokens"] is not None
    without = tiny_pipeline(photo, use_sape=False, top_k=1, **run)
    assert without.labels == [[]] and without.prompt == [""] and seen["tokens"] is None
    classes, pixels = np.unique(without.class_map[0], return_counts=True)
    assert np.array_equal(without.mff_mask[0], without.class_map[0] == classes[pixels.argmax()])
    assert tiny_pipeline(photo, use_sape=False, labels=["sky"], **run).prompt == ["sky"]
    tiny_pipeline(photo, use_sca=False, **run)
    assert seen["tokens"] is None
    bare = tiny_pipeline(photo, use_sape=False, use_mff=False, **run)
    assert bare.mff_mask[0].all() and bool((seen["residual"] != 0).any())
    hook.remove()


def test_labels_replace_or_extend(tiny_pipeline, photo):
    predicted = tiny_pipeline.segment(photo).prompt[0]
    assert tiny_pipeline.segment(photo, labels=["sky", "tree"]).prompt == ["sky, tree"]
    extended = tiny_pipeline.segment(photo, labels=["sky"], extend_labels=True)
    assert extended.prompt[0] == "sky, " + predicted
    assert [label.score is None for label in extended.labels[0]] == [True, False, False, False]
    assert tiny_pipeline.segment([photo, photo], labels=[["sky"], []]).prompt == ["sky", predicted]


def test_the_floor_travels_with_the_weights_and_never_empties_the_prompt(tiny_pipeline, photo, tmp_path):
    every = tiny_pipeline.segment(photo).labels[0]
    tiny_pipeline.register_to_config(label_floor=(every[0].score + every[1].score) / 2)
    tiny_pipeline.save_pretrained(tmp_path / "mine")
    pipe = load_pipeline(str(tmp_path / "mine"), device="cpu", dtype=torch.float32)
    assert pipe.segment(photo).labels[0] == every[:1] and not every[0].unsure
    assert pipe(photo, num_inference_steps=1).prompt == [every[0].name]
    pipe.register_to_config(label_floor=1.0)
    (doubtful,) = pipe.segment(photo).labels[0]
    assert (doubtful.name, doubtful.unsure) == (every[0].name, True)
    assert pipe.segment(photo, labels=["sky"], extend_labels=True).prompt == ["sky"]


def test_segment_agrees_with_the_call(tiny_pipeline, photo):
    seen, run = tiny_pipeline.segment(photo, top_k=2), tiny_pipeline(photo, top_k=2, generator=seeded())
    assert seen.labels == run.labels and np.array_equal(seen.class_map[0], run.class_map[0])


def test_output_types(tiny_pipeline, photo):
    pil, array, tensor = (
        tiny_pipeline(photo, generator=seeded(), output_type=kind).images for kind in ("pil", "np", "pt")
    )
    assert array.shape == (1, 80, 96, 3) and tensor.shape == (1, 3, 80, 96)
    assert (
        difference(array[0], tensor[0].permute(1, 2, 0)) == 0 and difference(np.asarray(pil[0]) / 255, array[0]) < 0.003
    )
    from_tensor = torch.from_numpy(np.asarray(photo)).permute(2, 0, 1)[None] / 255
    assert difference(tiny_pipeline(from_tensor, generator=seeded(), output_type="np").images, array) == 0
    assert len(tiny_pipeline(photo, generator=seeded(), return_dict=False)) == 10


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_inference_steps", 0), ("num_inference_steps", 2.5), ("num_inference_steps", True), ("num_inference_steps", 10**9),
        ("guidance_scale", float("nan")), ("guidance_scale", 0.5), ("guidance_scale", "3"),
        ("top_k", 0), ("top_k", 151), ("start_strength", 0), ("start_strength", 1.5),
        ("controlnet_conditioning_scale", -1), ("controlnet_conditioning_scale", float("inf")),
        ("color_fix", "sepia"), ("color_fix_strength", 2), ("output_type", "jpeg"),
        ("labels", ["unicorn"]), ("labels", "sky"), ("region_mask", np.zeros(3)), ("generator", 3),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(tiny_pipeline, photo, name, value):
    with pytest.raises(ParameterError) as caught:
        tiny_pipeline(photo, **{name: value})
    assert caught.value.name == name and caught.value.accepted in str(caught.value)


def test_wrong_images_are_refused(tiny_pipeline, photo):
    for image in (
        None,
        "photo.png",
        [],
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.full((1, 3, 32, 32), 2.0),
    ):
        with pytest.raises(ParameterError, match="image"):
            tiny_pipeline(image)
    with pytest.raises(ImageError, match="16"):
        tiny_pipeline(photo.resize((15, 40)))
    with pytest.raises(ImageError, match="one size"):
        tiny_pipeline([photo, photo.resize((32, 32))])


def test_callback_sees_every_step_and_can_stop(tiny_pipeline, photo):
    seen = []

    def watch(pipe, index, timestep, values):
        seen.append((index, timestep))
        previews.append(values["preview"]()[0])
        return values

    previews = []
    result = tiny_pipeline(photo, num_inference_steps=4, callback_on_step_end=watch).images[0]
    assert [index for index, _ in seen] == [0, 1, 2, 3]
    assert {preview.size for preview in previews} == {(96, 80)}
    assert difference(previews[0], result) > 0 and difference(previews[-1], result) == 0
    assert all(earlier > later for (_, earlier), (_, later) in zip(seen, seen[1:]))

    def stop(pipe, index, timestep, values):
        pipe.interrupt = True
        return values

    with pytest.raises(Interrupted, match="step 2 of 4"):
        tiny_pipeline(photo, num_inference_steps=4, callback_on_step_end=stop)
    assert tiny_pipeline(photo).images  # and the next call starts afresh


@pytest.mark.parametrize("steps, strength", [(1, 0.3), (4, 0.3), (4, 1.0), (20, 0.05), (10, 0.013)])
def test_timesteps_begin_at_the_start_strength(tiny_pipeline, steps, strength):
    timesteps = tiny_pipeline.prepare_timesteps(steps, strength).tolist()
    assert len(timesteps) == steps and timesteps == sorted(timesteps, reverse=True)
    assert abs(timesteps[0] / 1000 - strength) < 0.1


def test_weaker_start_stays_closer_to_the_estimate(tiny_pipeline):
    start = torch.randn(1, 4, 8, 8)
    near, far = (
        tiny_pipeline.prepare_latents(start, tiny_pipeline.prepare_timesteps(4, strength)[0], [seeded()])
        for strength in (0.1, 0.9)
    )
    assert (near - start).abs().mean() < (far - start).abs().mean()


def test_round_trip_through_a_folder(tiny_pipeline, photo, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = SISRMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.defaults == tiny_pipeline.defaults
    assert (
        difference(tiny_pipeline(photo, generator=seeded()).images[0], again(photo, generator=seeded()).images[0]) == 0
    )


def test_presets_load_folders_and_name_what_is_wrong(tiny_pipeline, tmp_path, monkeypatch):
    tiny_pipeline.save_pretrained(tmp_path / "mine")
    pipe = load_pipeline(str(tmp_path / "mine"), device="cpu")
    report = describe(pipe)
    assert report["preset"] == "mine" and report["device"] == "cpu" and report["attention_backend"] == "sdpa"
    with pytest.raises(ParameterError, match="preset"):
        load_pipeline("nonsense")
    with pytest.raises(ParameterError, match="device"):
        load_pipeline(str(tmp_path / "mine"), device="cuda:99")
    (tmp_path / "mine" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="mine/unet"):
        load_pipeline(str(tmp_path / "mine"))
    (tmp_path / "mine" / "model_index.json").unlink()
    with pytest.raises(WeightsError, match="model_index.json"):
        load_pipeline(str(tmp_path / "mine"))
    monkeypatch.setenv("SISRM_PRESET", "other")
    assert default_preset() == "other"


def test_weights_that_do_not_fit_are_an_error(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [8, 24]}))
    with pytest.raises(WeightsError):
        load_pipeline(str(tmp_path), device="cpu")


def test_untrained_parts_are_reported():
    assert trained_parts(tiny_pipe(trained=False)) == {"sca": False, "controlnet": False, "image_encoder": False}
    assert trained_parts(tiny_pipe()) == {"sca": True, "controlnet": True, "image_encoder": True}


def test_attention_backend_is_chosen_by_trying():
    backend = choose_attention_backend(choose_device("cpu"), torch.float32)
    assert backend.name == "sdpa" and "cpu" in backend.reason


def test_padding_and_class_map():
    padded = pad_to_multiple(torch.arange(6.0).view(1, 1, 2, 3), 4)
    assert padded.shape == (1, 1, 4, 4) and padded[0, 0, 3].tolist() == [3, 4, 5, 5]
    probabilities = torch.zeros(1, 3, 2, 2)
    probabilities[0, 1, :, 0], probabilities[0, 2, :, 1] = 1, 1
    assert class_map_of(probabilities, (4, 4))[0].tolist() == [[1, 1, 2, 2]] * 4
