// Heads: every layer and head at a glance, one of them large; long texts as a map.

import { ask, subject, unpack } from "./api.js";
import { fixed, h, pointing, roving, s, short } from "./dom.js";
import { lines, matrix, pixels } from "./draw.js";
import { mapOf } from "./map.js";
import { set, state } from "./state.js";

const PLATE = 64;

export const heads = {
  name: "Heads",
  about: "All layers and heads at a glance, one of them large.",
  keys: ["kind", "layer", "head", "word"],
  async draw(trace, kind) {
    if (!kind) return h("p", { class: "lead" }, "This model has no attention heads: its recurrent layers are shown under Process.");
    const found = await ask("/api/heads", subject({ kind }));
    if (!found.weights) return far(found, trace);
    const { shape, values } = unpack(found.weights);
    const [layers, count, rows, columns] = shape, layer = Math.min(state.layer, layers - 1), size = rows * columns;
    const of = (layer, head) => values.subarray((layer * count + head) * size, (layer * count + head + 1) * size);
    const head = state.head < 0 || state.head >= count ? sharpest(of, layer, count, rows, columns, state.word, kind) : state.head;
    const names = { queries: found.queries.map((word) => word.text), keys: found.keys.map((word) => word.text) };
    const told = `layer ${layer}, head ${head}`;
    const glance = h("div", {}, h("h3", {}, "All heads: rows are layers"), h("div", { class: "frame", tabindex: 0, role: "region", "aria-label": "All heads" }, plates(of, shape, layer, head, names, found.long)));
    if (found.long) {
      return pointing(h("div", {}, glance, h("h3", {}, `Layer ${layer}, head ${head}: ${found.tokens[0]} × ${found.tokens[1]} tokens`), mapOf(found.places[layer], head, found.tokens, trace)));
    }
    const own = of(layer, head), word = Math.min(state.word, rows - 1);
    return pointing(h("div", {}, glance, h("div", { class: "plates" },
      h("div", {}, h("h3", {}, `Lines: ${told}`), h("div", { class: "frame" }, lines(own, names.queries, names.keys, { lit: word, choose: (row) => set({ word: row }), label: `Attention of ${told}, as lines` }))),
      h("div", {}, h("h3", {}, `Matrix: ${told}; rows ask, columns are looked at`), h("div", { class: "frame", tabindex: 0, role: "region", "aria-label": "Matrix" }, matrix(own, names.queries, names.keys, { lit: word, choose: (row) => set({ word: row }), label: `Attention of ${told}, as a matrix` })))),
      sentence(own, names, word, columns, told)));
  },
};

// A very long text: its map at once; the small maps of the layers one after the other, from sampled queries.
function far(found, trace) {
  const layer = Math.min(state.layer, found.places.length - 1), head = Math.max(0, Math.min(state.head, found.heads - 1));
  const glance = h("div", { class: "frame", tabindex: 0, role: "region", "aria-label": "All heads" });
  const root = pointing(h("div", {}, h("h3", {}, `Layer ${layer}, head ${head}: ${found.tokens[0]} × ${found.tokens[1]} tokens`), mapOf(found.places[layer], head, found.tokens, trace),
    h("h3", {}, "All heads: rows are layers; of each row of cells one query"), glance));
  const side = 32, empty = new Float32Array(side * side), rows = found.places.map(() => null);
  const shape = [found.places.length, found.heads, side, side];
  const of = (row, head) => (rows[row] ? rows[row].subarray(head * side * side, (head + 1) * side * side) : empty);
  const drawn = () => glance.replaceChildren(plates(of, shape, layer, head, null, true));
  drawn();
  setTimeout(async () => {
    const near = rows.map((_, row) => row).sort((a, b) => Math.abs(a - layer) - Math.abs(b - layer));
    for (const row of near) {
      if (!root.isConnected) return;
      const small = unpack((await ask("/api/heads", subject({ kind: found.kind, layer: row }))).weights);
      rows[row] = small.values;
      drawn();
      glance.dataset.layers = rows.filter(Boolean).length;
    }
  }, 1500); // after the map's first sight
  return root;
}

function sentence(values, names, word, columns, told) {
  const order = [...values.subarray(word * columns, (word + 1) * columns)].map((value, place) => [value, names.keys[place]]).sort((a, b) => b[0] - a[0]).slice(0, 4);
  return h("p", { class: "lead" }, `In ${told}, “${names.queries[word]}” looks at `, order.map(([value, name], place) => `${place ? ", " : ""}${name} (${fixed(value, 3)})`).join(""), ".");
}

function plates(of, [layers, count, rows, columns], layer, head, names, long) {
  const left = 64, step = PLATE + 10, width = left + step * count, height = 24 + step * layers;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "drawing", role: "radiogroup", "aria-label": "Heads", "data-export": true });
  const items = [];
  for (let number = 0; number < count; number++) svg.append(s("text", { x: left + step * number + PLATE / 2, y: 12, "text-anchor": "middle", class: "muted" }, `head ${number}`));
  for (let row = 0; row < layers; row++) {
    svg.append(s("text", { x: left - 10, y: 24 + step * row + PLATE / 2 + 4, "text-anchor": "end", class: "muted" }, `layer ${row}`));
    for (let number = 0; number < count; number++) {
      const own = of(row, number), x = left + step * number, y = 22 + step * row, chosen = row === layer && number === head;
      const item = s("g", { role: "radio", "aria-checked": String(chosen), "aria-label": `layer ${row}, head ${number}`, class: "button", "data-key": `head${row}-${number}`, onclick: () => set({ layer: row, head: number }) },
        s("rect", { class: "plate", x: x - 2, y: y - 2, width: PLATE + 4, height: PLATE + 4, rx: 4 }),
        s("image", { class: "pixels", href: pixels(own, rows, columns).toDataURL(), x, y, width: PLATE, height: PLATE, preserveAspectRatio: "none" }));
      item.told = `layer ${row}, head ${number}: ${strongest(own, rows, columns, names, long)}`;
      items.push(item);
      svg.append(item);
    }
  }
  roving(items, count, layer * count + head);
  return svg;
}

function strongest(values, rows, columns, names, long) {
  let best = 0;
  values.forEach((value, place) => value > values[best] && (best = place));
  return long ? `largest weight ${fixed(values[best], 3)}` : `strongest ${short(names.queries[Math.floor(best / columns)])} → ${short(names.keys[best % columns])} (${fixed(values[best], 2)})`;
}

// The head that looks most sharply at another word than the one that asks.
function sharpest(of, layer, count, rows, columns, word, kind) {
  let best = 0, most = -1;
  const row = Math.min(word, rows - 1);
  for (let head = 0; head < count; head++) {
    for (let column = 0; column < columns - 1; column++) {
      const value = of(layer, head)[row * columns + column];
      if ((column !== row || kind === "cross") && value > most) [most, best] = [value, head];
    }
  }
  return best;
}
