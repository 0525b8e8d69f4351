"""What a script sees: the endpoints /upscale and /segment; and how a request of any origin is run and refused."""

from __future__ import annotations

import html
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from sisrm.errors import SISRMError
from sisrm.ui.handlers import Handlers, Upscaled
from sisrm.ui.jobs import Job
from sisrm.ui.progress import Update, Watch
from sisrm.ui.settings import GUIDANCE_SCALE, SEED, STEPS, TOP_K, Limit, Settings
from sisrm.ui.texts import language, text
from sisrm.ui.uploads import open_upload, result_name

logger = logging.getLogger(__name__)

ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "model"}
"""Event options: whatever uses the model waits in one queue."""

AS_SENT = {"preprocess": False}
"""Event options: values arrive as they came over the wire and are checked by the handlers. Gradio's own checks let NaN
through, and decode an image before its size is known."""


def add_endpoints(handlers: Handlers) -> None:
    """Add the endpoints to the current `gr.Blocks`; hidden components give them their types, ranges and defaults."""
    defaults = handlers.defaults
    with gr.Row(visible=False):
        image = _image_parameter()
        steps = gr.Slider(STEPS.low, STEPS.high, defaults.steps, step=STEPS.step, label="steps")
        guidance = gr.Slider(
            GUIDANCE_SCALE.low,
            GUIDANCE_SCALE.high,
            defaults.guidance_scale,
            step=GUIDANCE_SCALE.step,
            label="guidance_scale",
        )
        top_k = gr.Slider(TOP_K.low, TOP_K.high, defaults.top_k, step=TOP_K.step, label="top_k")
        mff = gr.Checkbox(defaults.mff, label="mff")
        seed = gr.Number(None, precision=0, minimum=SEED.low, maximum=SEED.high, label="seed; null draws a fresh one")
        result = gr.Image(type="filepath", format="png", label="result")
        overlay = gr.Image(type="filepath", format="png", label="overlay")
        report = gr.JSON(label="report")

    def upscale(
        image, steps, guidance_scale, top_k, mff, seed=None, request: gr.Request = None, progress=gr.Progress()
    ):  # fmt: skip
        lang = _language_of(request)
        with errors_for_people(lang):
            values = {"steps": steps, "guidance_scale": guidance_scale, "top_k": top_k, "mff": mff, "seed": seed}
            done = run_upscale(handlers, image, handlers.check(values), progress, lang)
        return str(done.result), done.report

    def segment(image, top_k, request: gr.Request = None):
        with errors_for_people(_language_of(request)):
            count = TOP_K.check("top_k", top_k)
            done = handlers.segment(open_upload(image, _uploads()), count, new_folder())
        return str(done.overlay), done.report

    common = {"triggers": [], **AS_SENT, **ONE_AT_A_TIME}
    gr.on(
        fn=upscale,
        inputs=[image, steps, guidance, top_k, mff, seed],
        outputs=[result, report],
        api_name="upscale",
        api_description=f"Enlarge an image 4x. steps: {_range(STEPS)}; guidance_scale: {_range(GUIDANCE_SCALE)}; top_k, the most "
        f"labels in the prompt: {_range(TOP_K)}; mff, local control only in the labels' regions: true or false; seed: {_range(SEED)}, or "
        "null for a fresh one. Returns a PNG with the settings embedded, and a JSON report: settings, seed, labels with scores, prompt, "
        "regions, sizes, timings in seconds, preset.",
        **common,
    )
    gr.on(
        fn=segment,
        inputs=[image, top_k],
        outputs=[overlay, report],
        api_name="segment",
        api_visibility="undocumented",
        api_description=f"Find what is in an image, without enlarging it. top_k, the most labels: {_range(TOP_K)}. Returns the photo "
        "with its regions in colour as a PNG, and a JSON report: labels with scores, prompt, regions with colour and area share.",
        **common,
    )


@contextmanager
def errors_for_people(lang: str = "en") -> Iterator[None]:
    """Show our own errors as they are; log any other and show one sentence, never its text."""
    try:
        yield
    except SISRMError as error:
        # Gradio shows the message as HTML, and it may quote a visitor's file name.
        message = html.escape(str(error), quote=False)
        raise gr.Error(message, print_exception=False) from None
    except Exception:
        logger.exception("a request failed")
        raise gr.Error(text("failed", lang), print_exception=False) from None


def run_upscale(handlers: Handlers, image: Any, settings: Settings, progress: gr.Progress, lang: str) -> Upscaled:
    """Read the uploaded image and enlarge it, telling `progress` in words.

    Raises:
        SISRMError: the image cannot be used.
    """
    progress(0, desc=text("reading", lang))

    def work(watch: Watch) -> Upscaled:
        name = result_name(image, settings.output_scale)
        return handlers.upscale(open_upload(image, _uploads()), settings, new_folder(), name, watch)

    for update in Job(work, Watch(handlers.pace)).updates():
        progress(done_share(update), desc=in_words(update, lang))
    return update.result


def done_share(update: Update) -> float:
    """How much of a job's steps is done, 0..1."""
    return update.step / update.steps if update.steps else 0.0


def in_words(update: Update, lang: str) -> str:
    """One line about how a job stands."""
    if update.stage == "denoising" and update.step < update.steps:
        return text("step", lang, step=update.step + 1, total=update.steps)
    return text("looking" if update.stage in ("waiting", "looking") else "finishing", lang)


def _image_parameter() -> gr.Image:
    """An image that is described as one, but lets through whatever is sent, so that the refusal can say what is wrong."""
    image = gr.Image(type="filepath", image_mode=None, label="image")
    image.data_model = None
    image.api_info = ImageData.model_json_schema
    return image


def _range(limit: Limit) -> str:
    return f"{limit.low:g}..{limit.high:.10g}"


def _language_of(request: gr.Request | None) -> str:
    return language(request.headers.get("accept-language")) if request else "en"


def _uploads() -> Path:
    """Gradio's own folder, where uploads arrive and from where results are served; files in it are deleted by age."""
    return Path(gr.utils.get_upload_folder())


def new_folder() -> Path:
    """A folder for one result; no other visitor can guess its name."""
    folder = _uploads() / secrets.token_hex(32)
    folder.mkdir(parents=True)
    return folder
