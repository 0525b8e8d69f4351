// What the model saw, and what a visitor changes about it. Everything here happens in the browser; the edits travel with the next run as part of
// this component's value: { added: [name], muted: [name], region: PNG as a data URL or null }.
const find = (selector) => element.querySelector(selector);
const all = JSON.parse(props.texts), names = JSON.parse(props.names);
const texts = (navigator.language || 'en').toLowerCase().startsWith('zh') ? all.zh : all.en;
const say = (key, values = {}) => Object.entries(values).reduce((line, [name, value]) => line.replaceAll('{' + name + '}', value), texts['panel_' + key]);
const make = (tag, className, text = '') => Object.assign(document.createElement(tag), { className, textContent: text });
const percent = (share) => share >= 0.01 ? Math.round(100 * share) + '%' : '<1%';
const nothing = () => ({ added: [], muted: [], region: null });
const ROWS = 7;

const panel = find('.panel'), picture = find('.picture'), photo = find('.photo'), strokes = find('.strokes'), pen = strokes.getContext('2d');
let shown = null, edits = nothing(), view = 'regions', classes = null, everyRow = false;

panel.setAttribute('aria-label', say('title'));
for (const [selector, key] of Object.entries({
  '.opacity span': 'opacity', '.brush summary': 'brush', '.size span': 'size', '.wipe': 'wipe', '.brush .note': 'brush_note', '.of-prompt': 'prompt',
  '.of-legend': 'legend', '.of-click': 'click_note', '.add button': 'add', '.undo': 'undo',
})) find(selector).textContent = say(key);
find('.add input').setAttribute('aria-label', say('search'));
find('.add input').placeholder = say('search');
find('datalist').append(...names.map((name) => Object.assign(document.createElement('option'), { value: name })));
strokes.setAttribute('role', 'img');
strokes.setAttribute('aria-label', say('strokes'));

// A row of buttons of which one is pressed.
function choice(holder, keys, label, chosen) {
  holder.setAttribute('aria-label', label);
  const buttons = keys.map((key) => Object.assign(make('button', key, say(key)), { type: 'button' }));
  const press = (key) => { for (const button of buttons) button.setAttribute('aria-pressed', String(button.className === key)); chosen(key); };
  for (const button of buttons) button.addEventListener('click', () => press(button.className));
  holder.append(...buttons);
  return press;
}

const isMuted = (name) => edits.muted.includes(name);
// Labels that the last run was asked to leave out are not in its report, and were predicted all the same.
// Labels without a score are a visitor's own: added here, or in the settings in place of the predicted ones.
const given = () => shown.labels.filter((label) => label.score !== null || !shown.used.added.includes(label.name));
const predicted = () => [...given().map((label) => label.name), ...shown.used.muted];
const prompt = () => [...edits.added, ...predicted().filter((name) => !edits.added.includes(name))].filter((name) => !isMuted(name));

function tell() {
  props.value = { ...props.value, edits };
  draw();
}
// In the prompt: out of it; out of it or never in it: into it.
function toggle(name) {
  if (prompt().includes(name)) edits = without(name);
  else edits = { ...edits, muted: edits.muted.filter((other) => other !== name), added: predicted().includes(name) ? edits.added : [...edits.added, name] };
  tell();
}
const without = (name) => ({
  ...edits, added: edits.added.filter((other) => other !== name), muted: predicted().includes(name) ? [...edits.muted, name] : edits.muted,
});

function drawChips() {
  const rows = [...edits.added.filter((name) => !predicted().includes(name)).map((name) => ({ name, score: null, note: say('yours') })),
    ...given().map((label) => label.score === null ? { ...label, note: say('yours') } : label), ...shown.used.muted.map((name) => ({ name, score: 0, note: '' }))];
  find('.chips').replaceChildren(...rows.map((label) => {
    const chip = make('li', 'chip' + (isMuted(label.name) ? ' off' : '') + (label.score === null ? ' yours' : ''));
    const keep = Object.assign(make('button', 'keep', label.name), { type: 'button' });
    keep.setAttribute('aria-pressed', String(!isMuted(label.name)));
    keep.append(make('span', '', (label.note ?? percent(label.score)) + (label.unsure ? ' ' + say('unsure') : '')));
    keep.addEventListener('click', () => toggle(label.name));
    chip.append(keep);
    if (!isMuted(label.name)) {
      const drop = Object.assign(make('button', 'drop', '\u00d7'), { type: 'button' });
      drop.setAttribute('aria-label', say('remove', { name: label.name }));
      drop.addEventListener('click', () => { edits = without(label.name); tell(); find('.add input').focus(); });
      chip.append(drop);
    }
    return chip;
  }));
}

