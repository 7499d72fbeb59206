// What the page knows: the work as the server has it, answers as they come, and what people look at now.

import { ask, json, lines } from "./api.js";
import { decode } from "./masks.js";
import { Frames } from "./frames.js";

const COLOURS = [[255, 255, 64], [255, 25, 217], [64, 255, 191], [166, 110, 0], [41, 166, 145], [170, 0, 255],
  [230, 23, 92], [143, 204, 20]];
const MOST = 300; // answers that are kept here; others are asked for again

export const colour = (id) => COLOURS[(id - 1) % COLOURS.length];
export const css = (id) => `rgb(${colour(id).join(" ")})`;

export const store = {
  work: null, frame: 0, object: null, tool: "box", hidden: false, opacity: 0.45, radius: 12, spacing: 24, lines: false,
  rounds: 0, answers: new Map(), scores: {}, frames: null, unseen: new Set(), skipped: {},
  hidden_ids: new Set(), edge: true, running: null, progress: null, error: "", message: "", point: null, playing: false,
};
const listeners = [];
let waiting = false;

export function listen(listener) { listeners.push(listener); }

export function changed() { // all that shows it is drawn once, before the next picture on the screen
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; for (const listener of listeners) listener(); });
}

export function fail(error) {
  if (error.name === "AbortError") return;
  store.error = error.message;
  changed();
}

export function say(message) { store.message = message; changed(); }

export function use(work, fresh = false) {
  const before = store.work;
  store.work = work;
  store.error = "";
  if (work.scores) store.scores = work.scores;
  if (fresh || before?.key !== work.key) {
    store.frames = new Frames(work.key, changed);
    store.answers.clear();
    store.hidden_ids = new Set();
    store.frame = Math.min(work.question ?? Math.min(...Object.keys(work.prompts).map(Number), 0), work.frames - 1);
    store.object = null;
    store.message = "";
    store.skipped = {};
    store.edge = true;
    if (recording()) watch(work.key);
    location.hash = work.key;
    document.title = `${work.name} – dropmae`;
  }
  const ids = Object.keys(work.names).map(Number);
  if (store.object === null || (!ids.includes(store.object) && store.object !== fresh_id())) store.object = ids[0] ?? 1;
  changed();
}

// Whether frames are still coming, from a camera.
export const recording = () => store.work?.live?.ended === null;

// How the recording goes on; the newest frame is shown unless people look at another one.
async function watch(key) {
  const control = new AbortController();
  try {
    const answer = await ask(`/works/${key}/live`, { signal: control.signal });
    for await (const line of lines(answer)) {
      if (store.work?.key !== key) { control.abort(); return; }
      Object.assign(store.work, { live: line, frames: line.frames, fps: line.fps });
      if (store.edge && !store.running) store.frame = line.frames - 1;
      if (line.ended !== null) break;
      changed();
    }
    await store.running?.ended;
    await refresh();
    store.edge = false;
    if (!store.error) say(`The recording has ended, as ${store.work.live.ended}. It is a video as any other now; S saves it.`);
  } catch (error) { fail(error); }
}

// Ends the recording.
export async function cut() {
  if (!recording()) return;
  try { await json(`/works/${store.work.key}/stop`, { json: {} }); } catch (error) { fail(error); }
}

export const fresh_id = () => Math.max(0, ...Object.keys(store.work?.names ?? {}).map(Number)) + 1;
export const name_of = (id) => store.work.names[id] ?? `object ${id}`;
export const prompt_of = (frame, id) => (store.work.prompts[frame] ?? []).find((line) => line.id === id);

export function go(frame) {
  if (!store.work) return;
  const next = Math.max(0, Math.min(store.work.frames - 1, Math.round(frame)));
  store.edge = recording() && next === store.work.frames - 1;
  if (next !== store.frame) { store.frame = next; store.point = null; store.message = ""; }
  changed();
}

// ---------------------------------------------------------------- answers

export function keep(line) {
  store.answers.delete(line.frame);
  store.answers.set(line.frame, line);
  while (store.answers.size > MOST) store.answers.delete(store.answers.keys().next().value);
}

