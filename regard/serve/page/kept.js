// A page that asks nobody: the answers came with it, packed.

import { unpack } from "./api.js";

export async function opened(packed) {
  const bytes = Uint8Array.from(atob(packed.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

export function answering({ answers, told }) {
  const maps = new Map();
  return async (path, body) => {
    const { model, texts, ...more } = body || {};
    if (path === "/api/map") {
      const name = `map/${more.place}/${more.head}`;
      if (!answers[name]) throw new Error(told[path]);
      if (!maps.has(name)) maps.set(name, unpack(answers[name]));
      return cut(maps.get(name), more);
    }
    const found = answers[path + JSON.stringify(Object.fromEntries(Object.entries(more).sort(([a], [b]) => (a < b ? -1 : 1))))];
    if (!found) throw new Error(told[path] || told[""]);
    if (found.error) throw new Error(found.error);
    return found;
  };
}

// A region of a map of which every weight is at hand, cell by cell.
function cut({ shape: [, across], values }, { queries: [a, b], keys: [c, d], resolution }) {
  const cell = [Math.ceil((b - a) / resolution[0]), Math.ceil((d - c) / resolution[1])], shape = [Math.ceil((b - a) / cell[0]), Math.ceil((d - c) / cell[1])];
  const largest = new Float32Array(shape[0] * shape[1]), mean = new Float32Array(largest.length), counts = new Float32Array(largest.length);
  for (let query = a; query < b; query++) {
    for (let key = c; key < d; key++) {
      const at = Math.floor((query - a) / cell[0]) * shape[1] + Math.floor((key - c) / cell[1]), value = values[query * across + key];
      largest[at] = Math.max(largest[at], value);
      mean[at] += (value - mean[at]) / ++counts[at];
    }
  }
  return { cell, largest: { shape, values: largest }, mean: { shape, values: mean } };
}
