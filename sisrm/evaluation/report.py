"""Writing an evaluation down: a CSV with a row per image and method, a summary in JSON, a table in Markdown."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Args:
        label: what it is called in a sentence.
        digits: after the point.
        best: "highest", "lowest", or "closest to 1".
        definition: what it means.
    """

    label: str
    digits: int
    best: str
    definition: str

    @property
    def heading(self) -> str:
        """For a table: the label and which way is better."""
        return self.label + {"highest": " ↑", "lowest": " ↓", "closest to 1": " (HR = 1)"}[self.best]

    def worse_by(self, value: float) -> float:
        """What orders the values as the table shows them: the lower, the better."""
        shown = round(value, self.digits)
        return {"highest": -shown, "lowest": shown, "closest to 1": round(abs(shown - 1), self.digits)}[self.best]


METRICS = {
    "psnr_y": Metric("PSNR-Y", 2, "highest", "PSNR in dB on BT.601 studio-range Y, peak 255, no border cropped"),
    "ssim_y": Metric("SSIM-Y", 4, "highest", "SSIM on the same Y, Gaussian window of 11 pixels, sigma 1.5"),
    "lpips": Metric("LPIPS", 4, "lowest", "LPIPS 0.1 with AlexNet, pyiqa's lpips"),
    "dists": Metric("DISTS", 4, "lowest", "DISTS, pyiqa's dists"),
    "maniqa": Metric("MANIQA", 4, "highest", "MANIQA trained on PIPAL, no reference, pyiqa's maniqa-pipal"),
    "clipiqa": Metric("CLIPIQA", 4, "highest", "CLIP-IQA with RN50, no reference, pyiqa's clipiqa"),
    "niqe": Metric("NIQE", 4, "lowest", "NIQE, no reference, pyiqa's niqe"),
    "gradient_energy": Metric(
        "gradient energy",
        3,
        "closest to 1",
        "mean absolute forward difference of Y, horizontal plus vertical, divided by that of HR",
    ),
    "teacher_distance": Metric(
        "teacher distance",
        4,
        "lowest",
        "squared distance of unit-length teacher features, summed over channels, mean over pixels, then over maps",
    ),
    "teacher_agreement": Metric(
        "class agreement",
        4,
        "highest",
        "share of pixels that the teacher puts into the same class (1..150) as in HR",
    ),
    "seconds": Metric("seconds", 3, "lowest", "wall time of a picture that is computed here, from its pixels to the result's"),
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
    """The summary as a Markdown table, one line per method; of several, the best is bold and the second underlined.

    Ranks go by the figures as they are shown: what looks equal is marked alike.
    """
    names = list(next(iter(summary.values())))
    lines = [
        "| method | " + " | ".join(METRICS[name].heading for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    columns = [_column(METRICS[name], [values[name] for values in summary.values()]) for name in names]
    for method, cells in zip(summary, zip(*columns)):
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _column(metric: Metric, values: list[float | None]) -> list[str]:
    ranks = sorted({metric.worse_by(value) for value in values if value is not None})
    cells = []
    for value in values:
        cell = "" if value is None else f"{value:.{metric.digits}f}"
        if value is not None and len(ranks) > 1 and metric.worse_by(value) in ranks[:2]:
            cell = f"**{cell}**" if metric.worse_by(value) == ranks[0] else f"<u>{cell}</u>"
        cells.append(cell)
    return cells


def summary_of(
    rows: list[dict],
    methods: list[str],
    *,
    protocol: dict,
    settings: dict[str, dict],
    skipped: dict[str, str],
    model: dict | None,
    versions: dict[str, str],
) -> dict:
    """The content of summary.json.

    Args:
        rows, methods: see `summarise`.
        protocol: what was evaluated and how.
        settings: of each method, seed included.
        skipped: metrics that were not measured -> why.
        model: what `sisrm.runtime.describe` says of the model, and the hash of its weights; None when it took no part.
        versions: of the libraries.
    """
    return {
        "protocol": protocol,
        "methods": summarise(rows, methods),
        "settings": settings,
        "definitions": {name: metric.definition for name, metric in METRICS.items() if name in rows[0]},
        "skipped_metrics": skipped,
        "model": model,
        "versions": versions,
    }


def write(folder: Path, rows: list[dict], summary: dict) -> None:
    """Write per_image.csv, summary.json and table.md into a folder that exists already."""
    with open(folder / "per_image.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown_table(summary["methods"]), encoding="utf-8")
