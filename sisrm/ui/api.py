"""What a script sees: the endpoints /upscale, /segment and /preview. Their names, order and defaults are stable: new ones come after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from sisrm.ui.crops import CENTRE, SIDE, preview
from sisrm.ui.endpoints import (
    AS_SENT,
    errors_for_people,
    finished,
    in_line,
    language_of,
    result_folder,
    uploads,
)
from sisrm.ui.handlers import Handlers, Segmented, Upscaled
from sisrm.ui.jobs import Job
from sisrm.ui.parameters import image_parameter, parameter, setting_parameters, with_parameters
from sisrm.ui.progress import Watch
from sisrm.ui.regions import ADD_COLOR, PROTECT_COLOR, read_region
from sisrm.ui.results import FORMAT, FORMATS, named, require_room
from sisrm.ui.settings import CONTROLS, TOP_K, Settings
from sisrm.ui.uploads import open_upload, result_name

FEWEST_VALUES = {"upscale": 6}
"""Endpoint -> how many values an old script sends, by position; those after take their defaults."""

_REGION = f"region: null, or a painted image laid over the photo: {ADD_COLOR} adds local control, {PROTECT_COLOR} protects from it"
_SETTINGS = (
    "; ".join(f"{name}: {control.accepted}" for name, control in CONTROLS.items()) + ", or null for a fresh seed"
)
_REPORT = (
    "a JSON report: settings, seed, labels with scores, prompt, regions with colour and area share, input_size, output_size, tiles, "
    "timings in seconds, notices (warnings, as code and text), preset, device, version, versions, weights_hash"
)


def add_endpoints(handlers: Handlers) -> None:
    """Add the endpoints to the current `gr.Blocks`."""
    with gr.Row(visible=False):
        image = image_parameter()
        settings = setting_parameters(handlers.defaults)
        region = image_parameter("region", _REGION)
        format = parameter("format", FORMAT, FORMATS[0])
        x, y = (parameter(name, CENTRE, 0.5) for name in "xy")
        result = gr.Image(type="filepath", format="png", label="result")
        overlay = gr.Image(type="filepath", format="png", label="overlay")
        report = gr.JSON(label="report")

    async def upscale(image, *values) -> tuple[str, dict]:
        *values, region, format, request, progress = values
        lang = language_of(request)
        with errors_for_people(lang):
            checked = handlers.check(dict(zip(CONTROLS, values, strict=True)))
            format = FORMAT.check("format", format)

            def work(watch: Watch) -> Upscaled:
                photo = open_upload(image, uploads())
                require_room(format, photo.size, checked.output_scale)
                name = named(Path(result_name(image, checked.output_scale)).stem, format)
                painted = _region(region)
                with result_folder() as folder:
                    return handlers.upscale(photo, checked, folder, name, watch, painted)

            done = await finished(Job(work, Watch(handlers.pace)), progress, lang)
        return str(done.result), done.report

    async def crop(image, x, y, *values) -> tuple[str, dict]:
        *values, region, request, progress = values
        lang = language_of(request)
        with errors_for_people(lang):
            checked: Settings = handlers.check(dict(zip(CONTROLS, values, strict=True)))
            at = CENTRE.check("x", x), CENTRE.check("y", y)

            def work(watch: Watch) -> Upscaled:
                photo = open_upload(image, uploads())
                name = f"{Path(result_name(image, checked.output_scale)).stem}-preview.png"
                painted = _region(region)
                with result_folder() as folder:
                    return preview(handlers, photo, checked, at, folder, name, watch, painted)

            done = await finished(Job(work, Watch(handlers.pace)), progress, lang)
        return str(done.result), done.report

    async def segment(image, top_k, request, progress) -> tuple[str, dict]:
        lang = language_of(request)
        with errors_for_people(lang):
            count = TOP_K.check("top_k", top_k)

            def work(watch: Watch) -> Segmented:
                photo = open_upload(image, uploads())
                with result_folder() as folder:
                    return handlers.segment(photo, count, folder, watch)

            done = await finished(Job(work, Watch(handlers.pace)), progress, lang)
        return str(done.overlay), done.report

    def add(fn: Callable, inputs: dict[str, Any], picture: gr.Image, description: str, **options: Any) -> None:
        fn.__name__ = options["api_name"]  # which MCP tools are named after
        gr.on(
            triggers=[],
            fn=with_parameters(fn, inputs),
            inputs=list(inputs.values()),
            outputs=[picture, report],
            api_description=description,
            **options,
            **AS_SENT,
            **in_line(handlers.seats.count),
        )

    add(
        upscale,
        {"image": image, **settings, "region": region, "format": format},
        result,
        f"Enlarge an image 4x (or 2x, 3x). {_SETTINGS}; {_REGION}; format: {FORMAT.accepted}. Returns the enlarged image with the settings "
        f"embedded, and {_REPORT}.",
        api_name="upscale",
    )
    # One public endpoint only, so that a client may leave out `api_name`; `App.get_api_info` shows all of them.
    add(
        segment,
        {"image": image, "top_k": settings["top_k"]},
        overlay,
        f"Find what is in an image, without enlarging it. top_k, the most labels: {TOP_K.accepted}. Returns the photo with its regions in "
        "colour as a PNG, and a JSON report: labels with scores, prompt, regions with colour and area share.",
        api_name="segment",
        api_visibility="undocumented",
    )
    add(
        crop,
        {"image": image, "x": x, "y": y, **settings, "region": region},
        result,
        f"Enlarge one patch of {SIDE} x {SIDE} pixels, as a sample of what /upscale would make of it. x, y: the middle of the patch, from "
        f"0 (left, top) to 1 (right, bottom). {_SETTINGS}; {_REGION}. The labels are those of the whole image. Returns the patch enlarged, "
        f"and {_REPORT}; and crop: left, top, width, height in pixels of the image.",
        api_name="preview",
        api_visibility="undocumented",
    )


def _region(value: Any):
    return None if value is None else read_region(open_upload(value, uploads(), "region"))
