const find = (selector) => element.querySelector(selector);
const all = JSON.parse(props.texts);
const texts = (navigator.language || 'en').toLowerCase().startsWith('zh') ? all.zh : all.en;
const root = find('.viewer'), stage = find('.stage'), images = [...element.querySelectorAll('.layer img')], split = find('.split');
find('.placeholder').textContent = texts.viewer_empty;
find('.tag-before').textContent = images[1].alt = texts.viewer_before;
find('.tag-after').textContent = images[0].alt = texts.viewer_after;
find('.fit').textContent = texts.viewer_fit;
find('.actual').textContent = texts.viewer_actual;
find('.frames').textContent = texts.viewer_frames;
find('.hint').textContent = texts.viewer_hint;
split.setAttribute('aria-label', texts.viewer_split);
find('.in').setAttribute('aria-label', texts.viewer_in);
find('.out').setAttribute('aria-label', texts.viewer_out);
find('.steps').setAttribute('aria-label', texts.viewer_steps);
find('.recent').setAttribute('aria-label', texts.viewer_recent);

const MOST = 16;
let scale = 1, left = 0, top = 0, atFit = true, lastSize = '';
let shown = null, results = [], boxes = [], boxesOf = null;
const small = new Image();
const size = () => [images[0].naturalWidth || 1, images[0].naturalHeight || 1];
const fitScale = () => Math.min(stage.clientWidth / size()[0], stage.clientHeight / size()[1]);
const inside = (offset, view, content) =>
  content <= view ? (view - content) / 2 : Math.min(0, Math.max(view - content, offset));
// Result pixels in a pixel of the photo.
const enlarged = () => size()[0] / (small.naturalWidth || size()[0]);

function draw() {
  const [width, height] = size();
  left = inside(left, stage.clientWidth, width * scale);
  top = inside(top, stage.clientHeight, height * scale);
  for (const image of images) image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  find('.level').textContent = Math.round(scale * 100) + '%';
  root.classList.toggle('zoomed', scale > fitScale() * 1.001);
  const unit = enlarged() * scale;
  for (const [index, frame] of frames.entries()) {
    frame.hidden = !boxes[index];
    if (!boxes[index]) continue;
    const [x, y, side] = boxes[index];
    Object.assign(frame.style, { left: left + x * unit - 3 + 'px', top: top + y * unit - 3 + 'px', width: side * unit + 6 + 'px', height: side * unit + 6 + 'px' });
  }
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

// The boxes of the paper's figures, to be moved by dragging or with the arrow keys; what is in them is enlarged below.
const frames = [find('.red'), find('.blue')], colors = ['red', 'blue'], boxNames = [texts.viewer_box_red, texts.viewer_box_blue];
function moveBox(index, x, y) {
  const side = boxes[index][2];
  boxes[index] = [Math.max(0, Math.min(small.naturalWidth - side, x)), Math.max(0, Math.min(small.naturalHeight - side, y)), side];
  draw();
  drawCloseups();
}
for (const [index, frame] of frames.entries()) {
  let from = null;
  frame.setAttribute('aria-label', boxNames[index]);
  frame.addEventListener('pointerdown', (event) => {
    event.stopPropagation();
    frame.setPointerCapture(event.pointerId);
    from = [...at(event), ...boxes[index]];
  });
  frame.addEventListener('pointermove', (event) => {
    if (!from) return;
    const [x, y] = at(event), unit = enlarged() * scale;
    moveBox(index, Math.round(from[2] + (x - from[0]) / unit), Math.round(from[3] + (y - from[1]) / unit));
  });
  for (const name of ['pointerup', 'pointercancel']) frame.addEventListener(name, () => { from = null; });
  frame.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 8 : 1;
    moveBox(index, boxes[index][0] + far * step[0], boxes[index][1] + far * step[1]);
  });
}
const TILE = 224;
function drawCloseups() {
  const holder = find('.closeups');
  const kinds = [[texts.viewer_small, small, 1], [texts.viewer_before, images[1], enlarged()], [texts.viewer_after, images[0], enlarged()]];
  if (!boxes.length) return holder.replaceChildren();
  if (!holder.children.length) for (const [index, color] of colors.entries()) for (const [name] of kinds) {
    const figure = document.createElement('figure'), canvas = Object.assign(document.createElement('canvas'), { width: TILE, height: TILE, className: color });
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', boxNames[index].split(/[:：]/)[0] + ': ' + name);
    figure.append(canvas, Object.assign(document.createElement('figcaption'), { textContent: name }));
    holder.append(figure);
  }
  [...holder.querySelectorAll('canvas')].forEach((canvas, index) => {
    const [, image, unit] = kinds[index % 3], [x, y, side] = boxes[Math.floor(index / 3)], context = canvas.getContext('2d');
    if (!image.naturalWidth) return;
    context.imageSmoothingEnabled = image !== small;
    context.imageSmoothingQuality = 'high';
    context.clearRect(0, 0, TILE, TILE);
    context.drawImage(image, x * unit, y * unit, side * unit, side * unit, 0, 0, TILE, TILE);
  });
}

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
  if (!event.target.closest('.line, .box')) atFit ? zoomTo(Math.max(2, fitScale() * 3), ...at(event)) : fit();
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
find('.frames').addEventListener('click', (event) => {
  event.target.setAttribute('aria-pressed', String(!root.classList.toggle('unframed')));
});
new ResizeObserver(() => { if (!root.classList.contains('empty')) { resize(); atFit ? fit() : draw(); } }).observe(stage);
// Zoom, place and line stay as long as the pictures have the same size.
images[0].addEventListener('load', () => {
  const now = size().join('x');
  if (now !== lastSize) { resize(); fit(); setSplit(50); } else draw();
  lastSize = now;
  drawCloseups();
});
images[1].addEventListener('load', drawCloseups);
small.addEventListener('load', () => { draw(); drawCloseups(); });

