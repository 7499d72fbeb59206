// Every key in one table, which the help shows too. None is one that a browser keeps for itself.

export const KEYS = [];

export function key(names, text, run) { KEYS.push({ names: names.split(" "), text, run }); }

const SHOWN = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", " ": "Space", Escape: "Esc", Delete: "Del" };
export const label = (names) => (names.length === 9 ? ["1", "…", "9"] : names).map((name) => (name.length > 1 ? name.split("+").map((part) => SHOWN[part] ?? part).join("+") : name));

function pressed(event) {
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && event.key.length > 1 ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.altKey ? "Alt+" : ""}${shift}${name}`;
}

export function install() {
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input, select, textarea, dialog");
    if (field && !(event.target.type === "range")) {
      if (event.key === "Escape" || event.key === "Enter") event.target.blur?.();
      return;
    }
    let name = pressed(event);
    if (event.ctrlKey && event.shiftKey && event.key.toUpperCase() === "Z") name = "Ctrl+Shift+Z";
    if (event.target.closest("button, code") && (name === "Space" || name === "Enter")) return;
    const found = KEYS.find((one) => one.names.includes(name));
    if (!found) return;
    event.preventDefault();
    found.run(event, name);
  });
}
