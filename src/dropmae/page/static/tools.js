// What the pointer does on the frame with each tool.

import { colour, changed, find, prompt_of, shown, mask_of, store, tell_of } from "./store.js";
import { encode, fill, paint, picture } from "./masks.js";
import * as view from "./view.js";

export const TOOLS = {
  box: { key: "X", sign: "▭", name: "Box", kind: "boxes", hint: "Drag a box round the thing to follow; for a cut-out, take Find (D)." },
  find: { key: "D", sign: "◉", name: "Find", kind: "mask", hint: "Click the thing to follow, or drag a box round it: its outline is found." },
  brush: { key: "M", sign: "●", name: "Paint", kind: "mask", hint: "Paint over the thing to follow; [ and ] change the brush." },
  eraser: { key: "R", sign: "○", name: "Erase", kind: "mask", hint: "Take away what was painted too much." },
  polygon: { key: "G", sign: "◇", name: "Outline", kind: "mask", hint: "Click round the thing to follow; Enter or a double click closes the outline." },
  point: { key: "P", sign: "∴", name: "Points", kind: "points", hint: "Click points to follow; Shift and a drag makes a grid of them." },
  hand: { key: "V", sign: "↔", name: "Move", kind: null, hint: "Drag the picture; the wheel zooms, 0 shows all of it." },
};
const { canvas, draft } = view;
let drag = null;
export const held = { space: false };

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
const inside = ([x, y], box, edge = 0) => x >= box[0] - edge && y >= box[1] - edge && x <= box[0] + box[2] + edge && y <= box[1] + box[3] + edge;

// Why a tool cannot be used; empty where it can.
export const refusal = (tool) => (TOOLS[tool].kind && store.work ? store.work.accepts[TOOLS[tool].kind] : "");

export function reset() {
  Object.assign(draft, { box: null, corners: null, mask: null, id: null, grid: null });
  drag = null;
}

function within(point) { return [clamp(point[0], 0, store.work.width), clamp(point[1], 0, store.work.height)]; }

// ---------------------------------------------------------------- boxes

function begin_box(point) {
  const here = shown(store.frame), own = here.get(store.object);
  if (own?.box && !own.mask) {
    const handle = view.handles(own.box).find(([x, y]) => Math.hypot(x - point[0], y - point[1]) < view.near(9));
    if (handle) return { kind: "resize", id: store.object, box: own.box, handle };
  }
  const inner = [...here].filter(([id, one]) => id && one.box && !one.mask && inside(point, one.box, view.near(3)));
  inner.sort(([a], [b]) => (b === store.object) - (a === store.object));
  if (inner.length) return { kind: "move", id: inner[0][0], box: inner[0][1].box };
  return { kind: "box", id: store.object };
}

function moved_box({ kind, box, handle, from }, [x, y]) {
  if (kind === "box" || kind === "find") {
    const [a, b] = within(from), [c, d] = within([x, y]);
    return [Math.min(a, c), Math.min(b, d), Math.abs(c - a), Math.abs(d - b)];
  }
  if (kind === "move") return [box[0] + x - from[0], box[1] + y - from[1], box[2], box[3]];
  let [left, top, right, bottom] = [box[0], box[1], box[0] + box[2], box[1] + box[3]];
  const [, , a, b] = handle;
  if (a === 0) left = Math.min(x, right - 1);
  if (a === 1) right = Math.max(x, left + 1);
  if (b === 0) top = Math.min(y, bottom - 1);
  if (b === 1) bottom = Math.max(y, top + 1);
  return [left, top, right - left, bottom - top];
}

const rounded = (box) => box.map((value) => Math.round(value * 10) / 10);

export function nudge(dx, dy) { // the chosen box, by the arrow keys
  const own = shown(store.frame).get(store.object);
  if (own?.box && !own.mask) tell_of(store.frame, store.object, { box: rounded([own.box[0] + dx, own.box[1] + dy, own.box[2], own.box[3]]) });
}

// ---------------------------------------------------------------- masks

