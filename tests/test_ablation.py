"""Table 2: each variant runs without what it names, and "worse" means by more than the seeds differ."""

import json

import numpy as np
import pytest
from PIL import Image

from sisrm.cli import main
from sisrm.evaluation.ablation import PAPER, VARIANTS, ablation_table, compare, loss, order_holds, row_name


def figures(psnr: dict[str, tuple[float, float]], energy: float = 1.0) -> dict:
    return {
        row_name(variant, seed): {"psnr_y": psnr.get(variant, (20.0, 20.2))[seed], "gradient_energy": energy}
        for variant in VARIANTS
        for seed in (0, 1)
    }


def test_a_difference_counts_beyond_the_larger_spread():
    methods = figures(
        {"full": (27.0, 27.2), "without MFF": (26.85, 27.1), "without SCA": (26.0, 26.4), "baseline": (28, 28.1)}
    )
    table = compare(methods, [0, 1])
    assert table["full"]["psnr_y"]["mean"] == pytest.approx(27.1)
    assert table["full"]["psnr_y"]["spread"] == pytest.approx(0.2)
    verdicts = {variant: entry["psnr_y"]["against_full"] for variant, entry in table.items()}
    assert verdicts["without MFF"] == verdicts["full"] == "same"
    assert verdicts["without SCA"] == verdicts["without SAPE"] == "worse" and verdicts["baseline"] == "better"
    assert not order_holds(table, "psnr_y")
    assert order_holds(compare(figures({"full": (27.0, 27.2)}), [0, 1]), "psnr_y")
    lines = ablation_table(table, [0, 1]).splitlines()
    assert lines[0].startswith("| variant, 2 seeds | PSNR-Y ↑ | gradient energy (HR = 1) | paper: LPIPS")
    assert lines[-1] == "| full | 27.100 ± 0.100 | 1.0000 ± 0.0000 | 0.3758 | 0.7274 |"
    assert "| 26.200 ± 0.200 ▼ |" in lines[4] and "▲" in lines[2]


def test_which_way_is_better():
    assert loss("psnr_y", 3) < loss("psnr_y", 2)
    assert loss("teacher_distance", 2) < loss("teacher_distance", 3)
    assert loss("gradient_energy", 1.1) < loss("gradient_energy", 0.8)
    assert set(PAPER) == set(VARIANTS)


def test_the_command_measures_every_variant(tiny_pipeline, tmp_path, capsys):
    tiny_pipeline.save_pretrained(tmp_path / "model")
    generator = np.random.default_rng(0)
    for name, side in (("HR", 64), ("LR", 16)):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        Image.fromarray(generator.integers(0, 255, (side, side, 3), np.uint8)).save(tmp_path / "pairs" / name / "a.png")
    arguments = [
        "ablate",
        str(tmp_path / "pairs"),
        "--output",
        str(tmp_path / "out"),
        "--preset",
        str(tmp_path / "model"),
    ]
    assert main([*arguments, "--seeds", "3", "4", "--steps", "1", "--metrics", "psnr_y"]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "ablation.md").read_text() and printed.count("\n") == 2 + len(VARIANTS)
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    means = {variant: entry["psnr_y"]["mean"] for variant, entry in report["variants"].items()}
    assert len(set(means.values())) == len(VARIANTS), "two variants gave the same picture"
    assert report["seeds"] == [3, 4] and report["switches"]["without SCA"] == {"use_sca": False}
    assert main([*arguments, "--seeds", "1", "1"]) == 2
    assert "--seeds" in capsys.readouterr().err
