"""What is computed once per run: the same pixels to the bit as without it, and how often the parts really run."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_components
from peft import LoraConfig

from sisrm import remembering
from sisrm.attention import SegmentationTransformerBlock
from sisrm.errors import Interrupted
from sisrm.evaluation import complexity
from sisrm.remembering import Remembered, forget, once

STEPS = 3


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def kept_layers(pipe) -> dict[str, torch.nn.Module]:
    """The layers that read what is the same at every step, by name."""
    layers = {"condition": pipe.controlnet.controlnet_cond_embedding.conv_in}
    for owner in ("unet", "controlnet"):
        for name, block in getattr(pipe, owner).named_modules():
            if isinstance(block, SegmentationTransformerBlock):
                for branch in ("attn2", "segmentation_attention"):
                    for kind in ("to_k", "to_v"):
                        layers[f"{owner}.{name}.{branch}.{kind}"] = getattr(getattr(block, branch), kind)
    return layers


@contextmanager
def counting(pipe):
    """How often the work of each kept layer is done, told by the tensors that come out: a new one each time it is."""
    made: dict[str, list] = {name: [] for name in kept_layers(pipe)}

    def watch(name):
        def see(module, args, output):
            if not any(output is earlier for earlier in made[name]):
                made[name].append(output)

        return see

    handles = [layer.register_forward_hook(watch(name)) for name, layer in kept_layers(pipe).items()]
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def without(monkeypatch):
    """Runs a call with nothing remembered."""

    def run(call):
        with monkeypatch.context() as patch:
            patch.setattr(remembering, "LIMIT", 0)
            patch.setattr(Remembered, "once", lambda self, name, given, make: make())
            return call()

    return run


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("size, tile_size, count", [((24, 20), 256, 1), ((72, 50), 64, 2)])
def test_the_same_pixels_and_each_part_once(tiny_pipeline, photo, without, guidance_scale, size, tile_size, count):
    images = [photo.resize(size), photo.rotate(180).resize(size)]
    run = dict(num_inference_steps=STEPS, guidance_scale=guidance_scale, tile_size=tile_size, output_type="np")

    def call():
        with counting(tiny_pipeline) as made:
            return tiny_pipeline(images, generator=seeded(), **run), {name: len(all_) for name, all_ in made.items()}

    (kept, few), (plain, many) = call(), without(call)
    assert kept.tiles == plain.tiles == count
    assert np.array_equal(kept.images, plain.images)
    # The prompt is the whole picture's, so its keys and values serve all tiles.
    assert few == {name: 1 if "attn2" in name else count for name in few}
    assert many == {name: STEPS * count for name in many}


def test_a_previewing_callback_and_the_decoder_read_the_image_branch_once(tiny_pipeline, photo, without):
    image, encode, calls = photo.resize((72, 50)), tiny_pipeline.encode_image, []
    tiny_pipeline.encode_image = lambda padded: calls.append(1) or encode(padded)

    def call():
        calls.clear()
        tiny_pipeline(image, num_inference_steps=STEPS, generator=seeded(), tile_size=64, callback_on_step_end=preview)
        return len(calls)

    def preview(pipe, index, timestep, values):
        return {"latents": values["latents"] + 0 * len(values["preview"]())}

    assert call() == 2
    assert without(call) == 2 * (1 + STEPS + 1)


def test_what_a_callback_changes_counts(tiny_pipeline, photo, without):
    """New latents, and new weights of a layer that is remembered, from the second step on."""
    layer = tiny_pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    before = layer.weight.detach().clone()

    def change(pipe, index, timestep, values):
        layer.weight.mul_(1.5)
        return {"latents": values["latents"] * 1.01}

    def call(callback):
        layer.weight.data = before.clone()
        run = dict(num_inference_steps=STEPS, guidance_scale=2.0, output_type="np", use_mff=False)
        return tiny_pipeline(photo, generator=seeded(), callback_on_step_end=callback, **run).images

    changed = call(change)
    assert np.array_equal(changed, without(lambda: call(change)))
    assert not np.array_equal(changed, call(None))


def test_a_lora_around_a_layer_still_counts(tiny_pipeline, photo, without):
    config = LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    plain = tiny_pipeline(photo, generator=seeded(), output_type="np").images
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_pipeline.unet.add_adapter(config)
    tuned = tiny_pipeline(photo, generator=seeded(), output_type="np").images
    again = without(lambda: tiny_pipeline(photo, generator=seeded(), output_type="np").images)
    assert np.array_equal(tuned, again) and not np.array_equal(tuned, plain)


def test_nothing_outlives_a_run_even_a_broken_one(tiny_pipeline, photo):
    def stop(pipe, index, timestep, values):
        pipe.interrupt = True
        return {}

    with pytest.raises(Interrupted):
        tiny_pipeline(photo, num_inference_steps=STEPS, callback_on_step_end=stop)
    assert remembering._current.get() is None
    first, second = (
        tiny_pipeline(photo, labels=[word], generator=seeded(), output_type="np") for word in ("sky", "car")
    )
    assert not np.array_equal(first.images, second.images)


def test_training_computes_everything_every_time():
    unet = tiny_components()["unet"].train()
    layer, given = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k, torch.rand(1, 5, 16)
    with remembering.remembering():
        assert layer(given) is not layer(given)
        with torch.no_grad():
            assert layer(given) is layer(given)
    with torch.no_grad():
        assert layer(given) is not layer(given)
    inputs = dict(sample=torch.rand(1, 4, 8, 8), timestep=3, encoder_hidden_states=given)
    gradients = []
    for checkpointing in (False, True):
        unet.enable_gradient_checkpointing() if checkpointing else unet.disable_gradient_checkpointing()
        unet.zero_grad()
        with remembering.remembering():
            unet(**inputs).sample.sum().backward()
        gradients.append(layer.weight.grad.clone())
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_changed_inputs_are_new_ones_and_views_of_one_place_are_not():
    whole, calls = torch.rand(4, 4), []

    def look(given, name="sum"):
        return once(name, given, lambda: calls.append(1) or given.sum())

    with remembering.remembering():
        first = look(whole[:2])
        assert look(whole[:2]) is first and len(calls) == 1
        assert look(whole[2:]) is not first and look(whole[:2], "other") is not first and len(calls) == 3
        whole.add_(1)
        assert look(whole[:2]) == whole[:2].sum() and len(calls) == 4
        forget()
        assert look(whole[:2]) is not first and len(calls) == 5
        # Memory that was given back must not be taken for what lay there before.
        for value in range(20):
            assert look(torch.full((1000,), float(value))) == 1000 * value
        with torch.inference_mode():
            inference = torch.ones(3)
            assert look(inference) is look(inference)


@torch.no_grad()
def test_memory_is_bounded_and_threads_have_their_own():
    with remembering.remembering(limit=5000):
        given = [torch.full((100,), float(value)) for value in range(50)]
        for _ in range(2):
            assert [once("double", entry, lambda entry=entry: 2 * entry)[0] for entry in given] == list(
                range(0, 100, 2)
            )
        assert remembering._current.get().held <= 5000
        seen = []
        thread = threading.Thread(target=lambda: seen.append(remembering._current.get()))
        thread.start()
        thread.join()
        assert seen == [None]


def test_the_count_of_operations_follows_what_is_run(tiny_pipeline, without):
    def gflops(steps):
        options = {"num_inference_steps": steps, "guidance_scale": 1.0, "use_mff": False}
        parts = complexity.measure(tiny_pipeline, 32, repeats=1, options=options)["components"]
        return parts["unet"]["gflops"] + parts["controlnet"]["gflops"]

    kept, plain = [gflops(steps) for steps in (1, 3)], without(lambda: [gflops(steps) for steps in (1, 3)])
    per_run = {}
    assert kept[0] == plain[0] and plain[1] == pytest.approx(3 * plain[0])
    with counting(tiny_pipeline) as made:
        tiny_pipeline(complexity.probe_image(32), num_inference_steps=1, guidance_scale=1.0, use_mff=False)
        layers = kept_layers(tiny_pipeline)
        for name, outputs in made.items():
            if name != "condition":
                per_run[name] = sum(2 * output.numel() * layers[name].in_features for output in outputs)
        embedding = tiny_pipeline.controlnet.controlnet_cond_embedding
        side = made["condition"][0].shape[-1]
        per_run["condition"] = (
            2
            * 9
            * sum(  # stride 1 throughout at this size
                conv.in_channels * conv.out_channels * side**2 for conv in (embedding.conv_in, embedding.conv_out)
            )
        )
    assert plain[1] - kept[1] == pytest.approx(2 * sum(per_run.values()) / 1e9)


def test_where_the_controlnet_has_no_say_it_is_not_run(tiny_pipeline, photo):
    calls = []
    tiny_pipeline.controlnet.register_forward_pre_hook(lambda *_: calls.append(1))
    residual = tiny_pipeline.mff.forward
    run = dict(num_inference_steps=2, output_type="np")
    silent = tiny_pipeline(photo, generator=seeded(), controlnet_conditioning_scale=0.0, **run).images
    assert not calls
    tiny_pipeline.mff.forward = lambda down, mid, mask: residual(down, mid, torch.zeros_like(mask))
    multiplied = tiny_pipeline(photo, generator=seeded(), region_mask=np.ones((2, 2)), **run).images
    assert len(calls) == 2 and np.array_equal(silent, multiplied)


@pytest.mark.parametrize("guidance_scale, branches", [(1.0, 1), (1.5, 2)])
def test_guidance_is_one_batch_and_off_at_one(tiny_pipeline, photo, guidance_scale, branches):
    sizes = []
    for network in (tiny_pipeline.unet, tiny_pipeline.controlnet):
        network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    texts = []
    tiny_pipeline.text_encoder.register_forward_pre_hook(lambda *_: texts.append(1))
    tiny_pipeline([photo, photo], num_inference_steps=STEPS, guidance_scale=guidance_scale, use_mff=False)
    assert sizes == [2 * branches] * 2 * STEPS and len(texts) == branches


@torch.no_grad()
def test_the_mask_of_a_residual_is_made_once_per_size(tiny_pipeline, monkeypatch):
    from sisrm import mff

    sizes = []
    resize = mff.resize_mask
    monkeypatch.setattr(mff, "resize_mask", lambda mask, size: sizes.append(tuple(size)) or resize(mask, size))
    down = tuple(torch.rand(1, 3, side, side) for side in (8, 8, 4, 4))
    mask = F.pad(torch.ones(1, 1, 16, 32), (32, 0, 0, 48)).bool()
    with remembering.remembering():
        for _ in range(STEPS):
            fused, mid = tiny_pipeline.mff(down, down[-1], mask)
    assert sizes == [(8, 8), (4, 4)]
    assert (
        fused[0][..., :2, 4:].equal(down[0][..., :2, 4:]) and not fused[0][..., 2:, :].any() and not mid[..., :2].any()
    )


def test_networks_compile_into_one_graph_each(tiny_pipeline, photo):
    plain = tiny_pipeline(photo, generator=seeded(), output_type="pt").images
    for module in (tiny_pipeline.unet, tiny_pipeline.controlnet):
        module.compile(fullgraph=True, backend="eager")  # raises where the graph breaks
    compiled = tiny_pipeline(photo, generator=seeded(), output_type="pt").images
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=0)
