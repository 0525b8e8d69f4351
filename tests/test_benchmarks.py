"""The benchmark's networks are those they are named after, and its ratios and multiples are right."""

import json

import pytest
import torch
from conftest import tiny_pipe

from benchmarks import contestants, peers, steering
from benchmarks.contestants import Contestant, Part
from benchmarks.rrdb import RRDB

CPU, FLOAT = torch.device("cpu"), torch.float32
TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": (2, 2),
    "use_linear_projection": True,
    "norm_num_groups": 4,
}
TINY_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


def test_rrdb_has_the_published_size():
    with torch.device("meta"):
        network = RRDB()
    assert sum(weight.numel() for weight in network.parameters()) == 16_697_987
    operations = peers._operations(lambda: network(torch.empty(1, 3, 128, 128, device="meta")))
    assert operations / 1e9 == pytest.approx(587.4, abs=0.1)


def test_stable_diffusions_networks_have_the_published_size():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**contestants.SD21_UNET), AutoencoderKL(**contestants.VAE)
    assert sum(weight.numel() for weight in unet.parameters()) == 865_910_724
    assert sum(weight.numel() for weight in vae.parameters()) == 83_653_863


def test_rrdb_enlarges_by_four():
    with torch.no_grad():
        assert RRDB(width=8, growth=4, blocks=1)(torch.rand(2, 3, 6, 5)).shape == (2, 3, 24, 20)


def test_passes_are_multiplied_and_ratios_are_to_the_first():
    calls = []
    matrix = torch.rand(64, 64)

    def work(name: str):
        def run() -> None:
            calls.append(name)
            matrix @ matrix

        return run

    one, other = Part("one", work("a")), Part("step", work("b"), passes=50)
    report = peers.measure([Contestant("first", [one]), Contestant("second", [one, other])], repeats=3)
    assert calls == ["a", "b"] * 4
    assert report["first"]["gflops"] == pytest.approx(2 * 64**3 / 1e9)
    assert report["second"]["gflops"] == pytest.approx(51 * 2 * 64**3 / 1e9)
    assert report["first"]["ratio"] == report["first"]["least_ratio"] == report["first"]["most_ratio"] == 1
    assert 1 < report["second"]["least_ratio"] <= report["second"]["ratio"] <= report["second"]["most_ratio"]


def test_everybody_runs_at_tiny_size(tiny_pipeline):
    tiny_pipeline.preset = "tiny"
    entrants = [
        contestants.ours(tiny_pipeline, 16),
        contestants.real_esrgan(16, CPU, FLOAT, width=8, growth=4, blocks=1),
        *contestants.stable_diffusion(16, CPU, FLOAT, None, TINY_UNET, TINY_VAE),
    ]
    report = peers.measure(entrants, repeats=1)
    json.dumps(report)
    assert all(entry["gflops"] > 0 and entry["parameters"] > 0 for entry in report.values())
    text = peers.table(
        report, {"size": 16, "device": "cpu", "dtype": "float32", "repeats": 1, "matrix_gflops_per_second": 1}
    )
    assert text.count("\n| ") == 5 and " s x 50 + VAE decoder" in text


def test_the_command_runs(tiny_pipeline, tmp_path, capsys):
    tiny_pipeline.save_pretrained(tmp_path / "tiny")
    call = ["--preset", str(tmp_path / "tiny"), "--size", "16", "--repeats", "1", "--quick", "--device", "cpu"]
    assert peers.main(call) == 0
    assert "| SISRM tiny, 2 steps, guidance 1.5 |" in capsys.readouterr().out
    assert peers.main([*call, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["entrants"]) == 2
    with pytest.raises(SystemExit):
        peers.main(["--repeats", "0"])


def test_steering_tells_how_far_each_control_moves_a_picture(photo, tmp_path, capsys):
    pipe = tiny_pipe()
    pipe.set_progress_bar_config(disable=True)
    found = steering.moves(
        pipe, photo, {"nothing": {}, "another seed": {"seed": 1}, "detail 0": {"detail_strength": 0.0}}
    )
    assert found["nothing"] == 0 < found["another seed"] and found["detail 0"] > 0
    pipe.save_pretrained(tmp_path / "tiny")
    photo.save(tmp_path / "photo.png")
    assert steering.main([str(tmp_path / "photo.png"), "--preset", str(tmp_path / "tiny"), "--device", "cpu"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == f"| grey levels, mean | {tmp_path / 'photo.png'} |" and len(rows) == 2 + len(steering.CONTROLS)
