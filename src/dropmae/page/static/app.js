// The page: buttons, keys, panels, and what is said on top.

import { ask, json } from "./api.js";
import { key, KEYS, label, install as install_keys } from "./keys.js";
import * as s from "./store.js";
import * as timeline from "./timeline.js";
import * as tools from "./tools.js";
import * as view from "./view.js";

const { store } = s, { TOOLS } = tools;
const $ = (id) => document.getElementById(id);

function element(tag, { text, ...rest } = {}, ...inner) {
  const made = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(rest)) if (name.startsWith("aria")) made.setAttribute(name.replace("aria", "aria-").toLowerCase(), value);
  made.append(...inner);
  return made;
}

// ---------------------------------------------------------------- opening

async function open(number) {
  try { s.use(await json("/open", { json: { video: number } }), true); } catch (error) { s.fail(error); }
}

const LABELS = /\.(png|zip|xml|json|jsonl|csv|txt)$/i;

async function upload(files) {
  const [file] = files;
  store.error = "";
  if (file.name.endsWith(".dropmae")) return restore(file);
  if (store.work && files.every(({ name }) => LABELS.test(name))) return bring(files);
  s.say(`${file.name} is being copied to the server on this machine and looked through…`);
  try {
    const answer = await ask("/upload", { method: "POST", body: file, headers: { "x-name": encodeURIComponent(file.name) } });
    s.use(await answer.json(), true);
    $("empty").hidden = true;
  } catch (error) { s.fail(error); }
}

async function restore(file) {
  if (!store.work) return s.fail(new Error("open the video first, then the work that was saved from it"));
  await s.stop();
  try {
    const answer = await ask(`/works/${store.work.key}/saved`, { method: "POST", body: file });
    s.use(await answer.json(), true);
    s.say(`Going on with ${file.name}.`);
  } catch (error) { s.fail(error); }
}

// What others have drawn becomes what is said here; one mask alone is of this frame, several of those in their names.
async function bring(files) {
  await s.stop();
  const head = JSON.stringify(files.map(({ name, size }) => [name, size]));
  const body = new Blob([head, "\n", ...files]);
  try {
    const answer = await ask(`/works/${store.work.key}/labels?frame=${store.frame}`, { method: "POST", body });
    s.use(await answer.json());
    $("empty").hidden = true;
    const frames = Object.keys(store.work.prompts).map(Number);
    if (!frames.includes(store.frame)) s.go(Math.min(...frames));
    s.say(`${files.length > 1 ? `${files.length} files are` : `${files[0].name} is`} read: what is said is in ${frames.length > 1 ? `${frames.length} frames` : `frame ${frames[0]}`}.`);
  } catch (error) { s.fail(error); }
}

async function welcome() {
  const { videos, works } = await json("/open");
  const wanted = location.hash.slice(1), found = works.find((one) => one.key === wanted) ?? (works.length === 1 ? works[0] : null);
  if (found && (wanted === found.key || videos.length < 2)) return s.use(await json(`/works/${found.key}`), true);
  if (videos.length === 1 && !works.length) return open(0);
  choose(videos, works);
}

function choose(videos, works) {
  const list = element("ul");
  works.forEach((one) => list.append(element("li", {}, element("button", { text: `${one.name} (open)`, onclick: () => { location.hash = one.key; location.reload(); } }))));
  videos.forEach((name, number) => list.append(element("li", {}, element("button", { text: name, onclick: async () => { await open(number); $("empty").hidden = !!store.work; } }))));
  const pick = element("button", { className: "main", text: "Choose a file…", onclick: () => $("file").click() });
  $("empty").replaceChildren(
    element("h1", { text: videos.length ? "Which video?" : "Drop a video here" }), list, pick,
    element("p", { text: "It stays on this machine. Once a video is open, saved work (.dropmae) and labels open here too: mask PNGs (one is of the frame that is shown; several, or a zip, of the frames in their names), CVAT, COCO, MOT, targets.jsonl." }),
    ...(store.work ? [element("button", { text: "Back", onclick: () => { $("empty").hidden = true; } })] : []));
  $("empty").hidden = false;
}

// ---------------------------------------------------------------- taking along

