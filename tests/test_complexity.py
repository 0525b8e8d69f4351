"""Complexity: the count against formulas, the split over components, and that attention on a CPU is not forgotten."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sisrm.cli import main
from sisrm.errors import ParameterError
from sisrm.evaluation import complexity


class Parts:
    """Stands where a pipeline would: what `count` needs is its `components`."""

    def __init__(self, **components):
        self.components = components


@torch.no_grad()
def test_convolutions_and_linear_layers_by_formula():
    conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
    image = torch.rand(2, 3, 6, 7)
    parts = Parts(conv=conv, linear=linear, name="no module")
    counted, uncounted = complexity.count(parts, lambda: linear(conv(image).mean((2, 3))) @ torch.rand(5, 4))
    assert counted["conv"] == {"parameters": 3 * 8 * 9 + 8, "gflops": 2 * 2 * 8 * 6 * 7 * 3 * 9 / 1e9}
    assert counted["linear"] == {"parameters": 45, "gflops": 2 * 2 * 8 * 5 / 1e9}
    assert counted["other"] == {"parameters": 0, "gflops": 2 * 2 * 5 * 4 / 1e9}
    assert uncounted == []


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_cpu_counts_both_products(masked):
    batch, heads, queries, keys, width = 2, 3, 10, 6, 8
    query, key = torch.rand(batch, heads, queries, width), torch.rand(batch, heads, keys, width)
    mask = torch.zeros(queries, keys) if masked else None
    counted, uncounted = complexity.count(
        Parts(), lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
    )
    assert counted["other"]["gflops"] * 1e9 == pytest.approx(2 * 2 * batch * heads * queries * keys * width)
    assert uncounted == []


@torch.no_grad()
def test_fused_attention_counts_what_its_plain_form_counts():
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    attention = Attention(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8).eval()
    hidden, context = torch.rand(1, 20, 16), torch.rand(1, 7, 12)
    totals = []
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        attention.set_processor(processor)
        counted, _ = complexity.count(Parts(attention=attention), lambda: attention(hidden, context))
        totals.append(counted["attention"]["gflops"])
    assert totals[0] == totals[1] > 0


def test_a_kernel_without_a_formula_is_named():
    query = torch.rand(1, 2, 10, 8)
    watch = complexity.UncountedAttention(FlopCounterMode(display=False).flop_registry)
    with torch.no_grad(), watch:
        F.scaled_dot_product_attention(query, query, query)
    assert watch.names == {"aten::_scaled_dot_product_flash_attention_for_cpu"}


@torch.no_grad()
def test_methods_and_nested_calls_belong_to_their_component():
    class Codec(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def decode(self, x):
            return self.layer(x)

    codec, outer = Codec(), nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    counted, _ = complexity.count(Parts(codec=codec, outer=outer), lambda: codec.decode(outer(torch.rand(1, 4))))
    assert counted["codec"]["gflops"] == counted["outer"]["gflops"] == 2 * 16 / 1e9


def test_shared_weights_are_counted_once():
    shared = nn.Linear(4, 4)
    counted, _ = complexity.count(Parts(first=shared, second=nn.Sequential(shared, nn.Linear(4, 2))), lambda: None)
    assert counted["first"]["parameters"] == 20 and counted["second"]["parameters"] == 10


def test_the_whole_call_is_measured(tiny_pipeline):
    once = complexity.measure(tiny_pipeline, 32, repeats=1)
    assert {"parameters", "gflops", "peak_memory_mb", "milliseconds", "components"} <= set(once)
    json.dumps(once)
    modules = [part for part in tiny_pipeline.components.values() if isinstance(part, nn.Module)]
    assert once["parameters"] == sum(weight.numel() for part in modules for weight in part.parameters())
    assert once["uncounted"] == []
    assert once["milliseconds"] > 0 and once["peak_memory_mb"] > 50
    for name in ("vae", "text_encoder", "unet", "controlnet", "segmenter", "sape"):
        assert once["components"][name]["gflops"] > 0, name
    total = sum(part["gflops"] for part in once["components"].values())
    assert once["gflops"] == pytest.approx(total)


def test_every_step_and_both_guidance_branches_are_counted(tiny_pipeline):
    def unet(**options) -> float:
        return complexity.measure(tiny_pipeline, 16, repeats=1, options=options)["components"]["unet"]["gflops"]

    one = unet(num_inference_steps=1, guidance_scale=1.0)
    two, three = (unet(num_inference_steps=steps, guidance_scale=1.0) for steps in (2, 3))
    # Keys and values of the text and of E_m are computed in the first step alone.
    assert three - two == pytest.approx(two - one, rel=1e-6) and 0.9 * one < two - one < one
    assert unet(num_inference_steps=1, guidance_scale=2.0) == pytest.approx(2 * one, rel=0.02)


def test_default_settings_are_the_ones_measured(tiny_pipeline):
    plain = complexity.measure(tiny_pipeline, 16, repeats=1)
    given = complexity.measure(tiny_pipeline, 16, repeats=1, options=dict(tiny_pipeline.defaults))
    assert plain["gflops"] == given["gflops"]


def test_the_bundled_model_stays_within_its_bars(compact_pipeline):
    """At default settings; the smallest diffusion peer, Edge-SD-SR, takes 142 GFLOPs and 169 M parameters."""
    image = complexity.probe_image(128)
    counted, uncounted = complexity.count(compact_pipeline, lambda: compact_pipeline(image))
    assert uncounted == []
    assert 60 < sum(part["gflops"] for part in counted.values()) <= 120
    assert 10e6 < sum(part["parameters"] for part in counted.values()) <= 20e6


@pytest.mark.parametrize("scale, branches", [(1.0, 1), (1.5, 2)])
def test_guidance_costs_a_branch_and_off_it_costs_nothing(tiny_pipeline, photo, scale, branches):
    batches = {"text": [], "ControlNet": [], "U-Net": []}
    for name, module in (("ControlNet", tiny_pipeline.controlnet), ("U-Net", tiny_pipeline.unet)):
        module.register_forward_pre_hook(lambda module, inputs, name=name: batches[name].append(len(inputs[0])))
    encode = tiny_pipeline.encode_prompt
    tiny_pipeline.encode_prompt = lambda prompt: batches["text"].append(len(prompt)) or encode(prompt)
    tiny_pipeline(photo, num_inference_steps=2, guidance_scale=scale)
    assert batches == {"text": [1] * branches, "ControlNet": [branches] * 2, "U-Net": [branches] * 2}


def test_table_puts_the_paper_beside_it(tiny_pipeline):
    report = complexity.measure(tiny_pipeline, 16, repeats=1)
    text = complexity.table({"tiny": report, "other": report | {"size": 128}})
    assert "| paper, table 3: SISRM, A10 | 48.00 M | 198.0 | 5,500 MB | 73 ms |" in text
    assert "| tiny, cpu, " in text and "16 x 16 input |" in text and text.count("16 x 16") == 1
    assert text.count("| unet |") == 2 and "Not in the total" not in text


@pytest.mark.parametrize("options, named", [({"size": 8}, "--size"), ({"repeats": 0}, "repeats")])
def test_wrong_settings_are_named(tiny_pipeline, options, named):
    with pytest.raises(ParameterError, match=named):
        complexity.measure(tiny_pipeline, **options)


def test_several_presets_are_measured_apart_and_shown_together(tiny_pipeline, tmp_path, capsys):
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        tiny_pipeline.save_pretrained(folder)
    assert main(["complexity", "--preset", *folders, "--size", "16"]) == 0
    table = capsys.readouterr().out
    assert table.count("16 x 16 input |") == 2 and all(f"| {folder}, cpu" in table for folder in folders)
    assert main(["complexity", "--preset", folders[0], str(tmp_path / "none"), "--size", "16"]) == 2
    assert "none" in capsys.readouterr().err