function pressable(text, url, pressed, press) {
  const button = Object.assign(document.createElement('button'), { type: 'button' });
  button.append(Object.assign(document.createElement('img'), { src: url, alt: '' }), text);
  button.setAttribute('aria-pressed', String(pressed));
  button.addEventListener('click', press);
  return button;
}
function fill(strip, title, buttons) {
  strip.hidden = buttons.length < 2;
  strip.replaceChildren(Object.assign(document.createElement('b'), { textContent: title }), ...buttons);
}
// `name` null: the result itself; otherwise one of its earlier states.
function look(value, name = null) {
  shown = value;
  const state = value.steps.find((step) => step.name === name);
  images[0].src = (state ? state.file : value.after).url;
  images[1].src = value.before.url;
  find('.tag-after').textContent = state ? texts.viewer_after + ', ' + name : texts.viewer_after;
  images[0].alt = find('.tag-after').textContent + (value.title ? ', ' + value.title : '');
  fill(find('.steps'), texts.viewer_steps, [...value.steps, { name: null, file: value.after }].map((step) =>
    pressable(step.name || texts.viewer_result, step.file.url, step.name === name, () => { look(value, step.name); focusIn('.steps'); })));
  fill(find('.recent'), texts.viewer_recent, results.map((result) =>
    pressable(result.title, result.after.url, result === value, () => { change(result); focusIn('.recent'); })));
}
function focusIn(strip) { element.querySelector(strip + ' [aria-pressed="true"]')?.focus(); }
function change(value) {
  // Boxes that were moved stay where they are while the photo is the same.
  if (boxesOf !== value.source) boxes = value.boxes.map((box) => [...box]);
  boxesOf = value.source;
  if (value.small && small.src !== value.small.url) small.src = value.small.url;
  const other = shown && shown !== value;
  look(value);
  if (other) trigger('select', { id: value.id });
}
function show() {
  const value = props.value;
  root.classList.toggle('empty', !value);
  if (!value) { shown = null; return; }
  results = results.filter((result) => !result.example && result.id !== value.id);
  results = [...results.filter((result) => !result.passing), value].slice(-props.last);
  shown = null;
  change(value);
}
watch('value', show);
show();
