// What if: silence heads, hide words, drag weights; the answer now beside the answer before.

import { ask, page, subject, unpack } from "./api.js";
import { fixed, h, pointing, roving, s } from "./dom.js";
import { bar } from "./draw.js";
import { set, state } from "./state.js";

export const whatIf = {
  name: "What if",
  about: "Change something inside and see what the model answers.",
  keys: ["kind", "layer", "head", "word", "edit", "at"],
  everyHead: "all heads",
  async draw(trace, kind) {
    if (page.kept) return h("p", { class: "lead" }, "To change something inside, the model has to run again. ", page.kept[""]);
    if (!kind) return h("p", { class: "lead" }, "This model has no attention heads that could be changed.");
    const edits = state.edit, place = trace.kinds[kind].places[Math.min(state.layer, trace.kinds[kind].places.length - 1)];
    const writes = trace.kind === "language model" ? { tokens: 0 } : {};
    const at = trace.kind === "translator" ? { query: Math.max(0, state.at) } : {};
    let found, row;
    try {
      [found, row] = await Promise.all([ask("/api/what-if", subject({ edits, ...writes, ...at })), rowOf(trace, kind, place)]);
    } catch (error) {
      if (!edits.length) throw error;
      return h("div", {}, h("p", { class: "failed", role: "alert" }, error.message), chips(edits)); // a change of a typed address
    }
    return pointing(h("div", {},
      h("p", { class: "lead" }, "Silence a head, hide a word from all attention, or drag the weights of the chosen word. Everything else stays as it is."),
      versus(found, edits), chips(edits),
      h("div", { class: "plates" },
        h("div", {}, h("h3", {}, `Heads (${kind}): choose to silence`), h("div", { class: "frame" }, switches(trace, kind)),
          h("h3", {}, "Words: choose to hide"), hidden(trace)),
        h("div", {}, h("h3", {}, `Weights of “${row.word}”, ${place}, ${state.head < 0 ? "all heads (their mean)" : "head " + state.head}`), sliders(row, place)),
        probabilities(found, trace))));
  },
};

async function rowOf(trace, kind, place) {
  const first = trace.rows[0], asking = kind === "encoder" || !first.target ? first.words : first.target;
  const word = asking[Math.min(state.word, asking.length - 1)], token = word.places[word.places.length - 1];
  const count = trace.kinds[kind].heads, heads = state.head < 0 ? Array.from({ length: count }, (_, head) => head) : [Math.min(state.head, count - 1)];
  const keyed = kind === "decoder" && first.target ? first.target : first.words, keys = keyed.flatMap((one) => one.pieces);
  const rows = await Promise.all(heads.map((head) => ask("/api/map", subject({ place, head, queries: [token, token + 1], keys: [0, Math.min(256, keys.length)], resolution: [1, 256] }))));
  const each = rows.map((one) => [...unpack(one.mean).values]);
  const weights = each[0].map((_, key) => each.reduce((sum, one) => sum + one[key], 0) / each.length);
  const causal = place.startsWith("decoder.") && !place.endsWith("cross_attention");
  return { word: word.text, token, keys, weights, seen: causal ? token + 1 : keys.length };
}

function versus(found, edits) {
  const same = found.answer_before === found.answer_now;
  return h("div", { class: "versus", "aria-live": "polite" },
    h("div", {}, h("small", {}, "before"), h("b", {}, found.answer_before || "(nothing)")),
    h("div", { class: same ? "" : "changed" }, h("small", {}, edits.length ? (same ? "now: the same" : "now: another answer") : "now"), h("b", {}, found.answer_now || "(nothing)"),
      h("small", {}, `divergence at the chosen place ${fixed(found.divergence, 4)} nats`)));
}

function chips(edits) {
  if (!edits.length) return h("p", { class: "quiet" }, "Nothing is changed yet.");
  return h("ul", { class: "chips", "aria-label": "Changes" }, edits.map((edit) => h("li", {}, h("button", { type: "button", "aria-label": "Undo " + edit, onclick: () => set({ edit: edits.filter((one) => one !== edit) }) }, edit.replace(/weights=(\S{18})\S+/, "weights=$1…"), " ×"))),
    h("li", {}, h("button", { type: "button", "data-key": "undo", onclick: () => set({ edit: [] }) }, "Undo all")));
}

const toggled = (own) => (own.every((one) => state.edit.includes(one)) ? state.edit.filter((one) => !own.includes(one)) : [...state.edit, ...own.filter((one) => !state.edit.includes(one))]);

