"""Writing an evaluation down: a CSV with a row per image and method, a summary in JSON, a table in Markdown."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """How one metric is shown: table heading, digits after the point and what it means."""

    heading: str
    digits: int
    definition: str


METRICS = {
    "psnr_y": Metric("PSNR-Y ↑", 2, "PSNR in dB on BT.601 studio-range Y, peak 255, no border cropped"),
    "ssim_y": Metric("SSIM-Y ↑", 4, "SSIM on the same Y, Gaussian window of 11 pixels, sigma 1.5"),
    "gradient_energy": Metric(
        "gradient energy (HR = 1)",
        3,
        "mean absolute forward difference of Y, horizontal plus vertical, divided by that of HR",
    ),
    "teacher_distance": Metric(
        "teacher distance ↓",
        4,
        "squared distance of unit-length teacher features, summed over channels, mean over pixels, then over maps",
    ),
    "teacher_agreement": Metric(
        "class agreement ↑", 4, "share of pixels that the teacher puts into the same class (1..150) as in HR"
    ),
}


def summarise(rows: list[dict], methods: list[str]) -> dict[str, dict[str, float | None]]:
    """Mean of every metric per method, over the images where it is a finite number; None where there is none.

    Args:
        rows: one dict per image and method with the keys image, method and metric names.
        methods: the order to report in.
    """
    names = [name for name in METRICS if rows and name in rows[0]]
    summary: dict[str, dict[str, float | None]] = {}
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        summary[method] = {}
        for name in names:
            values = [row[name] for row in mine if math.isfinite(row[name])]
            summary[method][name] = math.fsum(values) / len(values) if values else None
    return summary


def markdown_table(summary: dict[str, dict[str, float | None]]) -> str:
    """The summary as a Markdown table, one line per method."""
    names = list(next(iter(summary.values())))
    lines = [
        "| method | " + " | ".join(METRICS[name].heading for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for method, values in summary.items():
        cells = ["" if values[name] is None else f"{values[name]:.{METRICS[name].digits}f}" for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(
    folder: Path, rows: list[dict], methods: list[str], protocol: dict, model: dict | None, versions: dict[str, str]
) -> dict:
    """Write per_image.csv, summary.json and table.md.

    Args:
        folder: exists already.
        rows, methods: see `summarise`.
        protocol: what was evaluated and how.
        model: what `sisrm.runtime.describe` says of the model; None when it did not take part.
        versions: of the libraries.

    Returns:
        The content of summary.json.
    """
    summary = {
        "protocol": protocol,
        "methods": summarise(rows, methods),
        "definitions": {name: metric.definition for name, metric in METRICS.items() if name in rows[0]},
        "model": model,
        "versions": versions,
    }
    with open(folder / "per_image.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown_table(summary["methods"]), encoding="utf-8")
    return summary
