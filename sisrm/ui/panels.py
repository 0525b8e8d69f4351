"""HTML fragments made from a report: the label chips and the legend. Everything that comes from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from sisrm.ui.texts import text

LEGEND_ROWS = 8
"""Classes that get a row of their own; what is left is summed up in one line."""


def semantics(report: Mapping[str, Any], lang: str = "en") -> str:
    """The label prompt with its scores, and the legend of the regions.

    Args:
        report: of `Handlers.upscale` or `Handlers.segment`.
        lang: "en" or "zh".
    """
    return f'<div class="semantics">{_chips(report["labels"], lang)}{_legend(report["regions"], lang)}</div>'


def made(report: Mapping[str, Any], lang: str = "en") -> str:
    """One line: sizes, time and seed of a run; and one more for each notice."""
    width, height = report["input_size"]
    out_width, out_height = report["output_size"]
    line = text(
        "made", lang, width=width, height=height, out_width=out_width, out_height=out_height,
        seconds=report["timings"]["total"], seed=report["seed"],
    )  # fmt: skip
    more = "".join(f'<p class="notice">{html.escape(text(notice["code"], lang))}</p>' for notice in report["notices"])
    return f'<p class="made">{html.escape(line)}</p>{more}'


def _chips(labels: list[Mapping[str, Any]], lang: str) -> str:
    items = []
    for label in labels:
        score = label["score"]
        shown = text("given_label", lang) if score is None else f"{100 * score:.0f}%" if score >= 0.01 else "<1%"
        shown += " " + text("unsure", lang) if label.get("unsure") else ""
        items.append(f'<li class="chip">{html.escape(label["name"])}<span>{html.escape(shown)}</span></li>')
    return f'<h3>{html.escape(text("prompt", lang))}</h3><ul class="chips">{"".join(items)}</ul>'


def _legend(regions: list[Mapping[str, Any]], lang: str) -> str:
    rows = []
    for region in regions[:LEGEND_ROWS]:
        percent = 100 * region["share"]
        rows.append(
            f'<li><i style="background:{html.escape(region["color"])}"></i>'
            f'<span class="name">{html.escape(region["name"])}</span>'
            f'<span class="bar"><b style="width:{percent:.1f}%"></b></span>'
            f'<span class="share">{f"{percent:.0f}%" if percent >= 1 else "&lt;1%"}</span></li>'
        )
    rest = len(regions) - LEGEND_ROWS
    more = f'<p class="more">{html.escape(text("more_regions", lang, count=rest))}</p>' if rest > 0 else ""
    return f'<h3>{html.escape(text("legend", lang))}</h3><ul class="legend">{"".join(rows)}</ul>{more}'
