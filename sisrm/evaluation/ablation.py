"""Table 2 of the paper: the model with its modules taken out one by one, same images, same seeds.

A switch takes its module out at inference, and training has seen each one out (`sisrm.training.it2ic.condition_on`), so no variant runs
on something it has never met.
"""

from __future__ import annotations

import math

from sisrm.evaluation.methods import Method, from_pipeline
from sisrm.evaluation.report import METRICS

VARIANTS: dict[str, dict[str, bool]] = {
    "baseline": {"use_sape": False, "use_sca": False, "use_mff": False},
    "without SAPE": {"use_sape": False},
    "without SCA": {"use_sca": False},
    "without MFF": {"use_mff": False},
    "without SCA and MFF": {"use_sca": False, "use_mff": False},
    "full": {},
}
"""The paper's rows. Without SAPE there are no labels and no E_m, so SCA has nothing to read; M is then the region of the largest classes.
The baseline has M = 1 as well: image encoder, ControlNet and U-Net alone."""

PAPER = {
    "baseline": (0.4221, 0.6511),
    "without SAPE": (0.4181, 0.6892),
    "without SCA": (0.4011, 0.7023),
    "without MFF": (0.3935, 0.7156),
    "without SCA and MFF": (0.4074, 0.6962),
    "full": (0.3758, 0.7274),
}
"""(LPIPS, CLIPIQA) of the paper's table 2 on DIV2K-Val."""


def ablation_methods(pipe, seeds: list[int], options: dict | None = None) -> dict[str, Method]:
    """Every variant with every seed, by `row_name`.

    Args:
        pipe: SISRMPipeline.
        seeds: of the noise.
        options: further keyword arguments of every call; the three switches are the variants' own.
    """
    return {
        row_name(variant, seed): from_pipeline(pipe, seed, {**(options or {}), **switches})
        for variant, switches in VARIANTS.items()
        for seed in seeds
    }


def row_name(variant: str, seed: int) -> str:
    """What a variant with one seed is called among the methods of an evaluation."""
    return f"{variant}, seed {seed}"


def compare(methods: dict[str, dict[str, float | None]], seeds: list[int]) -> dict[str, dict[str, dict]]:
    """What each module gives.

    Args:
        methods: row name -> metric -> mean over the images, as in an evaluation's summary.
        seeds: as given to `ablation_methods`.

    Returns:
        variant -> metric -> {"mean" over the seeds, "spread" of the seeds' means (largest minus smallest), "against_full": "worse",
        "better" or "same"}; "same" is a difference no larger than the larger spread of the two. Metrics without a figure are left out.
    """
    names = [
        name
        for name in METRICS
        if all(methods[row_name(variant, seeds[0])].get(name) is not None for variant in VARIANTS)
    ]
    table: dict[str, dict[str, dict]] = {}
    for variant in VARIANTS:
        table[variant] = {}
        for name in names:
            values = [methods[row_name(variant, seed)][name] for seed in seeds]
            table[variant][name] = {"mean": math.fsum(values) / len(values), "spread": max(values) - min(values)}
    for figures in table.values():
        for name, figure in figures.items():
            full = table["full"][name]
            difference = loss(name, figure["mean"]) - loss(name, full["mean"])
            beyond = abs(difference) > max(figure["spread"], full["spread"])
            figure["against_full"] = ("worse" if difference > 0 else "better") if beyond else "same"
    return table


def loss(metric: str, value: float) -> float:
    """The figure with its sign and origin changed so that less is better."""
    best = METRICS[metric].best
    return -value if best == "highest" else value if best == "lowest" else abs(value - 1)


def ablation_table(table: dict[str, dict[str, dict]], seeds: list[int]) -> str:
    """`compare`'s answer as Markdown: mean and spread, ▼ where a variant is worse than the full model beyond the spread, ▲ where better."""
    names = list(table["full"])
    headings = [METRICS[name].heading for name in names]
    lines = [
        f"| variant, {len(seeds)} seeds | " + " | ".join(headings) + " | paper: LPIPS ↓ | paper: CLIPIQA ↑ |",
        "|---" * (len(names) + 3) + "|",
    ]
    marks = {"worse": " ▼", "better": " ▲", "same": ""}
    for variant, figures in table.items():
        cells = []
        for name in names:
            digits, figure = METRICS[name].digits + 1, figures[name]
            cells.append(
                f"{figure['mean']:.{digits}f} ± {figure['spread'] / 2:.{digits}f}{marks[figure['against_full']]}"
            )
        lines.append(f"| {variant} | " + " | ".join(cells) + " | {:.4f} | {:.4f} |".format(*PAPER[variant]))
    return "\n".join(lines) + "\n"


def order_holds(table: dict[str, dict[str, dict]], metric: str) -> bool:
    """Whether every variant is worse than the full model on `metric`, by more than the spread."""
    return all(figures[metric]["against_full"] == "worse" for variant, figures in table.items() if variant != "full")
