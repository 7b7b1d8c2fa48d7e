// Process: the complete process for one query, step by step, played or scrubbed.

import { ask, subject } from "./api.js";
import { blocksOf } from "./blocks.js";
import { announce, h } from "./dom.js";
import { pictureOf } from "./process_picture.js";
import { stepsOf } from "./process_steps.js";
import { set, state } from "./state.js";

const SECONDS_A_STEP = 2.4;
const still = matchMedia("(prefers-reduced-motion: reduce)");
let playing = 0;

export const process = {
  name: "Process",
  about: "The complete process for one query, number by number.",
  keys: ["word", "layer", "head", "kind"],
  leave: () => stop(),
  async draw(trace, kind) {
    stop();
    const d = await ask("/api/process", subject({ layer: state.layer, ...(kind ? { kind } : {}), query: place(trace, kind) }));
    if (d.results) return h("div", {}, h("p", { class: "lead" }, "A recurrent model: how far each gate stands open at each word."), blocksOf(d.results));
    const head = state.head < 0 || state.head >= d.weights.length ? d.head : state.head;
    return player(d, head);
  },
};

// The query's token: the chosen word's first in an encoder, the last where words see only what came before.
function place(trace, kind) {
  const row = trace.rows[0];
  const words = kind === "encoder" || !row.target ? row.words : row.target;
  const word = words[Math.max(0, Math.min(words.length - 1, state.word))];
  return kind === "encoder" ? word.places[0] : word.places[word.places.length - 1];
}

function player(d, head) {
  const steps = stepsOf(d, head), last = steps.length - 1;
  let whole = false, time = Math.max(0, Math.min(last, state.step));
  const picture = pictureOf(d, head, { head: (number) => set({ head: number }), word: (number) => set({ word: number }) });
  const told = h("div", { class: "told", "aria-live": "off" });
  const scrub = h("input", { type: "range", min: 0, max: last, step: 0.01, "aria-label": "Step", oninput: () => (stop(), move(Number(scrub.value))) });
  const play = h("button", { type: "button", "data-key": "play", onclick: () => (playing ? stop() : start()) }, "Play");
  const overview = h("button", { type: "button", class: "overview", "aria-pressed": "false", onclick: () => {
    whole = !whole;
    overview.setAttribute("aria-pressed", String(whole));
    picture.render(time, whole);
  } }, "Whole picture");
  const buttons = steps.map((step, number) => h("button", { type: "button", onclick: () => go(number) }, step.name));
  let shown = -1;

  function move(to) {
    time = Math.max(0, Math.min(last, to));
    const now = Math.ceil(time - 1e-9), step = steps[now];
    picture.render(time, whole);
    scrub.value = time;
    scrub.setAttribute("aria-valuetext", `${now + 1}, ${step.name}`);
    set({ step: now }, true);
    if (now === shown) return;
    shown = now;
    buttons.forEach((button, number) => button.setAttribute("aria-current", String(number === now)));
    told.replaceChildren(...[
      h("h2", {}, `${now + 1}. ${step.name}`), h("p", { class: "formula" }, ...formula(step.formula)),
      h("p", { class: "filled" }, step.filled), h("p", {}, step.told),
      now === last ? proof(d) : "",
    ]);
    announce(`Step ${now + 1}: ${step.name}. ${step.filled}`);
  }

  function go(number) {
    stop();
    if (still.matches || number !== Math.ceil(time) + 1) return move(number);
    glide(number);
  }

  function glide(to, then = () => {}) {
    const begun = performance.now(), from = time, seconds = SECONDS_A_STEP * (to - from);
    const frame = (now) => {
      const part = Math.min(1, (now - begun) / 1000 / seconds);
      move(from + (to - from) * part);
      playing = part < 1 ? requestAnimationFrame(frame) : 0;
      if (part >= 1) then();
    };
    playing = requestAnimationFrame(frame);
  }

  function start() {
    if (time >= last) move(0);
    play.textContent = "Pause";
    const next = () => {
      if (time >= last) return stop();
      if (still.matches) {
        move(Math.floor(time) + 1);
        playing = setTimeout(next, 2500);
      } else glide(last, stop);
    };
    next();
  }

  stopped = () => (play.textContent = "Play");
  const root = h("div", { class: "split" },
    h("div", {}, picture.svg, h("div", { class: "player" },
      h("button", { type: "button", "data-key": "back", "aria-label": "Step back", onclick: () => go(Math.ceil(time) - 1) }, "◀"), play,
      h("button", { type: "button", "data-key": "on", "aria-label": "Step on", onclick: () => go(Math.floor(time) + 1) }, "▶"), scrub, overview)),
    h("div", {}, told, h("ol", { class: "steps", "aria-label": "Steps" }, ...buttons.map((button) => h("li", {}, button)))));
  root.keys = { " ": () => (playing ? stop() : start()), ".": () => go(Math.floor(time) + 1), ",": () => go(Math.ceil(time) - 1), o: () => overview.click() };
  move(time);
  requestAnimationFrame(() => picture.render(time, whole)); // once its width is known
  return root;
}

let stopped = () => {};

function stop() {
  cancelAnimationFrame(playing);
  clearTimeout(playing);
  playing = 0;
  stopped();
}

// W_Q as W with Q below, e^s with s above.
function formula(text) {
  return text.split(/([_^]\w+)/).map((part) => (/^_\w/.test(part) ? h("sub", {}, part.slice(1)) : /^\^\w/.test(part) ? h("sup", {}, part.slice(1)) : part));
}

function proof(d) {
  const close = d.difference_from_fast_run < 1e-4;
  return h("p", { class: close ? "holds" : "fails" }, `${close ? "✓" : "✗"} These steps against the model's own fast run: largest difference ${d.difference_from_fast_run.toExponential(1)}.`);
}
