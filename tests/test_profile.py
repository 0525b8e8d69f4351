"""Profiling: the stages add up to the call, every part is named, nothing stays behind in the pipeline."""

import json

import pytest
import torch

import sisrm.networks as networks_module
import sisrm.semantics as semantics_module
from sisrm.cli import main
from sisrm.errors import ParameterError
from sisrm.evaluation import complexity, profile, throughput
from sisrm.evaluation.stages import OTHER, StageMeter, laps_of, memory_laps, watched


def test_an_inner_stage_is_taken_out_of_the_outer_one():
    clock = iter([0, 1, 3, 7, 15, 31]).__next__
    meter = StageMeter(laps_of(clock))
    with meter.stage("outer"):
        with meter.stage("inner"):
            pass
    # Laps of 1 (other; the first only starts the count), 2 before, 4 inside, 8 after the inner stage.
    assert meter.spent == {OTHER: 2, "outer": 4 + 16, "inner": 8}


def test_the_larger_of_two_laps_is_kept_for_memory():
    laps = iter([0, 5, 9, 5, 2]).__next__
    meter = StageMeter(laps, max)
    for _ in range(2):
        with meter.stage("part"):
            pass
    assert meter.spent == {OTHER: 5, "part": 9}


def test_a_pipeline_is_left_as_it_was_also_after_an_error(tiny_pipeline, photo):
    modules = {"class_map_of": semantics_module, "wavelet_fix": networks_module, "core_detail": networks_module}
    before = {name: getattr(module, name) for name, module in modules.items()}
    own = set(vars(tiny_pipeline)), set(vars(tiny_pipeline.unet)), set(vars(tiny_pipeline.scheduler))
    with pytest.raises(ParameterError), watched(tiny_pipeline, StageMeter(laps_of(lambda: 0.0))):
        tiny_pipeline(photo, labels=["no such class"])
    assert all(getattr(modules[name], name) is function for name, function in before.items())
    assert (set(vars(tiny_pipeline)), set(vars(tiny_pipeline.unet)), set(vars(tiny_pipeline.scheduler))) == own


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_every_stage_is_measured_and_their_operations_add_up(tiny_pipeline, guidance):
    options = {"num_inference_steps": 2, "guidance_scale": guidance}
    tiny_pipeline.register_to_config(coring=0.01)
    report = profile.measure(tiny_pipeline, 16, repeats=2, options=options)
    json.dumps(report)
    stages = report["stages"]
    assert list(stages) == [
        "decode file",
        "segmentation, SAPE",
        "class map",
        "text",
        "image encoder",
        "step 1: mask and the rest",
        "step 1: ControlNet",
        "step 1: U-Net",
        "step 2: mask and the rest",
        "step 2: ControlNet",
        "step 2: U-Net",
        "VAE decode",
        "enlarged LR image",
        "colour",
        "coring",
        "encode PNG",
        "other",
    ]
    image = complexity.probe_image(16)
    components, _ = complexity.count(tiny_pipeline, lambda: tiny_pipeline(image, **options))
    for name, component in (("U-Net", "unet"), ("ControlNet", "controlnet")):
        steps = [stages[f"step {step}: {name}"]["gflops"] for step in (1, 2)]
        assert sum(steps) == pytest.approx(components[component]["gflops"]) and steps[0] > 0
    assert report["gflops"] == pytest.approx(sum(part["gflops"] for part in components.values()))
    for entry in stages.values():
        assert 0 < entry["fastest"] <= entry["milliseconds"] <= entry["slowest"]
    inside = sum(entry["fastest"] for name, entry in stages.items() if name not in ("decode file", "encode PNG"))
    assert inside <= report["slowest"] + 0.2 and report["fastest"] <= report["milliseconds"]
    assert report["matrix_gflops_per_second"] > 0


@pytest.mark.parametrize("kept", [False, True], ids=["tight heap", "heap with room"])
def test_memory_is_seen_where_it_is_used(kept):
    blocks = [bytes(2**16) for _ in range(3000 * kept)]
    fence = blocks[-8:]  # what lies above the freed blocks, so that the allocator keeps their room
    del blocks
    lap = memory_laps(torch.device("cpu"))
    if lap is None:
        pytest.skip("this system does not tell a process its peak")
    lap()
    large = torch.ones(2**24)  # 64 MiB
    del large
    assert 60 * 2**20 < lap() < 120 * 2**20
    assert lap() < 40 * 2**20
    del fence


def test_a_plain_product_of_larger_matrices_is_no_slower():
    device = torch.device("cpu")
    small = max(profile.matrix_rate(device, torch.float32, 8) for _ in range(3))
    assert profile.matrix_rate(device, torch.float32, 256) > small


def test_a_folder_is_worked_through_in_batches(tiny_pipeline):
    calls = []
    plain = type(tiny_pipeline).prepare_lr_image

    def counted(image):
        calls.append(len(image))
        return plain(tiny_pipeline, image)

    tiny_pipeline.prepare_lr_image = counted
    report = throughput.folder_rates(tiny_pipeline, [1, 3], size=16, photos=4, repeats=1)
    assert calls == [1] + [1] * 4 + [3] + [3, 1]
    for entry in report.values():
        assert 0 < entry["slowest"] <= entry["photos_per_second"] <= entry["fastest"]
        assert entry["photos_per_second"] * entry["milliseconds"] == pytest.approx(1000, rel=0.05)


@pytest.mark.parametrize("batches, repeats, named", [([0], 1, "--batch"), ([1], 0, "--repeats")])
def test_wrong_batches_are_named(tiny_pipeline, batches, repeats, named):
    with pytest.raises(ParameterError, match=named):
        throughput.folder_rates(tiny_pipeline, batches, repeats=repeats)


@pytest.mark.parametrize("options, named", [({"size": 8}, "--size"), ({"repeats": 0}, "--repeats")])
def test_wrong_settings_are_named(tiny_pipeline, options, named):
    with pytest.raises(ParameterError, match=named):
        profile.measure(tiny_pipeline, **options)


def test_the_command_prints_tables_and_json(tiny_pipeline, tmp_path, capsys, monkeypatch):
    folder = str(tmp_path / "tiny")
    tiny_pipeline.save_pretrained(folder)
    call = ["profile", "--preset", folder, "--size", "16", "--repeats", "1", "--steps", "1"]
    assert main([*call, "--batch", "1", "2"]) == 0
    table = capsys.readouterr().out
    assert "| step 1: U-Net |" in table and "step 2" not in table and "A plain matrix product reaches" in table
    assert "| batch | photos per second |" in table and "\n| 2 | " in table
    # What --compile says goes before the environment in the processes that are started, too.
    monkeypatch.setenv("SISRM_COMPILE", "nonsense")
    assert main([*call, "--cold", "--json", "--compile", "off"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["num_inference_steps"] == 1
    assert 0 < report["cold_start"]["load"] < report["cold_start"]["first_result"]
