// A lane per object: where it was found and how surely, what people said about it, and where one looks.

import { changed, css, go, store } from "./store.js";

const canvas = document.getElementById("timeline"), context = canvas.getContext("2d");
const RULER = 18, LANE = 26, LEFT = 92;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const x_of = (frame, wide) => LEFT + (frame + 0.5) / store.work.frames * (wide - LEFT);

export function draw() {
  const work = store.work, ratio = devicePixelRatio, wide = canvas.clientWidth;
  const ids = work ? Object.keys(work.names).map(Number) : [];
  const high = RULER + LANE * Math.max(1, ids.length);
  canvas.style.height = `${high}px`;
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(high * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (!work) return;
  const [ink, soft, line, sure, doubt, ground] = ["--ink", "--soft", "--line", "--sure", "--doubt", "--ground"].map(style);
  context.fillStyle = ground;
  context.fillRect(LEFT, RULER, wide - LEFT, high - RULER);
  ruler(wide, soft, line);
  const doubtful = work.doubtful ?? 0.5, each = Math.max(1, (wide - LEFT) / work.frames);
  ids.forEach((id, row) => lane(id, RULER + row * LANE, wide, { ink, soft, line, sure, doubt, doubtful, each }));
  if (!ids.length) {
    context.fillStyle = soft;
    context.fillText("What you show and what is found appears here, a lane for each object.", LEFT + 8, RULER + 17);
  }
  context.fillStyle = ink;
  const now = x_of(store.frame, wide);
  context.fillRect(Math.round(now) - 1, 4, 2, high - 4);
  context.beginPath();
  context.moveTo(now - 6, 0);
  context.lineTo(now + 6, 0);
  context.lineTo(now, 9);
  context.fill();
  canvas.setAttribute("aria-valuemax", work.frames - 1);
  canvas.setAttribute("aria-valuenow", store.frame);
  canvas.setAttribute("aria-valuetext", said(ids));
}

function ruler(wide, soft, line) {
  const { frames } = store.work;
  let step = 1;
  for (const next of [2, 5, 10]) for (let power = 1; power < 1e6; power *= 10) {
    if (frames / step > (wide - LEFT) / 70 && next * power > step) step = next * power;
  }
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000];
  step = steps.find((one) => frames / one <= (wide - LEFT) / 60) ?? 1e5;
  context.font = "11px system-ui, sans-serif";
  for (let frame = 0; frame < frames; frame += step) {
    const x = x_of(frame, wide);
    context.fillStyle = line;
    context.fillRect(x, 12, 1, RULER - 12);
    context.fillStyle = soft;
    context.fillText(String(frame), Math.min(x + 2, wide - 30), 11);
  }
}

function lane(id, top, wide, look) {
  const { work, scores } = store, middle = top + LANE / 2, bottom = top + LANE - 3;
  context.fillStyle = look.line;
  context.fillRect(0, top + LANE - 1, wide, 1);
  context.fillStyle = css(id);
  context.fillRect(4, top + 7, 11, 11);
  context.fillStyle = id === store.object ? look.ink : look.soft;
  context.font = `${id === store.object ? "600 " : ""}12px system-ui, sans-serif`;
  context.fillText(work.names[id], 20, top + 17, LEFT - 26);
  const columns = new Map(); // pixel -> least score of the frames there
  for (const [frame, found] of Object.entries(scores)) {
    if (!(id in found)) continue;
    const x = Math.round(x_of(Number(frame) - 0.5, wide)), end = Math.max(x + 1, Math.round(x_of(Number(frame) + 0.5, wide)));
    const [score] = columns.get(x) ?? [2];
    columns.set(x, [Math.min(score, found[id] ?? 1), end]);
  }
  for (const [x, [score, end]] of columns) {
    context.fillStyle = score < look.doubtful ? look.doubt : look.sure;
    context.globalAlpha = 0.45;
    context.fillRect(x, top + 3, end - x, LANE - 6);
  }
  context.globalAlpha = 1;
  context.strokeStyle = look.ink;
  context.lineWidth = 1.25;
  context.beginPath();
  let last = -9;
  for (const [x, [score]] of [...columns].sort((a, b) => a[0] - b[0])) {
    const y = bottom - Math.max(0, Math.min(1, score)) * (LANE - 7);
    if (x - last > look.each + 1.5) context.moveTo(x + look.each / 2, y);
    else context.lineTo(x + look.each / 2, y);
    last = x;
  }
  context.stroke();
  context.save();
  context.beginPath();
  for (const [first, end] of work.stale) {
    const left = x_of(first, wide) - look.each / 2;
    context.rect(left, top + 3, x_of(end, wide) + look.each / 2 - left, LANE - 6);
  }
  context.clip();
  context.strokeStyle = look.soft;
  if (work.stale.length) for (let x = LEFT - LANE; x < wide; x += 6) {
    context.beginPath();
    context.moveTo(x, bottom);
    context.lineTo(x + LANE, top);
    context.stroke();
  }
  context.restore();
  context.fillStyle = look.ink;
  for (const [frame, lines] of Object.entries(work.prompts)) {
    if (!lines.some((one) => one.id === id)) continue;
    const x = x_of(Number(frame), wide);
    context.beginPath();
    context.moveTo(x, middle - 7);
    context.lineTo(x + 6, middle);
    context.lineTo(x, middle + 7);
    context.lineTo(x - 6, middle);
    context.fill();
  }
}

function said(ids) { // for screen readers
  const here = store.scores[store.frame] ?? {};
  const words = ids.map((id) => `${store.work.names[id]} ${id in here ? `confidence ${here[id] ?? "unknown"}` : "not followed"}`);
  return `frame ${store.frame} of ${store.work.frames - 1}${words.length ? `: ${words.join(", ")}` : ""}`;
}

function seek(event) {
  if (!store.work) return;
  const rectangle = canvas.getBoundingClientRect(), wide = rectangle.width, x = event.clientX - rectangle.left;
  const row = Math.floor((event.clientY - rectangle.top - RULER) / LANE), ids = Object.keys(store.work.names).map(Number);
  if (event.type === "pointerdown" && row >= 0 && ids[row]) store.object = ids[row];
  const marks = Object.keys(store.work.prompts).map(Number).filter((frame) => Math.abs(x_of(frame, wide) - x) < 6);
  if (x >= LEFT || event.type === "pointermove") go(marks.length && row >= 0 ? marks[0] : (x - LEFT) / (wide - LEFT) * store.work.frames - 0.5);
  changed();
}

export function install() {
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); store.playing = false; seek(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) seek(event); });
}

// Where it is least sure, one place after the other: of the chosen object, or of all.
let visited = [];
export function weakest() {
  const told = store.work.prompts, found = [];
  for (const [frame, scores] of Object.entries(store.scores)) {
    const known = Object.entries(scores).filter(([id, score]) => score !== null && !(told[frame] ?? []).some((line) => line.id === Number(id)));
    if (known.length) found.push([Math.min(...known.map(([, score]) => score)), Number(frame)]);
  }
  found.sort((a, b) => a[0] - b[0]);
  const free = () => found.find(([, frame]) => !visited.some((old) => Math.abs(old - frame) < 6));
  if (!free()) visited = [];
  const next = free();
  if (next) { visited.push(next[1]); go(next[1]); }
  return next;
}