function begin_mask(id) { // a copy of what is there, to be changed
  const { width, height } = store.work, code = shown(store.frame).get(id)?.mask;
  const bytes = code ? mask_of(code).slice() : new Uint8Array(width * height);
  draft.id = id;
  draft.mask = { bytes, canvas: picture(bytes, width, height, colour(id)) };
}

function stroke(from, to) {
  const { width, height } = store.work, value = store.tool === "brush" ? 1 : 0, { bytes, canvas: own } = draft.mask;
  paint(bytes, width, height, from, to, store.radius, value);
  const edge = store.radius + 2, x = clamp(Math.floor(Math.min(from[0], to[0]) - edge), 0, width - 1), y = clamp(Math.floor(Math.min(from[1], to[1]) - edge), 0, height - 1);
  const w = Math.min(width - x, Math.ceil(Math.abs(from[0] - to[0]) + 2 * edge)), h = Math.min(height - y, Math.ceil(Math.abs(from[1] - to[1]) + 2 * edge));
  const image = new ImageData(w, h), [r, g, b] = colour(draft.id);
  for (let row = 0; row < h; row++) for (let column = 0; column < w; column++) {
    if (bytes[(y + row) * width + x + column]) image.data.set([r, g, b, 255], 4 * (row * w + column));
  }
  own.getContext("2d").putImageData(image, x, y);
}

function commit_mask() {
  const { id, mask } = draft, some = mask.bytes.includes(1);
  const code = encode(mask.bytes, store.work.width, store.work.height);
  (some ? tell_of(store.frame, id, { mask: code }) : tell_of(store.frame, id, null)).finally(() => { reset(); changed(); });
}

export function close_polygon() {
  if (!draft.corners) return false;
  const corners = draft.corners;
  if (corners.length < 3) { reset(); changed(); return true; }
  const { width, height } = store.work;
  begin_mask(store.object);
  fill(draft.mask.bytes, width, height, corners);
  draft.mask.canvas = picture(draft.mask.bytes, width, height, colour(store.object));
  draft.corners = null;
  commit_mask();
  return true;
}

// ---------------------------------------------------------------- points

function point_under(point) {
  let found = null, least = view.near(10);
  for (const [id, one] of shown(store.frame)) {
    if (!id) continue;
    (one.points ?? []).forEach((own, row) => {
      const far = own ? Math.hypot(own[0] - point[0], own[1] - point[1]) : Infinity;
      if (far < least) { least = far; found = { id, row }; }
    });
  }
  return found;
}

function rows_of(id) {
  return Math.max(0, ...Object.values(store.work.prompts).flat().filter((line) => line.id === id).map((line) => line.points?.length ?? 0));
}

function tell_points(id, changes) { // {row: [x, y, visible]}
  const old = prompt_of(store.frame, id), count = Math.max(rows_of(id), ...Object.keys(changes).map((row) => Number(row) + 1));
  const points = Array.from({ length: count }, (_, row) => old?.points?.[row] ?? null);
  const visible = Array.from({ length: count }, (_, row) => old?.visible?.[row] ?? 1);
  for (const [row, [x, y, seen]] of Object.entries(changes)) {
    points[row] = [Math.round(x * 10) / 10, Math.round(y * 10) / 10];
    visible[row] = seen ?? visible[row];
  }
  tell_of(store.frame, id, visible.includes(0) ? { points, visible } : { points, visible: undefined });
}

export function toggle_visible() {
  const chosen = store.point, own = chosen && shown(store.frame).get(chosen.id), place = own?.points?.[chosen.row];
  if (place) tell_points(chosen.id, { [chosen.row]: [...place, own.visible?.[chosen.row] ? 0 : 1] });
}

// ---------------------------------------------------------------- the pointer

