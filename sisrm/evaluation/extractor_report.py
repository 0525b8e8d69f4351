"""What `extractor` has measured, written down: means, bars met or not, labels by score, the reliability chart."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats

from sisrm.evaluation import reliability
from sisrm.images import write_png

RANKS = (1, 3, 5, 10)
"""The k of label precision and recall at k."""

MOST_LABELS = max(RANKS)

FLOORS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Lower ends of the score ranges, and the floors tried, in "labels by score"."""

HR_AGREEMENT, KEEPS, PRECISION_3 = 0.65, 0.85, 0.7
"""The bars: least agreement on HR, least share of it that a damaged image keeps, least precision of three labels."""

DEFINITIONS = {
    "agreement": "share of all pixels with the class that the teacher finds likeliest on HR, out of 150 ('not sure' is no choice)",
    "sure_agreement": "the same over the pixels where the teacher's probability is at least 0.35, which are those that the label "
    "maps for training name",
    "mean_iou": "intersection over union over all pixels, mean over the classes that the teacher gives at least 1 % of the image, "
    "mean over images",
    "keeps": "agreement divided by the best agreement on HR in the same folder, before or after, so that reading HR worse gains nothing; "
    "for the teacher by its own",
    "precision_k": "share of the k labels with the highest score, no floor, that are among the classes of at least 1 %",
    "recall_k": "share of the classes of at least 1 % that are among these k labels",
    "prompt_labels": "labels per prompt: the first top-k, without those that score below the weights' floor, the very first excepted",
    "prompt_precision": "share of the labels in all prompts that are among the classes of at least 1 %",
    "teacher": "the teacher itself: on HR the ceiling (an image with fewer than k classes of at least 1 % keeps precision at k below 1), "
    "on damaged images, enlarged by bicubic interpolation, how far it agrees with itself",
    "margin": "agreement after minus before, image by image: mean and 95 % confidence interval (Student's t); clear when it lies above 0",
    "calibration_error": "expected calibration error of 10 equally wide bins over the 10 labels of highest score of each image",
}


@dataclass(frozen=True)
class Row:
    """One reading of one image, judged.

    Attributes:
        group: name of the folder of images. image: file name without ending.
        source: "HR", "LR", or "LR light" and so on when LR was made. model: "teacher", "before" or "after".
        figures: by name; NaN where a figure has no meaning for this image.
        scores, right: of the MOST_LABELS labels, and whether each class is present.
        classes_present: how many the reference has.
    """

    group: str
    image: str
    source: str
    model: str
    figures: dict[str, float]
    scores: list[float]
    right: list[bool]
    classes_present: int


