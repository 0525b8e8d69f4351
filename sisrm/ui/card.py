"""The card under the button while a job runs: a preview, the step it is at, and how long it will still take."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from sisrm.ui.endpoints import in_words
from sisrm.ui.progress import Update
from sisrm.ui.texts import text

_SIDE = 320  # longest side of the preview, sent with the page's own words


def card(update: Update, lang: str, more: str = "") -> str:
    """HTML for a job as it stands.

    Args:
        update: of `Job.updates`.
        lang: "en" or "zh".
        more: words before the job's own, such as which of several it is.
    """
    words = more + (text("waiting", lang) if update.stage == "waiting" else in_words(update, lang))
    left = "" if update.seconds_left is None else text("left", lang, seconds=max(1, round(update.seconds_left)))
    percent = round(100 * update.step / update.steps) if update.steps else 0
    picture = (
        "" if update.preview is None else _picture(update.preview, text("preview", lang, step=update.preview_step))
    )
    return (
        f'<div class="card">{picture}<div class="said"><p role="status">{html.escape(words)}</p><p class="left">{html.escape(left)}</p>'
        f'<div class="bar" role="progressbar" aria-label="{html.escape(text("progress", lang))}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><b style="width:{percent}%"></b></div></div></div>'
    )


def note(words: str) -> str:
    """HTML for one line in the card's place."""
    return f'<div class="card"><p role="status">{html.escape(words)}</p></div>'


def _picture(image: Image.Image, said: str) -> str:
    return f'<img src="{data_url(image, _SIDE)}" alt="{html.escape(said)}">'


def data_url(image: Image.Image, side: int) -> str:
    """A picture of at most so many pixels a side, as a JPEG in an address."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()
