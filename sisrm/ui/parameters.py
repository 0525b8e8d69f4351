"""The endpoints' parameters: hidden components that give them their types, ranges and defaults, all from `sisrm.ui.settings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData

from sisrm.ui.settings import CONTROLS, Choice, Control, Limit, Names, Settings, Switch


def setting_parameters(defaults: Settings) -> dict[str, Component]:
    """Name of a setting -> the component that describes it, in the order of `Settings`; to be called inside a `gr.Blocks`."""
    usual = defaults.as_json()
    return {name: parameter(name, control, usual[name]) for name, control in CONTROLS.items()}


def parameter(name: str, control: Control, default: Any) -> Component:
    """A component of the kind that a value has; the label says what is accepted."""
    label = f"{name}: {control.accepted}"
    if name == "seed":
        return gr.Number(
            None, precision=0, minimum=control.low, maximum=control.high, label=f"{label}; null draws a fresh one"
        )
    if isinstance(control, Limit):
        return gr.Slider(control.low, control.high, default, step=control.step, label=label)
    if isinstance(control, Switch):
        return gr.Checkbox(default, label=label)
    if isinstance(control, Choice):
        return gr.Dropdown(list(control.options), value=default, label=label)
    return _names(control, label)


def image_parameter(name: str = "image", label: str | None = None) -> gr.Image:
    """An image that is described as one, but lets through whatever is sent, so that the refusal can say what is wrong."""
    image = gr.Image(type="filepath", image_mode=None, label=label or name)
    image.data_model = None
    image.api_info = ImageData.model_json_schema
    return image


def with_parameters(fn: Callable, names: Mapping[str, Component]) -> Callable:
    """Give an endpoint's function the parameters that Gradio reads their names from.

    Args:
        fn: called with a value for each name, then the request and Gradio's progress.
        names: of the parameters, with their components; those without a value in their component are None when left out, but for the first.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first, *others = names
    fn.__signature__ = inspect.Signature(
        [
            inspect.Parameter(first, kind),
            *(inspect.Parameter(name, kind, default=None) for name in others),
            inspect.Parameter("request", kind, default=None, annotation=gr.Request),
            inspect.Parameter("progress", kind, default=gr.Progress()),
        ]
    )
    fn.__annotations__ = {"request": gr.Request}
    return fn


def _names(control: Names, label: str) -> gr.Dropdown:
    names = gr.Dropdown([], value=[], multiselect=True, allow_custom_value=True, label=label)
    names.api_info = lambda: {"type": "array", "items": {"type": "string"}, "maxItems": control.most}
    return names
