"""Parts of the page that are HTML, CSS and JavaScript of our own: their files lie in `static/`, their words in `texts.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from sisrm.ui.texts import TEXTS

STATIC = Path(__file__).resolve().parent / "static"


def html_part(name: str, prefix: str, **props: Any) -> gr.HTML:
    """A component made of `static/NAME.html`, `NAME.css` and `NAME.js`, empty at first.

    Args:
        name: of the files.
        prefix: the script gets the texts whose key begins with it, in both languages, as JSON in `props.texts`.
        props: more for the script; anything that is no string, number or boolean as JSON.
    """
    words = {
        lang: {key: word for key, word in words.items() if key.startswith(prefix)} for lang, words in TEXTS.items()
    }
    html, css, script = ((STATIC / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return gr.HTML(
        value=None, html_template=html, css_template=css, js_on_load=script, texts=json.dumps(words), padding=False, **props
    )  # fmt: skip


def served(path: Path) -> dict[str, Any]:
    """A file as the page's scripts get it: `url` is its address."""
    return FileData(path=str(path)).model_dump()
