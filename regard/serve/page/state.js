// What is chosen, and that it stands in the address: a link shows the same to somebody else.

export const EXAMPLE = ["Python executes quickly", "Python crawls quickly"];
const DEFAULTS = {
  view: "process", model: "", text: EXAMPLE, word: 0, layer: 0, head: -1, kind: "", step: 0,
  begin: [], at: 0, beams: 1, edit: [], row: -1, ask: "similarity",
};
const heard = new Set();

export const state = read();

function read() {
  const found = { ...DEFAULTS };
  const given = new URLSearchParams(location.hash.slice(1) || globalThis.REGARD_STATE || "");
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) continue;
    if (name === "text" || name === "edit") found[name] = given.getAll(name).filter(Boolean);
    else if (name === "begin") found.begin = given.get("begin").split(",").filter(Boolean).map(Number).filter(Number.isInteger);
    else if (typeof value === "number") found[name] = Number.isFinite(Number(given.get(name))) ? Number(given.get(name)) : value;
    else found[name] = given.get(name);
  }
  if (!found.text.length) found.text = EXAMPLE;
  return found;
}

function address() {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (JSON.stringify(value) === JSON.stringify(DEFAULTS[name])) continue;
    if (name === "begin") told.set(name, value.join(","));
    else if (Array.isArray(value)) value.forEach((one) => told.append(name, one));
    else told.set(name, typeof value === "number" ? String(Math.round(value * 100) / 100) : value);
  }
  return "#" + told;
}

export function set(changes, quietly = false) {
  const changed = Object.keys(changes).filter((name) => JSON.stringify(changes[name]) !== JSON.stringify(state[name]));
  if (!changed.length) return;
  Object.assign(state, changes);
  try {
    history.replaceState(null, "", address());
  } catch {
    // inside a notebook the page has no address of its own
  }
  if (!quietly) heard.forEach((hear) => hear(changed));
}

export function listen(hear) {
  heard.add(hear);
}

addEventListener("hashchange", () => {
  const before = { ...state };
  Object.assign(state, read());
  const changed = Object.keys(state).filter((name) => JSON.stringify(before[name]) !== JSON.stringify(state[name]));
  if (changed.length) heard.forEach((hear) => hear(changed));
});