function answer_of(frame) {
  const found = store.answers.get(frame);
  if (found || !(frame in store.scores) || store.unseen.has(frame)) return found;
  const first = Math.max(0, frame - 8), last = frame + 24, numbers = [];
  for (let n = first; n <= last; n++) numbers.push(n);
  numbers.forEach((n) => store.unseen.add(n));
  const key = store.work.key;
  ask(`/works/${key}/answers?from=${first}&to=${last}`).then(async (answer) => {
    for await (const line of lines(answer)) if (store.work.key === key && !store.answers.has(line.frame)) keep(line);
  }).catch(fail).finally(() => { numbers.forEach((n) => store.unseen.delete(n)); changed(); });
  return undefined;
}

// {id: {box, mask, points, score, given}} of a frame: what people said there, and what was found.
export function shown(frame) {
  const found = new Map(), answer = answer_of(frame);
  for (const line of answer?.targets ?? []) {
    if (line.id === undefined && !line.points) continue;
    found.set(line.id ?? 0, { ...line, given: answer.given });
  }
  for (const line of store.work?.prompts[frame] ?? []) {
    const old = found.get(line.id) ?? {}, made = { ...old, id: line.id, given: true };
    if (line.mask) { made.mask = line.mask; if (!line.box) delete made.box; }
    if (line.box) { made.box = line.box; if (!line.mask) delete made.mask; }
    if (line.points) {
      made.points = line.points.map((point, n) => point ?? old.points?.[n] ?? null);
      made.visible = line.points.map((point, n) => (point ? line.visible?.[n] ?? 1 : old.visible?.[n] ?? 1));
      made.said = line.points.map(Boolean);
    }
    found.set(line.id, made);
  }
  return found;
}

export const stale = (frame) => store.work.stale.some(([first, last]) => first <= frame && frame <= last);

// Bytes of a mask, kept with its code.
export function mask_of(code) {
  if (!code.bytes) Object.defineProperty(code, "bytes", { value: decode(code), enumerable: false });
  return code.bytes;
}

// ---------------------------------------------------------------- saying

let saying = Promise.resolve();

// What people say goes one after the other, and after what is being followed has stopped.
export function tell(make) {
  saying = saying.then(async () => {
    await stop();
    const asked = await make();
    if (asked) use(await json(`/works/${store.work.key}/prompts`, { json: { version: store.work.version, ...asked } }));
  }).catch(async (error) => {
    if (error.status === 409) use(await json(`/works/${store.work.key}`));
    fail(error);
  });
  return saying;
}

function line_of(frame, id, part, name) {
  const others = (store.work.prompts[frame] ?? []).filter((line) => line.id !== id);
  const line = part === null ? null : { ...prompt_of(frame, id), ...part, id };
  if (part?.box) delete line.mask;
  if (part?.mask) delete line.box;
  const names = { ...store.work.names };
  if (line) names[id] ??= name;
  store.object = id;
  return { frame, lines: line ? [...others, line] : others, names };
}

// Says something about an object in a frame: {box}, {mask} or {points, visible}; null takes it back.
export function tell_of(frame, id, part) {
  const name = name_of(id);
  return tell(() => line_of(frame, id, part, name));
}

// Says that an object is what lies in a {box}, or at a {click}, of a frame: the server looks for its outline.
export function find(frame, id, place) {
  const name = name_of(id);
  return tell(async () => {
    say("Looking for its outline…");
    const part = await json(`/works/${store.work.key}/outline`, { json: { frame, ...place } }).finally(() => say(""));
    return line_of(frame, id, part, name);
  });
}

export const undo = () => tell(() => (store.work.undo ? { undo: true } : null));
export const redo = () => tell(() => (store.work.redo ? { redo: true } : null));
export const rename = (names) => tell(() => ({ names }));

// What is shown in this frame, as if people had drawn it.
export function keep_frame() {
  const frame = store.frame, told = [];
  for (const [id, one] of shown(frame)) {
    if (!id) continue;
    if (one.mask?.counts.length > 1) told.push({ id, mask: one.mask });
    else if (one.box) told.push({ id, box: one.box });
    if (one.points?.some(Boolean)) {
      const own = told.find((line) => line.id === id) ?? (told.push({ id }), told.at(-1));
      own.points = one.points;
    }
  }
  if (!told.length) { say("Nothing is shown in this frame that could be kept."); return; }
  tell(() => ({ frame, lines: told, names: store.work.names })).then(() => {
    if (!store.error) say(`Frame ${frame} is kept: what is followed from now on goes by it.`);
  });
}