def summarise(rows: list[Row], prompt_labels: int = MOST_LABELS, floor: float = 0.0) -> list[dict]:
    """Mean figures per folder, model and source in the order of the rows; images where a figure is NaN do not count for it.

    Args:
        prompt_labels: how many labels the prompt takes at most. floor: least score of a label in it, but for the first.

    Returns:
        One entry each, with `keeps`, and what prompts are made of: `prompt_labels` per image and `prompt_precision`, the share
        of all of them that is present. The teacher has no scores, so it has neither.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.source, row.model), []).append(row)
    summary = []
    for (group, source, model), mine in groups.items():
        means = {name: _mean([row.figures[name] for row in mine]) for name in mine[0].figures}
        prompts = [] if model == "teacher" else [_prompt(row, prompt_labels, floor) for row in mine]
        summary.append(
            {"group": group, "source": source, "model": model, "images": len(mine), **means}
            | {"prompt_labels": _mean([len(labels) for labels in prompts]), "prompt_precision": _share(prompts)}
        )
    for entry in summary:
        rivals = ("teacher",) if entry["model"] == "teacher" else ("before", "after")
        best = max(
            other["agreement"]
            for other in summary
            if other["group"] == entry["group"] and other["source"] == "HR" and other["model"] in rivals
        )
        entry["keeps"] = entry["agreement"] / best if entry["source"] != "HR" and best > 0 else None
    return summary


def margin(rows: list[Row], group: str, source: str) -> dict[str, float] | None:
    """Agreement after minus before over the same images.

    Returns:
        mean, low and high (the 95 % confidence interval); None without a model before or with fewer than two images.
    """
    values = {
        model: {
            row.image: row.figures["agreement"]
            for row in rows
            if (row.group, row.source, row.model) == (group, source, model)
        }
        for model in ("before", "after")
    }
    gains = [values["after"][image] - value for image, value in values["before"].items()]
    if len(gains) < 2:
        return None
    mean = math.fsum(gains) / len(gains)
    spread = math.sqrt(math.fsum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains))
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half}


def bars_of(rows: list[Row], summary: list[dict]) -> list[dict]:
    """Every bar for the model after, per folder and source: what is asked, the figure, and whether it is met."""
    bars = []
    for entry in summary:
        if entry["model"] != "after":
            continue
        place = {"group": entry["group"], "source": entry["source"]}
        if entry["source"] == "HR":
            bars.append(place | _bar("agreement", entry["agreement"], HR_AGREEMENT))
        else:
            bars.append(place | _bar("keeps", entry["keeps"], KEEPS))
            gained = margin(rows, entry["group"], entry["source"])
            if gained is not None:
                interval = f"{gained['low']:+.3f} to {gained['high']:+.3f}"
                bars.append(
                    place
                    | {"bar": "margin over before", "asked": "interval above 0", "figure": gained["mean"]}
                    | {"interval": interval, "met": gained["low"] > 0}
                )
        bars.append(place | _bar("precision_3", entry["precision_3"], PRECISION_3))
    return bars


def labels_by_score(rows: list[Row], prompt_labels: int) -> list[dict]:
    """What a floor on the scores would do to the prompts of damaged images, read by the model after.

    Args:
        prompt_labels: how many labels the prompt takes.

    Returns:
        One entry per floor of FLOORS: labels and right (share) of the labels from this floor up to the next; kept, precision and recall
        of prompts with this floor, in which the first label always stays (labels per image; right among all kept; mean over images);
        unsure: share of the images whose first label lies below the floor.
    """
    damaged = [row for row in rows if row.model == "after" and row.source != "HR"]
    labels = [pair for row in damaged for pair in zip(row.scores[:prompt_labels], row.right[:prompt_labels])]
    table = []
    for floor, following in zip(FLOORS, [*FLOORS[1:], math.inf]):
        inside = [right for score, right in labels if floor <= score < following]
        kept = [_prompt(row, prompt_labels, floor) for row in damaged]
        recalls = [sum(mine) / row.classes_present for mine, row in zip(kept, damaged) if row.classes_present]
        table.append(
            {
                "floor": floor,
                "labels": len(inside),
                "right": sum(inside) / len(inside) if inside else None,
                "kept": _mean([len(mine) for mine in kept]),
                "precision": _share(kept),
                "recall": _mean(recalls),
                "unsure": _mean([float(row.scores[0] < floor) for row in damaged]),
            }
        )
    return table


def markdown(summary: list[dict], bars: list[dict], by_score: list[dict], prompt_labels: int) -> str:
    """The three tables as Markdown."""
    ranks = ", ".join(map(str, RANKS))
    lines = [
        f"| folder | read | model | images | pixel agreement | sure pixels | mean IoU | keeps | P@{ranks} | R@{ranks} "
        "| labels in prompt | right |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in summary:
        cells = [_cell(entry[name]) for name in ("agreement", "sure_agreement", "mean_iou", "keeps")]
        cells += [" ".join(_cell(entry[f"{kind}_{rank}"], 2) for rank in RANKS) for kind in ("precision", "recall")]
        cells += [_cell(entry["prompt_labels"], 1), _cell(entry["prompt_precision"], 2)]
        place = [str(entry[name]) for name in ("group", "source", "model", "images")]
        lines.append(f"| {' | '.join([*place, *cells])} |")
    lines += ["", "| bar | folder | read | asked | figure | met |", "|---|---|---|---|---|---|"]
    for bar in bars:
        asked = bar["asked"] if isinstance(bar["asked"], str) else f"at least {bar['asked']}"
        figure = _cell(bar["figure"]) + (f" ({bar['interval']})" if "interval" in bar else "")
        cells = [bar["bar"], bar["group"], bar["source"], asked, figure, "yes" if bar["met"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Labels by score: the first {prompt_labels} labels of damaged images, and prompts with that floor (the first label stays).",
        "",
        "| score from | labels | right | kept per image | precision | recall | first label below |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in by_score:
        cells = [_cell(entry["right"], 2), _cell(entry["kept"], 2), _cell(entry["precision"]), _cell(entry["recall"])]
        lines.append(
            f"| {entry['floor']:.2f} | {entry['labels']} | {' | '.join(cells)} | {_cell(entry['unsure'], 2)} |"
        )
    return "\n".join(lines) + "\n"


def write(output: Path, rows: list[Row], protocol: dict, models: dict[str, dict], versions: dict[str, str]) -> dict:
    """Write table.md, summary.json, per_image.csv and reliability.png.

    Args:
        output: an existing folder.
        protocol: what was read and how; holds prompt_labels and label_floor.
        models: what `sisrm.runtime.describe` says of each.
        versions: of the libraries.

    Returns:
        The content of summary.json: protocol, figures, bars, labels_by_score, reliability, definitions, models, versions.
    """
    summary = summarise(rows, protocol["prompt_labels"], protocol["label_floor"])
    bars = bars_of(rows, summary)
    by_score = labels_by_score(rows, protocol["prompt_labels"])
    panels = {}
    for title, sharp in (("HR photos", True), ("damaged images", False)):
        mine = [row for row in rows if row.model == "after" and (row.source == "HR") is sharp]
        scores, right = (sum((getattr(row, name) for row in mine), []) for name in ("scores", "right"))
        panels[title] = reliability.bins_of(scores, right)
    content = {
        "protocol": protocol,
        "figures": summary,
        "bars": bars,
        "labels_by_score": by_score,
        "reliability": {
            title: {"calibration_error": reliability.calibration_error(bins), "bins": [asdict(entry) for entry in bins]}
            for title, bins in panels.items()
        },
        "definitions": DEFINITIONS,
        "models": models,
        "versions": versions,
    }
    with open(output / "per_image.csv", "w", newline="", encoding="utf-8") as stream:
        keys = ["group", "image", "source", "model", "classes_present"]
        writer = csv.DictWriter(stream, fieldnames=[*keys, *rows[0].figures])
        writer.writeheader()
        writer.writerows({key: getattr(row, key) for key in keys} | row.figures for row in rows)
    (output / "summary.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (output / "table.md").write_text(markdown(summary, bars, by_score, protocol["prompt_labels"]), encoding="utf-8")
    write_png(reliability.draw(panels), output / "reliability.png")
    return content


def _bar(name: str, figure: float | None, asked: float) -> dict:
    return {"bar": name, "asked": asked, "figure": figure, "met": figure is not None and figure >= asked}


def _prompt(row: Row, count: int, floor: float) -> list[bool]:
    """Of the labels that the prompt takes, the first always: whether each is present."""
    pairs = zip(row.scores[:count], row.right)
    return [right for rank, (score, right) in enumerate(pairs) if rank == 0 or score >= floor]


def _share(prompts: list[list[bool]]) -> float | None:
    """Of all labels in these prompts, those that are present; None without any."""
    count = sum(map(len, prompts))
    return sum(map(sum, prompts)) / count if count else None


def _mean(values: list[float]) -> float | None:
    """Over the finite ones; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _cell(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