function drawLegend() {
  const inside = prompt(), rows = everyRow ? shown.regions : shown.regions.slice(0, ROWS);
  find('.legend').replaceChildren(...rows.map((region) => {
    const item = make('li', isMuted(region.name) ? 'off' : ''), row = Object.assign(make('button', ''), { type: 'button' });
    const swatch = make('i', ''), bar = make('span', 'bar'), filled = make('b', '');
    swatch.style.background = region.color;
    filled.style.width = 100 * region.share + '%';
    bar.append(filled);
    row.setAttribute('aria-pressed', String(inside.includes(region.name)));
    row.title = say(inside.includes(region.name) ? 'takes_out' : 'puts_in', { name: region.name });
    row.append(swatch, make('span', 'name', region.name), bar, make('span', 'share', percent(region.share)), make('span', 'sign', inside.includes(region.name) ? '\u2713' : ''));
    row.addEventListener('click', () => toggle(region.name));
    item.append(row);
    return item;
  }));
  find('.more').hidden = everyRow || shown.regions.length <= ROWS;
  find('.more').textContent = say('more', { count: shown.regions.length - ROWS });
}

function draw() {
  panel.classList.toggle('empty', !shown);
  if (!shown) return;
  const focused = element.contains(document.activeElement) ? [...element.querySelectorAll('button')].indexOf(document.activeElement) : -1;
  drawChips();
  drawLegend();
  if (focused >= 0) (element.querySelectorAll('button')[focused] || find('.add input')).focus();
  find('.again').textContent = say(shown.first ? 'begin' : 'again');
  find('.changed p').textContent = say(shown.first ? 'prepared' : 'changed');
  find('.changed').hidden = JSON.stringify(edits) === JSON.stringify(shown.used);
  look();
}

// The colours' own opacity is the slider's; the photo beneath loses its colour by twice that, as in the pictures that the command line makes.
function look() {
  const opacity = find('.strength').value / 100, layers = { regions: find('.regions'), mask: find('.mask') };
  const seen = view === 'mask' && !shown?.mask ? 'regions' : view;
  for (const [name, layer] of Object.entries(layers)) { layer.hidden = name !== seen; layer.style.opacity = name === 'mask' ? Math.min(1, opacity * 1.8) : opacity; }
  photo.style.filter = seen === 'regions' ? `grayscale(${Math.min(1, 2 * opacity)})` : '';
  if (shown) picture.setAttribute('aria-label', say({ regions: 'seen_regions', mask: 'seen_mask' }[seen], { names: shown.regions.slice(0, 5).map((region) => region.name).join(', ') }));
}

function show() {
  const value = props.value;
  if (!value) { shown = null; edits = nothing(); draw(); return; }
  // What was seen when the photo was chosen comes late where a result is there already.
  if (value.first && shown && !shown.first && shown.source === value.source) { props.value = { ...shown, edits }; return; }
  // Edits made while the run went on stay; those of another photo, or of an earlier result that is looked at again, do not.
  const keep = shown && shown.source === value.source && !value.restored && JSON.stringify(edits) !== JSON.stringify(shown.used);
  if (!keep) edits = { ...value.used };
  if (!shown || shown.id !== value.id) everyRow = false;
  shown = value;
  photo.src = value.photo.url;
  find('.regions').src = value.colours.url;
  find('.views .mask').disabled = !value.mask;
  if (value.mask) find('.mask').src = value.mask.url;
  const grey = new Image();
  grey.onload = () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: grey.naturalWidth, height: grey.naturalHeight });
    const context = canvas.getContext('2d');
    context.drawImage(grey, 0, 0);
    classes = context.getImageData(0, 0, canvas.width, canvas.height);
    if (strokes.width !== canvas.width || strokes.height !== canvas.height) Object.assign(strokes, { width: canvas.width, height: canvas.height });
    repaint();
  };
  grey.src = value.classes.url;
  if (keep) tell(); else draw();
}
watch('value', show);

