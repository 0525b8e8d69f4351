"""The settings as a visitor sees them: presets on top, what most people want to set under them, the rest under Advanced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.i18n import I18nData

from sisrm.labels import CLASS_NAMES
from sisrm.ui.results import FORMATS
from sisrm.ui.settings import CONTROLS, Choice, Limit, Settings, Switch, presets
from sisrm.ui.texts import text

PRESETS = ("faithful", "balanced", "vivid")
"""Of `sisrm.ui.settings.presets`, in the order shown."""

_NEW_SEED = "() => Math.floor(Math.random() * 4294967296)"

# The preset whose values these are, or none: what is selected says what will be done, however the values came there.
_PRESET_OF = """(...values) => {
  const known = %s;
  return Object.keys(known).find((name) => known[name].every((value, index) => Math.abs(value - values[index]) < 1e-6)) ?? null;
}"""


@dataclass(frozen=True)
class Controls:
    """The components; `settings` has one for each setting by its name, but for `extra_labels` and `muted_labels`, which the panel has."""

    settings: dict[str, Component]
    preset: gr.Radio
    format: gr.Radio
    randomise: gr.Checkbox

    def updates(self, settings: Settings) -> dict[Component, Any]:
        """What shows these settings."""
        values = settings.as_json()
        return {component: values[name] for name, component in self.settings.items()}


def controls(defaults: Settings, free_text: bool) -> Controls:
    """Build them, to be called inside a `gr.Blocks`.

    Args:
        defaults: what they show first.
        free_text: whether labels may be other words than the 150 class names.
    """
    word, usual = I18nData, defaults.as_json()
    preset = gr.Radio(
        [(text(name), name) for name in PRESETS], value="balanced", label=word("preset"), info=word("preset_info"), elem_id="preset",
    )  # fmt: skip
    first = {name: _control(name, usual) for name in ("detail_strength", "guidance_scale", "steps", "top_k", "mff")}
    with gr.Row(elem_id="seed_row"):
        seed = gr.Number(
            defaults.seed,
            label=word("seed"),
            info=word("seed_info"),
            precision=0,
            minimum=CONTROLS["seed"].low,
            maximum=CONTROLS["seed"].high,
            elem_id="seed",
            scale=3,
            min_width=150,
        )
        dice = gr.Button(word("dice"), elem_id="dice", size="md", scale=1, min_width=110)
    dice.click(None, js=_NEW_SEED, outputs=[seed], api_visibility="private")
    randomise = gr.Checkbox(False, label=word("randomise"), elem_id="randomise")
    with gr.Row():
        scale = _control("output_scale", usual)
        format = gr.Radio(list(FORMATS), value=FORMATS[0], label=word("format"), elem_id="format", min_width=150)
    with gr.Accordion(word("advanced"), open=False, elem_id="advanced"):
        labels = gr.Dropdown(
            sorted(CLASS_NAMES), value=[], multiselect=True, max_choices=CONTROLS["labels"].most, label=word("labels"),
            info=word("labels_info"), elem_id="labels", allow_custom_value=free_text,
        )  # fmt: skip
        names = (
            "start_strength", "controlnet_conditioning_scale", "color_fix", "color_fix_strength", "tile_size", "sca", "sape",
        )  # fmt: skip
        rest = {name: _control(name, usual) for name in names}
    settings = {**first, "seed": seed, "output_scale": scale, "labels": labels, **rest}
    known = presets(defaults)
    follows = [settings[name] for name in known["balanced"]]
    table = json.dumps({name: list(values.values()) for name, values in known.items()})
    gr.on(
        [slider.change for slider in follows], None, js=_PRESET_OF % table, inputs=follows, outputs=[preset],
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    return Controls(settings, preset, format, randomise)


def _control(name: str, values: Mapping[str, Any]) -> Component:
    control, value = CONTROLS[name], values[name]
    said = {"label": I18nData(name), "info": I18nData(f"{name}_info"), "elem_id": name}
    if isinstance(control, Switch):
        return gr.Checkbox(value, **said)
    if isinstance(control, Choice):
        return gr.Radio(list(control.options), value=value, min_width=150, **said)
    assert isinstance(control, Limit)
    return gr.Slider(control.low, control.high, value, step=control.step, **said)
