"""How far the label scores can be believed: how often a label of a certain score is right, as figures and as a chart.

Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015), give the expected
calibration error; Niculescu-Mizil and Caruana, "Predicting Good Probabilities" (2005), the diagram.

The scores of eq 2 are a softmax over the classes: those of one image share a sum of 1, so that in a photo with five classes even a
perfect generator gives each about 0.2. The distance to the diagonal is therefore expected to be large; what the chart shows is
whether a higher score means a label that is right more often.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

BINS = 10

_INK, _FAINT, _GRID = "#22303c", "#6b7785", "#dde2e7"
_BAR, _LINE = "#3b7dd8", "#c4561a"  # blue and orange stay apart for colour-blind eyes
_PLOT, _LEFT, _TOP, _RIGHT, _BOTTOM = 400, 74, 78, 26, 74  # pixels of one panel


@dataclass(frozen=True)
class Bin:
    """The labels with a score from `low` up to, but not including, `high` (the last bin includes it).

    Attributes:
        count: how many labels. score: their mean score. right: the share of them that is present; both 0 when empty.
    """

    low: float
    high: float
    count: int
    score: float
    right: float


def bins_of(scores: list[float], right: list[bool], count: int = BINS) -> list[Bin]:
    """Labels sorted into `count` equally wide bins by their score.

    Args:
        scores: in [0, 1]. right: whether each label is present; of the same length.
    """
    members: list[list[int]] = [[] for _ in range(count)]
    for index, score in enumerate(scores):
        members[min(int(score * count), count - 1)].append(index)
    return [
        Bin(
            low=number / count,
            high=(number + 1) / count,
            count=len(inside),
            score=sum(scores[index] for index in inside) / max(1, len(inside)),
            right=sum(right[index] for index in inside) / max(1, len(inside)),
        )
        for number, inside in enumerate(members)
    ]


def calibration_error(bins: list[Bin]) -> float | None:
    """Expected calibration error: |share right - mean score| of the bins, weighted by their counts; None without labels."""
    total = sum(entry.count for entry in bins)
    return sum(entry.count * abs(entry.right - entry.score) for entry in bins) / total if total else None


def draw(panels: dict[str, list[Bin]]) -> Image.Image:
    """Reliability diagrams side by side: a bar per bin up to the share right, its count above it, a dot where its mean score is.

    Args:
        panels: title -> bins.

    Returns:
        PIL RGB.
    """
    width, height = _LEFT + _PLOT + _RIGHT, _TOP + _PLOT + _BOTTOM
    sheet = Image.new("RGB", (width * len(panels), height), "white")
    for number, (title, bins) in enumerate(panels.items()):
        _draw_panel(ImageDraw.Draw(sheet), number * width + _LEFT, title, bins)
    return sheet


def _draw_panel(canvas: ImageDraw.ImageDraw, left: int, title: str, bins: list[Bin]) -> None:
    """One diagram, `left` being the x of its vertical axis."""
    large, small, tiny = (ImageFont.load_default(size) for size in (19, 14, 12))
    bottom, right = _TOP + _PLOT, left + _PLOT

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * _PLOT, bottom - y * _PLOT

    for tick in range(0, 11, 2):
        value = tick / 10
        canvas.line([at(0, value), at(1, value)], fill=_GRID)
        canvas.text((left - 10, at(0, value)[1]), f"{value:.1f}", fill=_FAINT, font=small, anchor="rm")
        canvas.text((at(value, 0)[0], bottom + 9), f"{value:.1f}", fill=_FAINT, font=small, anchor="ma")
    for entry in bins:
        if entry.count:
            (x0, y0), (x1, _) = at(entry.low, entry.right), at(entry.high, 0)
            canvas.rectangle([x0 + 2, y0, x1 - 2, bottom], fill=_BAR)
    canvas.line([at(0, 0), at(1, 1)], fill=_LINE, width=2)
    for entry in bins:
        if entry.count:
            x, y = at(entry.score, entry.right)
            canvas.ellipse([x - 4, y - 4, x + 4, y + 4], fill="white", outline=_INK, width=2)
            label = (at((entry.low + entry.high) / 2, 0)[0], max(y - 7, _TOP + 14))
            canvas.text(label, f"{entry.count}", fill=_INK, font=tiny, anchor="ms", stroke_width=2, stroke_fill="white")
    canvas.line([(left, _TOP), (left, bottom), (right, bottom)], fill=_INK, width=2)
    error = calibration_error(bins)
    total = sum(entry.count for entry in bins)
    told = "no labels" if error is None else f"{total} labels, calibration error {error:.3f}"
    canvas.text((left, 16), title, fill=_INK, font=large)
    canvas.text((left, 44), f"share of labels that are right; {told}", fill=_FAINT, font=small)
    middle, notes = left + _PLOT / 2, "number: labels in the bin; line: score = share"
    canvas.text((middle, bottom + 34), "score of the label generator", fill=_INK, font=small, anchor="ma")
    canvas.text((middle, bottom + 53), notes, fill=_FAINT, font=tiny, anchor="ma")
