"""The layout: which components there are, what they show, and which handler answers them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

from sisrm.labels import CLASS_NAMES
from sisrm.runtime import describe
from sisrm.ui import panels
from sisrm.ui.api import add_endpoints
from sisrm.ui.endpoints import AS_SENT, ONE_AT_A_TIME, errors_for_people, new_folder, run_upscale
from sisrm.ui.handlers import Handlers
from sisrm.ui.regions import ADD_COLOR, PROTECT_COLOR
from sisrm.ui.semantic_panel import edits_of, region_of, semantic_panel
from sisrm.ui.serving import App
from sisrm.ui.settings import GUIDANCE_SCALE, SEED, STEPS, TOP_K, Limit
from sisrm.ui.showcase import Showcase
from sisrm.ui.shown import Shown, again, remember, shown
from sisrm.ui.texts import TEXTS, language, text
from sisrm.ui.viewer import viewer

SHOWN_FIRST = "launchpad"
"""Name of the example that the first screen shows, if it is among those offered."""

INK = {"brush_add": ADD_COLOR, "brush_protect": PROTECT_COLOR}


def build_app(pipe, examples: Iterable[str | Path] = ()) -> App:
    """Build the app around a pipeline.

    Args:
        pipe: a `SISRMPipeline` that is ready to run.
        examples: image files to offer.

    Returns:
        The app; call `serve` on it.
    """
    facts = describe(pipe)
    shown = ("preset", "device", "dtype", "attention_backend")
    handlers = Handlers(pipe, {key: facts[key] for key in shown})
    with App(title="SISRM", analytics_enabled=False, delete_cache=(1800, 4 * 3600)) as app:
        failed = getattr(pipe, "fallback", None)
        app.translations = {lang: {**TEXTS[lang], "runtime": _runtime_line(facts, lang)} for lang in TEXTS}
        if failed:
            for lang, words in app.translations.items():
                words["fallback"] = text("fallback", lang, running=facts["preset"], **failed)
            gr.Markdown(I18nData("fallback"), elem_id="fallback")
        paths = [str(path) for path in examples]
        if paths:
            shown_first = next((path for path in paths if Path(path).stem == SHOWN_FIRST), paths[0])
            app.showcase = Showcase(handlers, Path(shown_first), new_folder)
        _page(app, handlers, paths)
        add_endpoints(handlers)
        app.handlers = handlers
    return app


def _page(app: App, handlers: Handlers, examples: list[str]) -> None:
    """What a visitor sees."""
    showcase = app.showcase
    session = gr.State([])
    word = I18nData
    defaults = handlers.defaults
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
            run = gr.Button(word("run"), variant="primary", elem_id="run")
        with gr.Column(elem_id="output"):
            comparison = viewer()
            with gr.Row(visible=False, elem_id="result") as result:
                made = gr.HTML(elem_id="made", min_width=220)
                download = gr.DownloadButton(word("download"), scale=0, min_width=180, elem_id="download")
            panel = semantic_panel(INK, bool(handlers.pipe.config.free_text))
            with gr.Accordion(word("details"), open=False, visible=False) as more:
                details = gr.JSON(show_label=False, elem_id="details")
        with gr.Column(elem_id="controls"), gr.Accordion(word("settings"), open=True, elem_id="settings"):
            top_k = _slider(TOP_K, defaults.top_k, "top_k")
            guidance = _slider(GUIDANCE_SCALE, defaults.guidance_scale, "guidance")
            steps = _slider(STEPS, defaults.steps, "steps")
            mff = gr.Checkbox(defaults.mff, label=word("mff"), info=word("mff_info"), elem_id="mff")
            labels = gr.Dropdown(
                sorted(CLASS_NAMES), value=[], multiselect=True, max_choices=TOP_K.high, label=word("labels"), info=word("labels_info"),
                elem_id="labels",
            )  # fmt: skip
            seed = gr.Number(
                defaults.seed,
                label=word("seed"),
                info=word("seed_info"),
                precision=0,
                minimum=SEED.low,
                maximum=SEED.high,
                elem_id="seed",
            )
            randomise = gr.Checkbox(False, label=word("randomise"), elem_id="randomise")
    gr.Markdown(word("runtime"), elem_id="runtime")

    async def answer(
        image, steps, guidance_scale, top_k, mff, seed, randomise, labels, seen, last, request: gr.Request, progress=gr.Progress()
    ):  # fmt: skip
        lang = language(request.headers.get("accept-language"))
        if image is None:
            raise gr.Error(text("no_photo", lang), print_exception=False)
        with errors_for_people(lang):
            source = Path(image["path"]).parent.name if isinstance(image, dict) else ""
            edits = edits_of(seen, source)
            values = {"steps": steps, "guidance_scale": guidance_scale, "top_k": top_k, "mff": mff, "labels": labels}
            values |= {"extra_labels": list(edits.added), "muted_labels": list(edits.muted)}
            settings = handlers.check({**values, "seed": None if randomise is True else seed})
            region = region_of(edits, new_folder())
            done = await run_upscale(handlers, image, settings, progress, lang, region, states=True)
            latest = shown(done, source, lang, edits)
        return {
            comparison: latest.viewer,
            session: remember(last, latest),
            seed_field: done.report["seed"],
            **beside(latest, lang),
        }

    def beside(entry: Shown, lang: str, example: bool = False) -> dict:
        """What is shown around the viewer."""
        return {
            made: panels.made(entry.report, lang, example),
            download: entry.download,
            panel: entry.panel,
            details: entry.report,
            **{area: gr.update(visible=True) for area in hidden_at_first},
        }

    def show_example(request: gr.Request):
        lang = language(request.headers.get("accept-language"))
        done = showcase.result()
        if done is None:
            return {comparison: None}
        entry = shown(done, showcase.source, lang, example=True)
        return {comparison: entry.viewer, **beside(entry, lang, example=True)}

    def look_again(last, chosen: gr.EventData, request: gr.Request):
        entry = again(last, chosen._data.get("id"))
        if entry is None:
            return {details: gr.skip()}
        entry = replace(entry, panel={**entry.panel, "restored": True})
        return beside(entry, language(request.headers.get("accept-language")))

    seed_field, hidden_at_first = seed, [result, more]
    around = [made, download, panel, details, *hidden_at_first]
    event = {
        "fn": answer,
        "inputs": [photo, steps, guidance, top_k, mff, seed, randomise, labels, panel, session],
        "outputs": [comparison, seed, session, *around],
        "show_progress_on": [comparison],
        "api_visibility": "private",
        **AS_SENT,
        **ONE_AT_A_TIME,
    }
    run.click(**event)
    panel.submit(**event)
    quiet = {"show_progress": "hidden", "api_visibility": "private", **AS_SENT}
    comparison.select(look_again, [session], around, **quiet)
    # Edits belong to a photo.
    gr.on([photo.upload, photo.clear], fn=None, js="() => null", outputs=[panel], **quiet)
    if showcase is not None:
        app.load(show_example, None, [comparison, *around], **quiet)
    if picked is not None:
        picked.load_input_event.success(**event)


def _slider(limit: Limit, value: float, name: str) -> gr.Slider:
    return gr.Slider(
        limit.low, limit.high, value, step=limit.step, label=I18nData(name), info=I18nData(f"{name}_info"), elem_id=name
    )


def _runtime_line(facts: dict[str, Any], lang: str) -> str:
    trained = [text(f"part_{name}", lang) for name, learnt in facts["trained_parts"].items() if learnt]
    line = text(
        "runtime", lang, preset=facts["preset"] or "-", device=facts["device"], dtype=facts["dtype"],
        attention=facts["attention_backend"], weights=facts["weights"] or "-",
    )  # fmt: skip
    return line + (text("trained", lang, parts=", ".join(trained)) if trained else text("untrained", lang))