function spot(event) {
  const box = picture.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
function pointedName(event) {
  if (!classes || !shown) return null;
  const [x, y] = spot(event), column = Math.floor(x * classes.width), row = Math.floor(y * classes.height);
  if (column < 0 || row < 0 || column >= classes.width || row >= classes.height) return null;
  return names[classes.data[4 * (row * classes.width + column)]];
}
const brushing = () => find('.brush').open;
picture.setAttribute('role', 'img');
picture.addEventListener('click', (event) => { const name = pointedName(event); if (name && !brushing()) toggle(name); });
picture.addEventListener('pointermove', (event) => {
  const name = brushing() || event.pointerType === 'touch' ? null : pointedName(event), tag = find('.pointed');
  tag.hidden = !name;
  if (!name) return;
  const [x, y] = spot(event);
  tag.textContent = (prompt().includes(name) ? '\u2713 ' : '') + name;
  Object.assign(tag.style, { left: 100 * Math.min(0.85, Math.max(0.15, x)) + '%', top: 100 * Math.max(0.12, y) + '%' });
});
picture.addEventListener('pointerleave', () => { find('.pointed').hidden = true; });

// The brush. What is sent is the strokes' own picture; the server tells adding from protecting by colour.
let kind = 'brush_add', last = null;
const INK = JSON.parse(props.ink);
function stroke(event) {
  const [x, y] = spot(event).map((part, axis) => part * (axis ? strokes.height : strokes.width));
  pen.globalCompositeOperation = kind === 'brush_erase' ? 'destination-out' : 'source-over';
  pen.strokeStyle = INK[kind] || '#000';
  pen.lineWidth = Math.max(strokes.width, strokes.height) * find('.width').value / 100;
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  pen.moveTo(...(last || [x, y]));
  pen.lineTo(x, y + 0.01);
  pen.stroke();
  last = [x, y];
}
picture.addEventListener('pointerdown', (event) => {
  if (!brushing() || !shown || event.button > 0) return;
  picture.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
picture.addEventListener('pointermove', (event) => { if (last) stroke(event); });
for (const name of ['pointerup', 'pointercancel']) picture.addEventListener(name, () => {
  if (!last) return;
  last = null;
  const painted = pen.getImageData(0, 0, strokes.width, strokes.height).data.some((level, index) => index % 4 === 3 && level > 127);
  edits = { ...edits, region: painted ? strokes.toDataURL('image/png') : null };
  tell();
});
function repaint() {
  pen.clearRect(0, 0, strokes.width, strokes.height);
  if (!edits.region) return;
  const drawn = new Image();
  drawn.onload = () => { pen.globalCompositeOperation = 'source-over'; pen.drawImage(drawn, 0, 0, strokes.width, strokes.height); };
  drawn.src = edits.region;
}
find('.wipe').addEventListener('click', () => { edits = { ...edits, region: null }; repaint(); tell(); });
find('.brush').addEventListener('toggle', () => panel.classList.toggle('brushing', brushing()));

choice(find('.views'), ['regions', 'mask'], say('views'), (key) => { view = key; look(); })('regions');
choice(find('.kinds'), ['brush_add', 'brush_protect', 'brush_erase'], say('kinds'), (key) => { kind = key; })('brush_add');
find('.strength').addEventListener('input', look);
find('.more').addEventListener('click', () => { everyRow = true; drawLegend(); });
find('.add').addEventListener('submit', (event) => {
  event.preventDefault();
  const field = find('.add input'), wanted = field.value.trim().toLowerCase(), note = find('.of-add');
  const name = names.find((known) => known.toLowerCase() === wanted) || (props.free_text ? wanted : null);
  note.textContent = wanted && !name ? say('unknown', { name: field.value.trim() }) : '';
  if (!name || !shown) return;
  field.value = '';
  if (!prompt().includes(name)) toggle(name);
});
find('.again').addEventListener('click', () => trigger('submit'));
find('.undo').addEventListener('click', () => { edits = { ...shown.used }; repaint(); tell(); });
show();
