"""The layout: which components there are, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.i18n import I18nData

from sisrm.ui.controls import Controls, controls
from sisrm.ui.handlers import Handlers
from sisrm.ui.regions import ADD_COLOR, PROTECT_COLOR
from sisrm.ui.semantic_panel import semantic_panel
from sisrm.ui.viewer import viewer

INK = {"brush_add": ADD_COLOR, "brush_protect": PROTECT_COLOR}


@dataclass(frozen=True)
class Page:
    """The page's components."""

    photo: gr.Image
    picked: Any
    run: gr.Button
    sample: gr.Button
    cancel: gr.Button
    live: gr.HTML
    controls: Controls
    comparison: gr.HTML
    made: gr.HTML
    download: gr.DownloadButton
    both: gr.DownloadButton
    panel: gr.HTML
    compare: gr.Button
    variants: gr.HTML
    link: gr.Textbox
    details: gr.JSON
    session: gr.State
    carried: gr.State
    point: gr.State
    hidden_at_first: list[Component]


def lay_out(handlers: Handlers, examples: list[str]) -> Page:
    """Build what a visitor sees, to be called inside a `gr.Blocks`."""
    word, free_text = I18nData, bool(handlers.pipe.config.free_text)
    session, carried, point = gr.State([]), gr.State(None), gr.State(None)
    with gr.Column(elem_id="heading"):
        gr.Markdown("# SISRM")
        gr.Markdown(word("tagline"))
    # Three areas that the style sheet lays out: side by side on a wide screen; on a phone the result comes before the settings.
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_id="input"):
            photo = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                label=word("photo"),
                height=300,
                elem_id="photo",
            )
            picked = gr.Examples(
                [[path] for path in examples], inputs=[photo], label=word("examples"), elem_id="examples", api_visibility="private"
            ) if examples else None  # fmt: skip
            with gr.Row(elem_id="start"):
                run = gr.Button(word("run"), variant="primary", elem_id="run", scale=3, min_width=180)
                sample = gr.Button(word("sample"), elem_id="sample", size="md", scale=1, min_width=120)
            live = gr.HTML(elem_id="live")
            cancel = gr.Button(word("cancel"), variant="stop", elem_id="cancel", size="md", visible=False)
        with gr.Column(elem_id="output"):
            comparison = viewer()
            with gr.Row(visible=False, elem_id="result") as result:
                made = gr.HTML(elem_id="made", min_width=220)
                download = gr.DownloadButton(word("download"), scale=0, min_width=120, size="md", elem_id="download")
                both = gr.DownloadButton(word("both"), scale=0, min_width=160, size="md", elem_id="both")
            panel = semantic_panel(INK, free_text)
            with gr.Accordion(word("modules"), open=False, elem_id="modules"):
                gr.Markdown(word("modules_info"))
                compare = gr.Button(word("compare"), elem_id="compare", size="md")
                variants = gr.HTML(elem_id="variants")
            with gr.Accordion(word("details"), open=False, visible=False, elem_id="more") as more:
                link = gr.Textbox(
                    label=word("link"), info=word("link_info"), interactive=False, buttons=["copy"], elem_id="link"
                )
                details = gr.JSON(show_label=False, elem_id="details")
        with gr.Column(elem_id="controls"), gr.Accordion(word("settings"), open=True, elem_id="settings"):
            settings = controls(handlers.defaults, free_text)
    gr.Markdown(word("runtime"), elem_id="runtime")
    return Page(
        photo, picked, run, sample, cancel, live, settings, comparison, made, download, both, panel, compare, variants, link,
        details, session, carried, point, [result, more],
    )  # fmt: skip
