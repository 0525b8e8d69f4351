"""The app's looks: a calm theme in slate and teal, for light and dark, with the fonts that the visitor's system has."""

from __future__ import annotations

import gradio as gr

FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """The theme. Fonts are names only, so that no page of the app asks a third party for a file."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=FONT,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        input_background_fill_dark="*neutral_800",
        color_accent="*primary_600",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )


CSS = """
html { scrollbar-gutter: stable; }
.gradio-container { max-width: 1240px !important; margin: 0 auto; padding: 20px clamp(14px, 2.4vw, 28px) !important; overflow-x: hidden; }
.gradio-container .main { padding: 0 !important; }
.gradio-container .html-container { padding: 0 !important; }
#heading { gap: 2px; }
#heading h1 { margin: 0; font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; }
#heading p { margin: 0; font-size: 16px; color: var(--body-text-color-subdued); }
#workspace { display: grid; grid-template: "input output" auto "controls output" 1fr / minmax(0, 5fr) minmax(0, 7fr); gap: 16px 22px; }
#workspace > * { min-width: 0 !important; }
#input { grid-area: input; } #output { grid-area: output; } #controls { grid-area: controls; }
@media (max-width: 820px) { #workspace { grid-template: "input" "output" "controls" / minmax(0, 1fr); } }
#result { align-items: center; gap: 10px; }
@media (max-width: 600px) { #made { flex: 0 0 100%; } #result button { flex: 1; } }
#download { font-weight: 600; }
#semantics { padding: 4px 0; }
input[type="range"]:not(.split)::-webkit-slider-thumb { box-shadow: 0 0 0 1px var(--neutral-400), 0 1px 3px #0004; }
input[type="range"]:not(.split)::-moz-range-thumb { box-shadow: 0 0 0 1px var(--neutral-400), 0 1px 3px #0004; }
.dark input[type="range"] { --neutral-200: var(--neutral-700); }
#examples .gallery:has(> .gallery-item) { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 8px; }
#examples .gallery-item { width: 100%; aspect-ratio: 1; }
#examples .gallery-item > *, #examples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#start { gap: 8px; } #run { min-height: 48px; font-size: 17px; } #sample { min-height: 48px; }
#dice { align-self: flex-end; min-height: 42px; }
#live:has(.progress-text) { min-height: 40px; }
.card { display: flex; gap: 12px; align-items: center; padding: 8px; border: 1px solid var(--border-color-primary); border-radius: 10px;
  background: var(--block-background-fill); }
.card img { width: 112px; height: 84px; margin: 0; object-fit: cover; border-radius: 6px; }
.card .said { flex: 1; min-width: 0; } .card p { margin: 0; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.card .left { min-height: 1.4em; color: var(--body-text-color-subdued); }
.card .bar { height: 6px; margin-top: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.card .bar b { display: block; height: 100%; background: var(--slider-color); transition: width 0.3s; }
.variants { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px; }
@media (max-width: 600px) { .variants { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.variants figure { margin: 0; } .variants img { width: 100%; margin: 0 0 4px; border: 3px solid; border-radius: 4px; }
.variants figcaption { font-size: 12.5px; color: var(--body-text-color-subdued); }
.variants b { display: block; color: var(--body-text-color); }
#runtime p { font-size: 12.5px; color: var(--body-text-color-subdued); margin: 0; }
.made, .notice { margin: 0; font-size: 13.5px; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
"""
