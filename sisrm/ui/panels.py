"""Lines of text made from a report. Everything that comes from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from sisrm.ui.texts import text


def made(report: Mapping[str, Any], lang: str = "en", said: str = "made") -> str:
    """One line: sizes, time and seed of a run; and one more for each notice.

    Args:
        report: of `Handlers.upscale`.
        lang: "en" or "zh".
        said: the text that says it: "made", or "example" or "sample_made" with the line in it.
    """
    width, height = report["input_size"]
    out_width, out_height = report["output_size"]
    line = text(
        "made", lang, width=width, height=height, out_width=out_width, out_height=out_height,
        seconds=report["timings"]["total"], seed=report["seed"],
    )  # fmt: skip
    if said != "made":
        line = text(said, lang, line=line)
    more = "".join(f'<p class="notice">{html.escape(text(notice["code"], lang))}</p>' for notice in report["notices"])
    return f'<p class="made">{html.escape(line)}</p>{more}'


def title(report: Mapping[str, Any], lang: str = "en") -> str:
    """A few words that tell a result from others of the same photo: what was set."""
    settings = report["settings"]
    words = text(
        "title", lang, steps=settings["steps"], guidance=f"{settings['guidance_scale']:g}", seed=report["seed"]
    )
    off = ", ".join(name.upper() for name in ("mff", "sca", "sape") if not settings[name])
    return text("without", lang, title=words, parts=off) if off else words