function switches(trace, kind) {
  const { places, heads } = trace.kinds[kind], step = Math.min(40, Math.max(22, 420 / heads)), left = 60;
  const svg = s("svg", { viewBox: `0 0 ${left + step * heads + 4} ${20 + step * places.length}`, width: left + step * heads + 4, class: "drawing", role: "group", "aria-label": "Heads to silence", "data-export": true });
  const items = [];
  places.forEach((place, layer) => {
    svg.append(s("text", { x: left - 8, y: 18 + step * (layer + 0.5) + 4, "text-anchor": "end", class: "muted" }, `layer ${layer}`));
    for (let head = 0; head < heads; head++) {
      const edit = `${place} head=${head}`, out = state.edit.includes(edit), x = left + step * head, y = 18 + step * layer;
      if (!layer) svg.append(s("text", { x: x + step / 2 - 2, y: 12, "text-anchor": "middle", class: "muted" }, head));
      const item = s("g", { class: "button" + (out ? " out" : ""), role: "button", "aria-pressed": String(out), "aria-label": `layer ${layer}, head ${head}`, "data-key": edit, onclick: () => set({ edit: toggled([edit]) }) },
        s("rect", { class: "plate", x, y, width: step - 5, height: step - 5, rx: 4 }),
        out ? s("path", { d: `M${x + 6} ${y + 6} l${step - 17} ${step - 17} m0 ${17 - step} l${17 - step} ${step - 17}`, stroke: "var(--bad)", "stroke-width": 2.5 }) : s("circle", { class: "above", cx: x + step / 2 - 2.5, cy: y + step / 2 - 2.5, r: 4 }));
      item.told = `${place}, head ${head}${out ? ": silenced" : ""}`;
      items.push(item);
      svg.append(item);
    }
  });
  roving(items, heads, Math.max(0, items.findIndex((item) => item.dataset.key === document.activeElement?.dataset?.key)));
  return svg;
}

// A word is hidden from every attention that could look at it.
function hidden(trace) {
  const places = [...((trace.kinds.encoder || trace.kinds.decoder || {}).places || []), ...(trace.kinds.encoder && trace.kinds.cross ? trace.kinds.cross.places : [])];
  return h("div", { class: "chips", role: "group", "aria-label": "Words to hide" }, trace.rows[0].words.slice(0, 100).map((word, number) => {
    const own = word.places.flatMap((token) => places.map((place) => `${place} key=${token}`)), out = own.every((one) => state.edit.includes(one));
    return h("button", { type: "button", "aria-pressed": String(out), "data-key": "hide" + number, onclick: () => set({ edit: toggled(own) }) }, out ? "▒".repeat(Math.max(2, word.text.length)) : word.text);
  }));
}

// One slider a token; the others keep their proportions, so that the row still sums to 1.
function sliders(row, place) {
  const head = state.head < 0 ? "" : ` head=${state.head}`, begins = `${place}${head} query=${row.token} weights=`;
  const edit = state.edit.find((one) => one.startsWith(begins));
  let weights = edit ? edit.slice(begins.length).split(",").map(Number) : row.weights.slice();
  let due = 0;
  const inputs = [], outputs = [];
  const change = (place, value) => {
    const rest = weights.slice(0, row.seen).reduce((sum, one, other) => sum + (other === place ? 0 : one), 0), left = 1 - value;
    weights = weights.map((one, other) => (other >= row.seen ? 0 : other === place ? value : rest > 1e-9 ? (one * left) / rest : left / Math.max(1, row.seen - 1)));
    weights.forEach((one, other) => inputs[other] && ((inputs[other].value = one), (outputs[other].textContent = fixed(one))));
    clearTimeout(due);
    due = setTimeout(() => set({ edit: [...state.edit.filter((one) => !one.startsWith(begins)), begins + weights.map((one) => Number(one.toFixed(5))).join(",")] }), 160);
  };
  const list = row.keys.slice(0, Math.min(40, row.seen)).map((key, place) => {
    const input = h("input", { type: "range", min: 0, max: 1, step: 0.01, "aria-label": `weight of ${key}`, "data-key": `weight${place}`, oninput: () => change(place, Number(input.value)) });
    input.value = weights[place];
    inputs[place] = input;
    outputs[place] = h("output", {}, fixed(weights[place]));
    return h("div", { class: "slider" }, h("span", {}, key), input, outputs[place]);
  });
  const back = edit ? h("button", { type: "button", "data-key": "free", onclick: () => set({ edit: state.edit.filter((one) => one !== edit) }) }, "As the model weighs") : null;
  return h("div", {}, list, back);
}

function probabilities(found, trace) {
  const steps = trace.kind === "translator" ? trace.rows[0].produced.flatMap((word) => word.pieces) : [];
  const choice = h("select", { "data-key": "place", onchange: () => set({ at: Number(choice.value) }) }, steps.map((piece, number) => h("option", { value: number }, `${number + 1}: ${piece}`)));
  choice.value = String(Math.min(state.at, steps.length - 1));
  return h("div", {}, h("h3", {}, "What it would say, before and now"), steps.length ? h("label", {}, h("span", { class: "quiet" }, "at the answer's token"), choice) : null,
    h("table", {}, h("thead", {}, h("tr", {}, ["answer", "before", "now"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.answers.map((one) => h("tr", {}, h("th", { scope: "row" }, one.answer), h("td", {}, bar(one.before, "before"), fixed(one.before, 3)), h("td", {}, bar(one.after), fixed(one.after, 3)))))));
}
