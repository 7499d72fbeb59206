// The frame with what is on it, at any size: drawing, and places on the screen as pixels of the file.

import { colour, css, mask_of, name_of, recording, shown, stale, store } from "./store.js";
import { picture } from "./masks.js";

export const canvas = document.getElementById("view");
const context = canvas.getContext("2d");
export const draft = { box: null, corners: null, mask: null, id: null, grid: null, at: null, edit: null };
let seen = 0; // the frame whose picture is on the screen
const place = { scale: 1, x: 0, y: 0, fitted: true }; // scale: pixels on the screen per pixel of the file

export function fit() { place.fitted = true; }

function settle() {
  const ratio = devicePixelRatio, { clientWidth: w, clientHeight: h } = canvas, work = store.work;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  if (place.fitted && work) {
    place.scale = Math.min(w / work.width, h / work.height);
    place.x = (w - work.width * place.scale) / 2;
    place.y = (h - work.height * place.scale) / 2;
  }
  return ratio;
}

// (x, y) of the file under a pointer: pixel (row, column) covers [column, column + 1).
export function at(event) {
  const rectangle = canvas.getBoundingClientRect();
  return [(event.clientX - rectangle.left - place.x) / place.scale, (event.clientY - rectangle.top - place.y) / place.scale];
}
// Live pictures wait for who draws on them: on the frame that is seen.
export function hold() {
  if (!recording() || !store.edge) return;
  store.edge = false;
  store.frame = seen;
}
export const near = (pixels) => pixels / place.scale; // so many pixels of the screen, in pixels of the file
export const zoom = () => place.scale;

export function zoom_by(factor, x, y) {
  const least = Math.min(canvas.clientWidth / store.work.width, canvas.clientHeight / store.work.height);
  const scale = Math.max(least, Math.min(16 * Math.max(1, least), place.scale * factor));
  place.fitted = scale <= least * 1.001;
  place.x = x - (x - place.x) * scale / place.scale;
  place.y = y - (y - place.y) * scale / place.scale;
  place.scale = scale;
}
export function pan(dx, dy) { place.x += dx; place.y += dy; place.fitted = false; }

export function handles([x, y, w, h]) {
  return [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]].map(([a, b]) => [x + a * w, y + b * h, a, b]);
}

// ---------------------------------------------------------------- drawing

const pictures = new WeakMap(); // code of a mask -> canvas in its colour

function mask_picture(code, id) {
  if (!pictures.has(code)) {
    const [height, width] = code.size;
    pictures.set(code, picture(mask_of(code), width, height, colour(id)));
  }
  return pictures.get(code);
}

export function draw() {
  const ratio = settle(), work = store.work;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!work) return;
  const side = Math.min(4096, Math.max(work.width, work.height));
  let image = store.frames.get(store.frame, work.frames, side);
  if (image === undefined && recording() && store.edge) image = store.frames.kept.get(seen); // live: no gap until it is here
  else seen = store.frame;
  context.setTransform(ratio * place.scale, 0, 0, ratio * place.scale, ratio * place.x, ratio * place.y);
  context.imageSmoothingEnabled = place.scale < 3;
  if (image instanceof ImageBitmap) context.drawImage(image, 0, 0, work.width, work.height);
  else {
    context.fillStyle = "#777";
    context.fillRect(0, 0, work.width, work.height);
    write(image ?? "…", work.width / 2, work.height / 2, "#fff", true);
  }
  if (store.lines) draw_lines(work);
  if (!store.hidden) {
    const here = shown(seen);
    for (const [id, one] of here) if (!store.hidden_ids.has(id)) draw_mask(id, one);
    for (const [id, one] of here) if (!store.hidden_ids.has(id)) draw_one(id, one, work);
  }
  draw_draft(work);
}