function down(event) {
  if (!store.work) return;
  canvas.focus({ preventScroll: true });
  const point = view.at(event);
  if (event.button === 0 && !held.space && store.tool !== "hand" && !refusal(store.tool)) view.hold();
  if (event.button === 1 || held.space || store.tool === "hand") {
    drag = { kind: "pan", x: event.clientX, y: event.clientY };
  } else if (event.button !== 0 || refusal(store.tool)) {
    return;
  } else if (store.tool === "box") {
    drag = { ...begin_box(point), from: point };
    store.object = drag.id;
    draft.id = drag.id;
  } else if (store.tool === "find") {
    drag = { kind: "find", id: store.object, from: point };
    draft.id = store.object;
  } else if (store.tool === "brush" || store.tool === "eraser") {
    begin_mask(store.object);
    drag = { kind: "stroke", last: point };
    stroke(point, point);
  } else if (store.tool === "polygon") {
    draft.id = store.object;
    (draft.corners ??= []).push(within(point));
  } else if (store.tool === "point") {
    const found = event.shiftKey ? null : point_under(point);
    if (event.shiftKey) drag = { kind: "grid", from: point };
    else if (found) { store.point = found; store.object = found.id; drag = { kind: "point", ...found }; }
    else if (inside(point, [0, 0, store.work.width, store.work.height])) {
      const row = rows_of(store.object);
      store.point = { id: store.object, row };
      tell_points(store.object, { [row]: point });
    }
  }
  if (drag) canvas.setPointerCapture(event.pointerId);
  event.preventDefault();
  changed();
}

function move(event) {
  if (!store.work) return;
  const point = view.at(event);
  draft.at = point;
  if (drag?.kind === "pan") {
    view.pan(event.clientX - drag.x, event.clientY - drag.y);
    [drag.x, drag.y] = [event.clientX, event.clientY];
  } else if (drag?.kind === "stroke") {
    stroke(drag.last, point);
    drag.last = point;
  } else if (drag?.kind === "grid") {
    draft.grid = moved_box({ kind: "box", from: drag.from }, point);
  } else if (drag?.kind === "point") {
    drag.to = within(point);
  } else if (drag) {
    const box = moved_box(drag, point);
    if (drag.far || Math.hypot(point[0] - drag.from[0], point[1] - drag.from[1]) > view.near(3)) { drag.far = true; draft.box = box; }
  }
  changed();
}

function up(event) {
  if (!drag) return;
  const done = drag, point = view.at(event);
  drag = null;
  if (done.kind === "stroke") return commit_mask();
  if (done.kind === "find") {
    const box = rounded(moved_box(done, point)), boxed = done.far && box[2] >= 2 && box[3] >= 2;
    if (boxed || inside(done.from, [0, 0, store.work.width, store.work.height])) {
      find(store.frame, done.id, boxed ? { box } : { click: done.from.map((value) => Math.round(value * 10) / 10) }).finally(() => { reset(); changed(); });
      return changed();
    }
  }
  if (done.kind === "grid" && draft.grid) {
    const [x, y, w, h] = draft.grid, step = Math.max(2, store.spacing), changes = {}, first = rows_of(store.object);
    for (let b = y + (h % step) / 2; b <= y + h; b += step) for (let a = x + (w % step) / 2; a <= x + w; a += step) changes[first + Object.keys(changes).length] = [a, b];
    if (Object.keys(changes).length) tell_points(store.object, changes);
  } else if (done.kind === "point" && done.to) {
    tell_points(done.id, { [done.row]: done.to });
  } else if (done.far) {
    const box = rounded(moved_box(done, point));
    if (box[2] >= 2 && box[3] >= 2) {
      tell_of(store.frame, done.id, { box }).finally(() => { reset(); changed(); });
      return changed();
    }
  }
  reset();
  changed();
}

export function install() {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", () => { reset(); changed(); });
  canvas.addEventListener("pointerleave", () => { if (!drag) { draft.at = null; changed(); } });
  canvas.addEventListener("dblclick", close_polygon);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("auxclick", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (!store.work) return;
    const rectangle = canvas.getBoundingClientRect();
    view.zoom_by(1.0015 ** -event.deltaY, event.clientX - rectangle.left, event.clientY - rectangle.top);
    changed();
  }, { passive: false });
}
