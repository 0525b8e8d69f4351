"""The before/after viewer: two pictures of one size under a dividing line, with zoom and pan by buttons, keys, mouse and fingers.

Gradio's own ImageSlider zooms with the wheel only, says so nowhere, and its line cannot be moved from the keyboard.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData

from sisrm.ui.texts import TEXTS

_TEMPLATE = """
<div class="viewer empty">
  <div class="stage" tabindex="-1">
    <p class="placeholder"></p>
    <div class="layer after"><img alt="" draggable="false"></div>
    <div class="layer before"><img alt="" draggable="false"></div>
    <span class="tag tag-before"></span><span class="tag tag-after"></span>
    <div class="line"><div class="knob">&#x2194;</div></div>
  </div>
  <div class="tools">
    <input type="range" class="split" min="0" max="100" step="0.5" value="50">
    <div class="zoom">
      <button type="button" class="out">&minus;</button><output class="level"></output><button type="button" class="in">+</button>
      <button type="button" class="fit"></button><button type="button" class="actual"></button>
    </div>
  </div>
  <p class="hint"></p>
</div>
"""

_STYLE = """
.viewer { --split: 50%; }
.stage { position: relative; overflow: hidden; width: 100%; height: 400px; border-radius: 10px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  touch-action: pan-y; cursor: grab; user-select: none; -webkit-user-select: none; }
.empty .stage { cursor: default; height: min(56vw, 440px); border-style: dashed; }
.zoomed .stage { touch-action: none; }
.moving .stage { cursor: grabbing; }
.placeholder { position: absolute; inset: 0; display: none; align-items: center; justify-content: center; margin: 0;
  padding: 0 15%; text-align: center; color: var(--body-text-color-subdued); }