// Coordinates of the file: lines at round numbers, so far apart that their numbers can be read at the edges.
function draw_lines(work) {
  const steps = [1, 2, 5].flatMap((n) => [n, 10 * n, 100 * n, 1000 * n]).sort((a, b) => a - b);
  const step = steps.find((one) => one >= near(64)) ?? 5000, [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const [left, top] = [Math.max(0, -place.x / place.scale), Math.max(0, -place.y / place.scale)];
  const [right, bottom] = [Math.min(work.width, (w - place.x) / place.scale), Math.min(work.height, (h - place.y) / place.scale)];
  const trace = (ink, wide) => {
    context.beginPath();
    for (let x = Math.ceil(left / step) * step; x <= right; x += step) { context.moveTo(x, top); context.lineTo(x, bottom); }
    for (let y = Math.ceil(top / step) * step; y <= bottom; y += step) { context.moveTo(left, y); context.lineTo(right, y); }
    context.strokeStyle = ink;
    context.lineWidth = near(wide);
    context.stroke();
  };
  trace("#10101080", 2.5);
  trace("#ffffffb0", 1);
  for (let x = Math.ceil(left / step) * step; x <= right - near(30); x += step) write(x, x, top, "#fff");
  for (let y = Math.ceil((top + 1) / step) * step; y <= bottom - near(12); y += step) write(y, left, y, "#fff");
}

function draw_mask(id, one) {
  const code = draft.mask && draft.id === id ? null : one.mask;
  if (!code) return;
  context.globalAlpha = store.opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(mask_picture(code, id), 0, 0);
  context.globalAlpha = 1;
}

function draw_one(id, one, work) {
  const doubt = work.doubtful !== null && one.score !== undefined && one.score < work.doubtful && !one.given;
  const chosen = id === store.object;
  if (one.box && !one.mask && !(draft.box && draft.id === id)) draw_box(one.box, id, chosen, doubt);
  if (one.box) label(one, id, doubt);
  (one.points ?? []).forEach((point, n) => {
    if (point) draw_point(point, id, one.visible?.[n] ?? 1, one.said?.[n], store.point?.id === id && store.point.row === n);
  });
}

function label(one, id, doubt) {
  const score = one.given ? "" : one.score !== undefined && one.score !== null ? ` ${one.score.toFixed(2)}${doubt ? "?" : ""}` : "";
  write(`${name_of(id)}${score}${stale(store.frame) && !one.given ? " (out of date)" : ""}`, one.box[0], one.box[1] - near(5), css(id));
}

function draw_box([x, y, w, h], id, chosen, dashed) {
  const wide = near(chosen ? 3 : 2);
  context.lineJoin = "miter";
  context.setLineDash([]);
  context.strokeStyle = "#101010";
  context.lineWidth = wide + near(2);
  if (!dashed) context.strokeRect(x, y, w, h);
  context.strokeStyle = css(id);
  context.lineWidth = wide;
  context.setLineDash(dashed ? [near(9), near(6)] : []);
  context.strokeRect(x, y, w, h);
  context.setLineDash([]);
  if (!chosen || store.tool !== "box") return;
  for (const [hx, hy] of handles([x, y, w, h])) {
    context.fillStyle = "#fff";
    context.strokeStyle = "#101010";
    context.lineWidth = near(1);
    context.fillRect(hx - near(4), hy - near(4), near(8), near(8));
    context.strokeRect(hx - near(4), hy - near(4), near(8), near(8));
  }
}

function draw_point([x, y], id, visible, said, chosen) {
  context.beginPath();
  context.arc(x, y, near(chosen ? 7 : 5), 0, 7);
  context.lineWidth = near(visible ? 2 : 3);
  context.fillStyle = css(id);
  context.strokeStyle = visible ? "#101010" : css(id);
  if (visible) context.fill();
  context.stroke();
  if (said) { context.fillStyle = "#101010"; context.fillRect(x - near(1), y - near(1), near(2), near(2)); }
}

function write(text, x, y, ink, middle = false) {
  context.save();
  const ratio = devicePixelRatio;
  context.setTransform(ratio, 0, 0, ratio, ratio * (place.x + x * place.scale), ratio * (place.y + y * place.scale));
  context.font = "600 13px system-ui, sans-serif";
  const wide = context.measureText(text).width + 8;
  const left = middle ? -wide / 2 : Math.max(0, Math.min(0, canvas.clientWidth - wide - (place.x + x * place.scale)));
  const top = middle ? 0 : Math.max(-13, 17 - (place.y + y * place.scale) - 13);
  context.fillStyle = "#101010cc";
  context.fillRect(left, top - 5, wide, 18);
  context.fillStyle = ink;
  context.fillText(text, left + 4, top + 8);
  context.restore();
}

function draw_draft(work) {
  const id = draft.id ?? store.object ?? 1;
  if (draft.mask) {
    context.globalAlpha = store.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(draft.mask.canvas, 0, 0);
    context.globalAlpha = 1;
  }
  if (draft.box) draw_box(draft.box, id, true, false);
  const outline = draft.grid ?? null;
  if (outline) {
    context.strokeStyle = css(id);
    context.lineWidth = near(1.5);
    context.setLineDash([near(4), near(3)]);
    context.strokeRect(...outline);
    context.setLineDash([]);
  }
  if (draft.corners) {
    context.beginPath();
    draft.corners.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (draft.at) context.lineTo(...draft.at);
    context.strokeStyle = "#101010";
    context.lineWidth = near(4);
    context.stroke();
    context.strokeStyle = css(id);
    context.lineWidth = near(2);
    context.stroke();
    for (const [x, y] of draft.corners) draw_point([x, y], id, 1, false, false);
  }
  if (draft.at && (store.tool === "brush" || store.tool === "eraser")) {
    context.beginPath();
    context.arc(...draft.at, store.radius, 0, 7);
    context.strokeStyle = "#101010";
    context.lineWidth = near(3);
    context.stroke();
    context.strokeStyle = store.tool === "brush" ? css(id) : "#fff";
    context.lineWidth = near(1.5);
    context.stroke();
  }
}