// ---------------------------------------------------------------- following

export async function follow(way, options = {}) {
  if (!store.work) return;
  await saying;
  if (store.running) { const same = store.running.way === way; await stop(); if (same) return; }
  const control = new AbortController(), total = store.work.frames;
  let end;
  store.running = { way, control, ended: new Promise((done) => { end = done; }) };
  store.error = store.message = "";
  store.playing = false;
  const sign = way === "backwards" ? -1 : 1, frame = options.frame ?? store.frame;
  const asked = { way };
  if (way !== "both") {
    asked.frame = frame;
    if (options.count) asked.stop = Math.max(-1, Math.min(total, frame + sign * options.count));
  }
  const begun = performance.now();
  let count = 0, over = false, at = frame;
  const live = way === "live", taken = [];
  store.edge = live;
  store.progress = { share: null, text: "Getting ready…" };
  changed();
  try {
    const answer = await ask(`/works/${store.work.key}/follow`, { json: asked, signal: control.signal });
    for await (const line of lines(answer)) {
      if (line.waiting !== undefined) store.progress.text = `Waiting for ${line.waiting || 1} other to stop…`;
      else if (line.error) throw new Error(line.error);
      else if (line.done !== undefined) { over = true; store.work.stale = line.stale; }
      else {
        at = line.frame ?? line.skipped ?? line.seen;
        count++;
        if (line.skipped !== undefined) store.skipped[line.skipped] = line.reason;
        if (line.frame !== undefined) {
          keep(line);
          store.scores[line.frame] = { ...store.scores[line.frame] };
          for (const one of line.targets) if (one.id) store.scores[line.frame][one.id] = one.score ?? null;
        }
        const rate = count / (performance.now() - begun) * 1000;
        if (live) {
          taken.push(at);
          while (taken.length > 60) taken.shift();
          store.progress = { share: null, text: `Frame ${at}: ${live_rate(taken)}` };
          if (store.edge && at >= frame) store.frame = at;
          changed();
          continue;
        }
        const last = asked.stop ?? (way === "backwards" ? -1 : total);
        const left = way === "both" ? null : Math.max(0, Math.abs(last - at) - 1);
        const ahead = way === "both" || (at - frame) * sign >= 0;
        store.progress = {
          share: left === null ? null : count / (count + left),
          text: (ahead ? `Frame ${at}` : `Frame ${at}: catching up to ${frame}`) + `, ${rate.toFixed(1)} frames/s`
            + (left === null ? "" : `, ${Math.ceil(left / rate)} s left`),
        };
        if (ahead) store.frame = at;
        changed();
      }
    }
    if (!over) throw new Error("the server stopped before it was done");
    if (live) store.message = live_result(count, frame, at);
    else store.message = count ? `Followed ${count} frame${count > 1 ? "s" : ""}.` : "Every frame has its answer already.";
  } catch (error) {
    if (error.name === "AbortError" && live) store.message = live_result(count, frame, at);
    else if (error.name === "AbortError") store.message = `Stopped after ${count} frames; what was found stays.`;
    else fail(error);
  }
  store.running = null;
  store.progress = null;
  end();
  await refresh();
  store.rounds++;
}

const live_rate = (taken) => { // by the frames that were taken last, and those between them that were not
  const share = (taken.length - 1) / (taken.at(-1) - taken[0]), { fps } = store.work;
  return `${Number.isFinite(share) ? (share * fps).toFixed(1) : "…"} of ${fps.toFixed(1)} frames/s are followed`;
};

const live_result = (count, first, last) => {
  const missing = Math.max(0, last - first + 1 - count);
  return `Followed ${count} of ${count + missing} frames live` + (missing ? `; ${missing} came too fast. Once the recording has ended, F follows every frame.` : ".");
};

export async function stop() {
  if (!store.running) return;
  store.running.control.abort();
  await store.running.ended;
}

// What the server knows by now: stale frames, the command line.
export async function refresh() {
  try { use(await json(`/works/${store.work.key}`)); } catch (error) { fail(error); }
}