async function take(form, button) {
  const before = button.textContent;
  button.disabled = true;
  button.textContent = "Writing…";
  try {
    const { file, name } = await json(`/works/${store.work.key}/exports`, { json: { form } });
    const link = element("a", { href: `/files/${file}`, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    button.textContent = `✓ ${name}`;
  } catch (error) {
    button.textContent = before;
    button.after(element("p", { className: "wrong", text: error.message, role: "alert" }));
    s.fail(error);
  }
  button.disabled = false;
}

async function save() {
  if (!store.work) return;
  await s.stop();
  const taken = store.work.live ? [[".recorded.mov", "The recording itself, frame by frame as it is here; opens here again", ""]] : [];
  const rows = Object.entries(store.work.exports).map(([form, { text, why }]) => [form, text, why]);
  rows.push(...taken, [".prompts.jsonl", "What you showed, for dropmae track --prompts", ""], [".dropmae", "All of this work, to go on with later: open it here", ""]);
  rows.sort((one, other) => !!one[2] - !!other[2]);
  const table = element("table");
  for (const [form, text, why] of rows) {
    const button = element("button", { text: `Save ${form}`, disabled: !!why, onclick: () => take(form, button) });
    table.append(element("tr", {}, element("td", {}, button), element("td", { text }, ...(why ? [element("div", { className: "why", text: why })] : []))));
  }
  const note = store.work.stale.length ? [element("p", { className: "wrong", text: "Some frames are out of date: they were found before your last correction. Follow (F) finds them anew." })] : [];
  dialog("Save as", element("p", { text: `${Object.keys(store.scores).length} of ${store.work.frames} frames have an answer.` }), ...note, table);
}

function dialog(title, ...content) {
  $("content").replaceChildren(element("h2", { text: title }), ...content);
  if (!$("dialog").open) $("dialog").showModal();
  $("dialog").scrollTop = 0;
}

function help() {
  const list = element("div", { className: "keys" });
  for (const { names, text } of KEYS) list.append(element("div", {}, element("span", {}, ...label(names).map((name) => element("kbd", { text: name }))), element("span", { text })));
  dialog("Keys", list, element("p", { text: "On the frame: the wheel zooms, Space and a drag or the middle button moves it." }));
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("command").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("command"));
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
}

async function done() {
  if (!store.work?.question && store.work?.question !== 0) return;
  try {
    await json(`/works/${store.work.key}/done`, { json: {} });
    document.body.replaceChildren(element("main", { className: "over" }, element("h1", { text: "The terminal goes on. This page can be closed." })));
  } catch (error) { s.fail(error); }
}

// ---------------------------------------------------------------- objects

function choose_tool(tool) {
  if (tools.refusal(tool)) return s.say(`${TOOLS[tool].name} cannot be used here: ${tools.refusal(tool)}.`);
  tools.reset();
  store.tool = tool;
  store.message = "";
  s.changed();
}

function new_object() { store.object = s.fresh_id(); s.say(`Show ${s.name_of(store.object)}: ${TOOLS[store.tool].hint}`); }

function remove() {
  if (s.prompt_of(store.frame, store.object)) return s.tell_of(store.frame, store.object, null);
  s.say(`You said nothing about ${s.name_of(store.object)} in this frame; its ✕ on the right removes it everywhere.`);
}

function remove_object(id) {
  const names = { ...store.work.names };
  delete names[id];
  s.rename(names);
}

function jump(step) { // to the previous or next frame that something was said about
  const marks = Object.keys(store.work.prompts).map(Number), beyond = marks.filter((frame) => (frame - store.frame) * step > 0);
  if (beyond.length) s.go(step > 0 ? Math.min(...beyond) : Math.max(...beyond));
}

function follow(way) {
  const first = Math.min(...Object.keys(store.work?.prompts ?? {}).map(Number));
  const frame = $("from").value === "first" && Number.isFinite(first) ? first : store.frame;
  if (way === "forwards" && s.recording()) return s.follow("live", { frame: store.frame });
  s.follow(way, { frame, count: Number($("count").value) || 0 });
}

async function step() { // on from the last answer, or this frame if it has none
  const next = store.frame in store.scores && !s.stale(store.frame) ? store.frame + 1 : store.frame;
  if (store.work && next < store.work.frames) await s.follow("forwards", { frame: next, count: 1 });
}

let begun = 0, from = 0;
function play() { store.playing = !store.playing && !store.running && !!store.work; begun = performance.now(); from = store.frame; s.changed(); }
function tick() {
  if (store.playing) {
    const next = from + Math.floor((performance.now() - begun) / 1000 * store.work.fps);
    if (next !== store.frame && next < store.work.frames) s.go(next);
    if (next >= store.work.frames - 1) { store.playing = false; s.changed(); }
  }
  requestAnimationFrame(tick);
}

function least_sure() {
  if (!store.work) return;
  const found = timeline.weakest();
  s.say(found ? `Frame ${found[1]}: confidence ${found[0].toFixed(2)}. If it is wrong, correct it here and press F.` : "Nothing was followed yet.");
}

// ---------------------------------------------------------------- what is shown

function hint() {
  const { work } = store;
  if (store.error) return store.error;
  if (store.skipped[store.frame]) return `This frame cannot be read and was passed over: ${store.skipped[store.frame]}`;
  if (!work) return store.message || "";
  if (store.running?.way === "live") return store.edge ? "It is followed live; frames that come too fast are left out. Drag its box if it is wrong, Esc stops." : "The picture waits for you; what comes is followed on. End shows it again.";
  if (store.running) return "Answers appear as they are made. Esc stops; what was found stays.";
  if (tools.refusal(store.tool)) return `${TOOLS[store.tool].name}: ${tools.refusal(store.tool)}.`;
  if (view.draft.corners) return TOOLS.polygon.hint;
  if (store.message) return store.message;
  if (s.recording() && work.live.silent) return `The camera has given no frame for ${work.live.silent} seconds.`;
  if (s.recording() && !Object.keys(work.prompts).length) return store.edge ? `1. When it is seen well: ${TOOLS[store.tool].hint} The picture waits for you.` : TOOLS[store.tool].hint;
  if (s.recording()) return "Press Follow (F): it goes on live from this frame to what the camera sees now. T ends the recording.";
  if (!Object.keys(work.prompts).length) return `1. Go to a frame that shows it well. 2. ${TOOLS[store.tool].hint}`;
  if (work.question !== null) return "Show more objects (N), or press Enter: the terminal goes on.";
  if (!Object.keys(store.scores).length) return "3. Press Follow (F). More things to follow: New (N).";
  if (work.stale.length) return `Frames ${work.stale.map(([a, b]) => `${a}–${b}`).join(", ")} were found before your last correction: Follow (F) finds them anew.`;
  return "Wrong somewhere? Go there (W: where it is least sure), put it right, press F. All right? Save as… (S).";
}

function objects() {
  const { work } = store, here = work ? s.shown(store.frame) : new Map(), ids = work ? Object.keys(work.names).map(Number) : [];
  if (work && !ids.includes(store.object)) ids.push(store.object);
  const list = $("objects"), state = JSON.stringify([ids, work?.names, store.object, [...(store.hidden_ids ?? [])]]);
  if (list.dataset.state !== state && !list.contains(document.activeElement?.closest("input"))) {
    list.dataset.state = state;
    list.replaceChildren(...ids.map((id) => {
      const known = id in work.names, swatch = element("button", { className: "swatch", ariaLabel: `Choose ${s.name_of(id)}`, onclick: () => { store.object = id; s.changed(); } });
      swatch.style.background = s.css(id);
      const name = element("input", { value: s.name_of(id), maxLength: 200, ariaLabel: `Name of object ${id}`, disabled: !known, onfocus: () => { store.object = id; s.changed(); },
        onchange: () => { if (name.value.trim()) s.rename({ ...work.names, [id]: name.value.trim() }); else name.value = s.name_of(id); } });
      const hidden = store.hidden_ids.has(id);
      const eye = element("button", { className: "small", text: hidden ? "◎" : "◉", title: hidden ? "Show" : "Hide", ariaLabel: `${hidden ? "Show" : "Hide"} ${s.name_of(id)}`, ariaPressed: String(!hidden), onclick: () => { if (!store.hidden_ids.delete(id)) store.hidden_ids.add(id); s.changed(); } });
      const cross = element("button", { className: "small", text: "✕", title: "Remove it everywhere", ariaLabel: `Remove ${s.name_of(id)}`, disabled: !known, onclick: () => remove_object(id) });
      return element("li", { className: id === store.object ? "chosen" : "" }, swatch, name, element("span", { className: "score" }), eye, cross);
    }));
  }
  [...list.children].forEach((row, n) => {
    const one = here.get(ids[n]), score = store.scores[store.frame]?.[ids[n]];
    row.querySelector(".score").textContent = one?.given ? "shown" : typeof score === "number" ? score.toFixed(2) : "";
  });
}

function options() {
  const wanted = store.tool === "brush" || store.tool === "eraser" ? "radius" : store.tool === "point" ? "spacing" : "";
  const box = $("options");
  if (box.dataset.state !== wanted) {
    box.dataset.state = wanted;
    const slider = (name, text, least, most, step) => element("label", { text: `${text} ` }, element("input", { type: "range", min: least, max: most, step, value: store[name], oninput: (event) => { store[name] = Number(event.target.value); s.changed(); } }));
    box.replaceChildren(...(wanted === "radius" ? [slider("radius", "Brush", 1, 100, 1)] : wanted ? [slider("spacing", "Grid step", 4, 100, 1)] : []), slider("opacity", "Masks", 0, 1, 0.05));
  }
  const own = box.querySelector("input");
  if (wanted && Number(own.value) !== store[wanted]) own.value = store[wanted];
}

function show() {
  const { work } = store;
  view.draw();
  timeline.draw();
  objects();
  options();
  $("title").textContent = work ? `${work.name}  ${work.width} × ${work.height}, ${work.live ? work.fps.toFixed(1) : work.fps} frames/s` : "";
  $("hint").textContent = hint();
  $("hint").classList.toggle("wrong", !!store.error);
  for (const button of $("tools").querySelectorAll("[data-tool]")) {
    const why = tools.refusal(button.dataset.tool);
    button.setAttribute("aria-pressed", String(button.dataset.tool === store.tool));
    button.disabled = !!why || !work;
    button.title = why ? `${TOOLS[button.dataset.tool].name} cannot be used: ${why}` : `${TOOLS[button.dataset.tool].hint} (${TOOLS[button.dataset.tool].key})`;
  }
  $("lines").setAttribute("aria-pressed", String(store.lines));
  $("lines").disabled = !work;
  const asked = work?.question !== null && work?.question !== undefined, told = !!work && Object.keys(work.prompts).length > 0;
  $("following").hidden = $("save").hidden = $("open").hidden = asked;
  $("done").hidden = !asked;
  $("done").disabled = !told;
  for (const id of ["forwards", "backwards", "both", "step", "keep", "weakest"]) $(id).disabled = !told;
  $("save").disabled = !told && !work?.live;
  live(work);
  $("undo").disabled = !work?.undo;
  $("redo").disabled = !work?.redo;
  $("stop").hidden = !store.running;
  $("ways").hidden = !!store.running;
  $("progress").hidden = !store.progress;
  if (store.progress) { if (store.progress.share === null) $("progress").removeAttribute("value"); else $("progress").value = store.progress.share; }
  $("told").textContent = store.progress?.text ?? "";
  $("terminal").hidden = !work?.command || asked;
  $("command").textContent = work?.command ?? "";
  $("play").textContent = store.playing ? "⏸" : "▶";
  if (document.activeElement !== $("number")) $("number").value = store.frame;
  $("number").max = work ? work.frames - 1 : 0;
  $("total").textContent = work ? `of 0–${work.frames - 1}, ${(store.frame / work.fps).toFixed(2)} s` : "";
  const at = view.draft.at, inside = at && work && at[0] >= 0 && at[1] >= 0 && at[0] < work.width && at[1] < work.height;
  $("place").textContent = inside ? `x ${at[0].toFixed(1)}  y ${at[1].toFixed(1)}` : "";
  $("zoom").textContent = work ? `${Math.round(view.zoom() * 100)} %` : "";
  view.canvas.setAttribute("aria-label", work ? `Frame ${store.frame} of ${work.name}` : "No video");
}

function live(work) {
  $("live").hidden = !s.recording();
  if (!s.recording()) return;
  const { seconds, bytes, limit, frames, fps } = work.live, share = bytes / limit, left = (limit - bytes) / (bytes / seconds) / 60;
  $("clock").textContent = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  $("room").value = share;
  const room = seconds > 1 ? `, about ${left < 10 ? left.toFixed(1) : Math.round(left)} min left` : "";
  $("recorded").textContent = `${frames} frames, ${fps.toFixed(1)} a second; ${(bytes / 2 ** 20).toFixed(1)} of ${Math.round(limit / 2 ** 20)} MB${room}`;
}

// ---------------------------------------------------------------- buttons and keys

for (const [tool, { name, sign, key: letter }] of Object.entries(TOOLS)) {
  const button = element("button", { onclick: () => choose_tool(tool) }, element("span", { text: sign, ariaHidden: "true" }), `${name} `, element("kbd", { text: letter }));
  button.dataset.tool = tool;
  $("lines").before(button);
}
function lines() { store.lines = !store.lines; s.changed(); }
const buttons = { newest: () => s.go(Infinity), cut: s.cut, lines, undo: s.undo, redo: s.redo, save, help, new: new_object, copy, done, stop: s.stop, step, play, keep: s.keep_frame, weakest: least_sure,
  forwards: () => follow("forwards"), backwards: () => follow("backwards"), both: () => follow("both"),
  home: () => s.go(0), end: () => s.go(Infinity), before: () => s.go(store.frame - 1), after: () => s.go(store.frame + 1),
  open: async () => { const { videos, works } = await json("/open"); choose(videos, works); } };
for (const [id, run] of Object.entries(buttons)) $(id).addEventListener("click", () => run());
$("number").addEventListener("change", () => s.go(Number($("number").value)));
$("file").addEventListener("change", () => { if ($("file").files[0]) upload([...$("file").files]); $("file").value = ""; });

const ready = (run) => (event, name) => { if (store.work) run(event, name); };
const arrows = (dx) => ready((event, name) => s.go(store.frame + dx * (name.startsWith("Shift") ? 10 : 1)));
key("ArrowLeft Shift+ArrowLeft", "frame before; Shift: ten", arrows(-1));
key("ArrowRight Shift+ArrowRight", "next frame; Shift: ten", arrows(1));
key("T", "end the recording of a camera", ready(s.cut));
key("Home", "first frame", () => s.go(0));
key("End", "last frame; of a camera what it sees now", () => s.go(Infinity));
key("Space", "play, pause; with a drag: move the picture", (event) => { if (!event.repeat) tools.held.space = true; });
key("F", "follow forwards from here; again: stop", ready(() => follow("forwards")));
key("B", "follow backwards from here", ready(() => follow("backwards")));
key("A", "follow all frames that have no answer yet", ready(() => follow("both")));
key(".", "follow one frame", ready(step));
key("Escape", "stop; or drop what is being drawn", () => { if (store.running) s.stop(); else { tools.reset(); store.point = null; store.message = store.error = ""; s.changed(); } });
key("W", "go to where it is least sure", ready(least_sure));
key("K", "keep this frame as if you had drawn it", ready(s.keep_frame));
key("Q", "go to what you showed before", ready(() => jump(-1)));
key("E", "go to what you showed next", ready(() => jump(1)));
key("N", "new object", ready(new_object));
key("1 2 3 4 5 6 7 8 9", "choose an object", ready((event, name) => { const id = Object.keys(store.work.names).map(Number)[name - 1]; if (id) { store.object = id; s.changed(); } }));
key("Delete Backspace", "take back what you said here", ready(remove));
key("Z Ctrl+Z", "undo", ready(s.undo));
key("Y Ctrl+Y Ctrl+Shift+Z", "redo", ready(s.redo));
for (const [tool, { key: letter, name }] of Object.entries(TOOLS)) key(letter, name.toLowerCase(), ready(() => choose_tool(tool)));
key("Ctrl+ArrowLeft Ctrl+ArrowRight Ctrl+ArrowUp Ctrl+ArrowDown", "move the box by a pixel", ready((event, name) => {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[name.slice(5)];
  tools.nudge(dx, dy);
}));
key("O", "the chosen point is hidden here, or seen", ready(tools.toggle_visible));
key("[", "smaller brush", () => { store.radius = Math.max(1, Math.round(store.radius * 0.8)); s.changed(); });
key("]", "larger brush", () => { store.radius = Math.min(100, Math.ceil(store.radius * 1.25)); s.changed(); });
key("H", "hide or show what was found", () => { store.hidden = !store.hidden; s.changed(); });
key("L", "lines of coordinates over the picture", lines);
key("0", "show the whole picture", () => { view.fit(); s.changed(); });
key("+ =", "zoom in", ready(() => { view.zoom_by(1.25, view.canvas.clientWidth / 2, view.canvas.clientHeight / 2); s.changed(); }));
key("-", "zoom out", ready(() => { view.zoom_by(0.8, view.canvas.clientWidth / 2, view.canvas.clientHeight / 2); s.changed(); }));
key("S", "save as…", ready(() => { if (!$("save").disabled && !$("save").hidden) save(); }));
key("I", "bring labels or saved work: mask PNGs, CVAT, COCO, MOT", ready(() => { if (!$("open").hidden) $("file").click(); }));
key("C", "copy the command line", ready(copy));
key("Enter", "close an outline; when asked, go on in the terminal", () => { if (!tools.close_polygon() && !$("done").hidden && !$("done").disabled) done(); });
key("?", "these keys", help);

let panned = false;
view.canvas.addEventListener("pointerdown", () => { panned = true; });
document.addEventListener("keyup", (event) => {
  if (event.key !== " " || !tools.held.space) return;
  tools.held.space = false;
  if (!panned) play();
  panned = false;
});
document.addEventListener("keydown", (event) => { if (event.key === " " && !event.repeat) panned = false; }, true);
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => {
  event.preventDefault();
  $("empty").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files[0]) upload([...event.dataTransfer.files]);
});
new ResizeObserver(s.changed).observe($("stage"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", s.changed);
s.listen(show);
tools.install();
timeline.install();
install_keys();
tick();
welcome().catch(s.fail);
s.changed();