.empty .placeholder { display: flex; }
.empty .layer, .empty .line, .empty .tag { display: none; }
.empty .tools, .empty .hint { display: none; }
.layer { position: absolute; inset: 0; }
.layer img { position: absolute; left: 0; top: 0; transform-origin: 0 0; max-width: none; margin: 0; }
.layer.before { clip-path: inset(0 calc(100% - var(--split)) 0 0); }
.layer.after { clip-path: inset(0 0 0 var(--split)); }
.line { position: absolute; top: 0; bottom: 0; left: var(--split); width: 40px; margin-left: -20px; cursor: ew-resize; touch-action: none; }
.line::before { content: ""; position: absolute; left: 19px; top: 0; bottom: 0; width: 2px; background: #fff; box-shadow: 0 0 4px #0009; }
.knob { position: absolute; left: 4px; top: calc(50% - 16px); width: 32px; height: 32px; border-radius: 50%; background: #fff; color: #222;
  display: flex; align-items: center; justify-content: center; font-size: 18px; box-shadow: 0 1px 4px #0008; }
.tag { position: absolute; top: 10px; padding: 2px 9px; border-radius: 99px; font-size: 12px;
  color: #fff; background: #000a; pointer-events: none; }
.tag-before { left: 10px; } .tag-after { right: 10px; }
.tools { display: flex; flex-wrap: wrap; gap: 10px 16px; align-items: center; margin-top: 10px; }
.split { flex: 1 1 160px; min-width: 120px; height: 32px; margin: 0; appearance: none; background: transparent; cursor: pointer; }
.split::-webkit-slider-runnable-track { height: 6px; border-radius: 3px; background: linear-gradient(to right,
  var(--slider-color) var(--split), var(--border-color-primary) var(--split)); }
.split::-moz-range-track { height: 6px; border-radius: 3px; background: var(--border-color-primary); }
.split::-moz-range-progress { height: 6px; border-radius: 3px; background: var(--slider-color); }
.split::-webkit-slider-thumb { appearance: none; width: 18px; height: 18px; margin-top: -6px; border-radius: 50%; background: #fff;
  box-shadow: 0 0 0 1px var(--neutral-400), 0 1px 3px #0004; }
.split::-moz-range-thumb { width: 18px; height: 18px; border: 0; border-radius: 50%; background: #fff;
  box-shadow: 0 0 0 1px var(--neutral-400), 0 1px 3px #0004; }
.zoom { display: flex; gap: 6px; align-items: center; }
.zoom button { margin: 0; min-width: 36px; height: 36px; padding: 0 9px; border-radius: 8px; border: 1px solid var(--border-color-primary);
  background: var(--button-secondary-background-fill); color: var(--body-text-color); font: inherit; cursor: pointer; }
.zoom button:hover { background: var(--button-secondary-background-fill-hover); }
.zoom button:focus-visible, .split:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.level { min-width: 48px; text-align: center; font-variant-numeric: tabular-nums; font-size: 13px; color: var(--body-text-color-subdued); }
.hint { margin: 6px 0 0; font-size: 12px; color: var(--body-text-color-subdued); }
"""

_SCRIPT = """
const find = (selector) => element.querySelector(selector);
const all = JSON.parse(props.texts);
const texts = (navigator.language || 'en').toLowerCase().startsWith('zh') ? all.zh : all.en;
const root = find('.viewer'), stage = find('.stage'), images = [...element.querySelectorAll('.layer img')], split = find('.split');
find('.placeholder').textContent = texts.viewer_empty;
find('.tag-before').textContent = images[1].alt = texts.viewer_before;
find('.tag-after').textContent = images[0].alt = texts.viewer_after;
find('.fit').textContent = texts.viewer_fit;
find('.actual').textContent = texts.viewer_actual;
find('.hint').textContent = texts.viewer_hint;
split.setAttribute('aria-label', texts.viewer_split);
find('.in').setAttribute('aria-label', texts.viewer_in);
find('.out').setAttribute('aria-label', texts.viewer_out);

const MOST = 16;
let scale = 1, left = 0, top = 0, atFit = true;
const size = () => [images[0].naturalWidth || 1, images[0].naturalHeight || 1];
const fitScale = () => Math.min(stage.clientWidth / size()[0], stage.clientHeight / size()[1]);
const inside = (offset, view, content) =>
  content <= view ? (view - content) / 2 : Math.min(0, Math.max(view - content, offset));

function draw() {
  const [width, height] = size();
  left = inside(left, stage.clientWidth, width * scale);
  top = inside(top, stage.clientHeight, height * scale);
  for (const image of images) image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  find('.level').textContent = Math.round(scale * 100) + '%';
  root.classList.toggle('zoomed', scale > fitScale() * 1.001);
}
// As high as the picture at the stage's width, within what a screen shows at once.
function resize() {
  const height = stage.clientWidth * size()[1] / size()[0];
  stage.style.height = Math.round(Math.max(200, Math.min(height, 620, innerHeight * 0.72))) + 'px';
}
function fit() { atFit = true; scale = fitScale(); draw(); }
function zoomTo(next, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  next = Math.max(fitScale(), Math.min(MOST, next));
  left = x - (x - left) * next / scale;
  top = y - (y - top) * next / scale;
  scale = next;
  atFit = scale <= fitScale() * 1.001;
  draw();
}
function setSplit(percent) {
  percent = Math.max(0, Math.min(100, percent));
  root.style.setProperty('--split', percent + '%');
  split.value = percent;
}
function at(event) { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }

const pointers = new Map();
let mode = null, pinch = 0;
stage.addEventListener('pointerdown', (event) => {
  if (root.classList.contains('empty') || event.button > 0) return;
  pointers.set(event.pointerId, at(event));
  const onLine = event.target.closest('.line');
  mode = pointers.size === 2 ? 'pinch' : onLine || atFit ? 'split' : 'pan';
  if (mode === 'pinch') { const [a, b] = [...pointers.values()]; pinch = Math.hypot(a[0] - b[0], a[1] - b[1]); }
  if (mode === 'pan') root.classList.add('moving');
  if (event.pointerType === 'mouse' || onLine || !atFit) stage.setPointerCapture(event.pointerId);
});
stage.addEventListener('pointermove', (event) => {
  if (!pointers.has(event.pointerId)) return;
  const previous = pointers.get(event.pointerId), current = at(event);
  pointers.set(event.pointerId, current);
  if (mode === 'split') setSplit(100 * current[0] / stage.clientWidth);
  if (mode === 'pan') { left += current[0] - previous[0]; top += current[1] - previous[1]; draw(); }
  if (mode === 'pinch' && pointers.size === 2) {
    const [a, b] = [...pointers.values()], distance = Math.hypot(a[0] - b[0], a[1] - b[1]);
    zoomTo(scale * distance / (pinch || distance), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    pinch = distance;
  }
});
for (const name of ['pointerup', 'pointercancel']) stage.addEventListener(name, (event) => {
  pointers.delete(event.pointerId);
  mode = null;
  root.classList.remove('moving');
});
stage.addEventListener('dblclick', (event) => {
  if (!event.target.closest('.line')) atFit ? zoomTo(Math.max(2, fitScale() * 3), ...at(event)) : fit();
});
// The plain wheel keeps scrolling the page; a trackpad's pinch arrives as a wheel with Ctrl.
stage.addEventListener('wheel', (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoomTo(scale * Math.exp(-event.deltaY * 0.01), ...at(event));
}, { passive: false });
split.addEventListener('input', () => setSplit(Number(split.value)));
find('.in').addEventListener('click', () => zoomTo(scale * 1.5));
find('.out').addEventListener('click', () => zoomTo(scale / 1.5));
find('.fit').addEventListener('click', fit);
find('.actual').addEventListener('click', () => zoomTo(1));
new ResizeObserver(() => { if (!root.classList.contains('empty')) { resize(); atFit ? fit() : draw(); } }).observe(stage);
images[0].addEventListener('load', () => { resize(); fit(); setSplit(50); });

function show() {
  const value = props.value;
  root.classList.toggle('empty', !value);
  if (!value) return;
  images[0].src = value.after.url;
  images[1].src = value.before.url;
}
watch('value', show);
show();
"""


def viewer() -> gr.HTML:
    """An empty viewer; give it the value of `pair` to show two pictures."""
    words = {
        lang: {key: word for key, word in words.items() if key.startswith("viewer_")} for lang, words in TEXTS.items()
    }
    return gr.HTML(
        value=None,
        html_template=_TEMPLATE,
        css_template=_STYLE,
        js_on_load=_SCRIPT,
        elem_id="viewer",
        texts=json.dumps(words),
    )


def pair(before: Path, after: Path) -> dict[str, dict]:
    """The viewer's value for two picture files of the same size."""
    return {"before": FileData(path=str(before)).model_dump(), "after": FileData(path=str(after)).model_dump()}
