// One head over a long text as a map: tiles of 64 × 64 cells, asked for when they come into sight, a few of them kept.
// A tile whose cells hold many scores is first seen by a few of its queries; exact bands of it follow.

import { fetched, subject, unpack } from "./api.js";
import { announce, fixed, h, showTip } from "./dom.js";
import { rgb } from "./draw.js";

const TILE = 64;
const KEPT = 160;
// Scores of one question: what a band takes (some 20 ms) is what a first sight that comes behind it waits.
const A_BAND = 1 << 21;
const AT_FIRST = 32;

let last = { name: "" };

// The map that is there already, where it was left, unless it is of something else.
export function mapOf(place, head, sizes, trace) {
  const name = JSON.stringify([place, head, sizes, subject(), getComputedStyle(document.body).backgroundColor]);
  if (last.name !== name) last = { name, map: made(place, head, sizes, trace) };
  return last.map;
}

function made(place, head, [queries, keys], trace) {
  const canvas = h("canvas", { "data-head": head, width: 640, height: 640, tabindex: 0, role: "application", "aria-label": `Attention map, ${queries} by ${keys} tokens. Arrow keys move, plus and minus zoom.`, "data-export": true });
  const told = h("p", { class: "quiet", role: "status" });
  const kind = h("select", { "aria-label": "What a cell shows" }, h("option", { value: "largest" }, "largest weight"), h("option", { value: "mean" }, "mean weight"));
  const tiles = new Map(), context = canvas.getContext("2d"), began = performance.now();
  const style = getComputedStyle(document.documentElement), ink = rgb(style, "--above"), ground = rgb(style, "--surface");
  const most = Math.max(0, Math.ceil(Math.log2(Math.max(queries, keys) / TILE)) - 1);
  let zoom = most, left = 0, top = 0, wanted = [], under = 0, due = 0, asked = false, failed = "";
  const span = () => Math.min(Math.max(queries, keys), TILE * 2 ** zoom * 2);

  // A tile is its first sight and its bands: regions of cells, each with numbers once they have come.
  function tile(zoom, row, column) {
    const name = `${zoom}/${row}/${column}`, cell = 2 ** zoom, width = TILE * cell, found = tiles.get(name);
    tiles.delete(name);
    if (found) return tiles.set(name, found), found;
    const [a, b, c, d] = [row * width, Math.min(queries, (row + 1) * width), column * width, Math.min(keys, (column + 1) * width)];
    const part = (from, to, sampled) => ({ region: [from, to, c, d], resolution: [Math.min(sampled ? AT_FIRST : TILE, Math.ceil((to - from) / cell)), Math.ceil((d - c) / cell)], sampled, asked: false, cells: null, image: null });
    const step = Math.max(1, Math.floor(A_BAND / keys / cell)) * cell, bands = [];
    for (let from = a; from < b; from += step) bands.push(part(from, Math.min(b, from + step), false));
    const made = { first: bands.length > 1 ? part(a, b, true) : null, bands };
    tiles.set(name, made);
    while (tiles.size > KEPT) tiles.delete(tiles.keys().next().value);
    return made;
  }

  async function next() {
    if (!wanted.length || under >= (wanted[0].sampled ? 2 : 1) || (asked && !canvas.isConnected)) return;
    const one = wanted.shift();
    one.asked = asked = true;
    under++;
    next();
    const { region: [a, b, c, d], resolution, sampled } = one;
    try {
      const found = await fetched("/api/map", subject({ place, head, queries: [a, b], keys: [c, d], resolution, sampled }));
      one.largest = unpack(found.largest);
      one.mean = unpack(found.mean);
      one.cells = found.cell;
    } catch (error) {
      failed = error.message;
    }
    under--;
    later();
  }

  function picture(one) {
    const { shape: [rows, columns], values } = one[kind.value];
    const small = h("canvas", { width: columns, height: rows }), image = new ImageData(columns, rows);
    values.forEach((value, at) => {
      const share = Math.sqrt(Math.min(1, value));
      for (let part = 0; part < 3; part++) image.data[4 * at + part] = ground[part] + (ink[part] - ground[part]) * share;
      image.data[4 * at + 3] = 255;
    });
    small.getContext("2d").putImageData(image, 0, 0);
    one.image = small;
    one.shows = kind.value;
  }

  function later() {
    if (!due) due = requestAnimationFrame(paint);
  }

  function paint() {
    due = 0;
    const across = span(), scale = canvas.width / across, width = TILE * 2 ** zoom;
    left = Math.max(0, Math.min(left, keys - across));
    top = Math.max(0, Math.min(top, queries - across));
    context.imageSmoothingEnabled = false;
    context.fillStyle = getComputedStyle(canvas).backgroundColor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    let exact = 0, all = 0;
    const first = [], rest = [];
    for (let row = Math.floor(top / width); row * width < Math.min(queries, top + across); row++) {
      for (let column = Math.floor(left / width); column * width < Math.min(keys, left + across); column++) {
        const one = tile(zoom, row, column);
        for (const part of [...(one.first ? [one.first] : []), ...one.bands]) {
          const [a, b, c, d] = part.region, seen = a < top + across && b > top;
          if (!part.sampled && seen) (all++, (exact += part.cells ? 1 : 0));
          if (!part.asked && seen) (part.sampled || !one.first ? first : rest).push(part);
          if (!part.cells) continue;
          if (!part.image || part.shows !== kind.value) picture(part);
          context.drawImage(part.image, (c - left) * scale, (a - top) * scale, (d - c) * scale, (b - a) * scale);
          canvas.dataset.first ??= (performance.now() - began).toFixed(0);
        }
      }
    }
    wanted = [...first, ...rest]; // what has gone out of sight is not asked for any more
    next();
    canvas.dataset.exact = String(exact === all);
    told.textContent = failed || `Queries ${Math.round(top)} to ${Math.round(Math.min(queries, top + across))}, keys ${Math.round(left)} to ${Math.round(Math.min(keys, left + across))}; a cell is ${2 ** zoom} × ${2 ** zoom} tokens.`
      + (exact < all ? ` ${Math.floor((100 * exact) / all)} % is exact; the rest shows one query of each row of cells so far.` : "");
  }

  function zoomed(by, x = 0.5, y = 0.5) {
    const before = span(), to = Math.max(0, Math.min(most, zoom + by));
    if (to === zoom) return;
    zoom = to;
    left += (before - span()) * x;
    top += (before - span()) * y;
    later();
    announce(`a cell is ${2 ** zoom} tokens`);
  }

  function moved(x, y) {
    left += x * span();
    top += y * span();
    later();
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomed(event.deltaY > 0 ? 1 : -1, ...at(event));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => (held = null));
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event);
    if (held) {
      moved(held[0] - now[0], held[1] - now[1]);
      held = now;
      return;
    }
    showTip(said(Math.floor(top + now[1] * span()), Math.floor(left + now[0] * span())), event.clientX, event.clientY);
  });

  // What is known of a cell: exact, or the one query of it that was looked at.
  function said(query, key) {
    const width = TILE * 2 ** zoom, one = tiles.get(`${zoom}/${Math.floor(query / width)}/${Math.floor(key / width)}`);
    const known = one && query < queries && key < keys && [...one.bands, one.first].find((part) => part && part.cells && query >= part.region[0] && query < part.region[1]);
    if (!known) return "";
    const found = known[kind.value], row = Math.floor((query - known.region[0]) / known.cells[0]), column = Math.floor((key - known.region[2]) / known.cells[1]);
    const tokens = trace.rows[0].tokens, value = fixed(found.values[row * found.shape[1] + column], 4);
    return `${tokens[query] || query} (${query}) → ${tokens[key] || key} (${key}): ${value}${known.sampled ? ", one query so far" : ""}`;
  }

  canvas.addEventListener("pointerleave", () => showTip(""));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[event.key];
    if (move) moved(...move);
    else if (event.key === "+" || event.key === "=") zoomed(-1);
    else if (event.key === "-") zoomed(1);
    else return;
    event.preventDefault();
  });
  kind.addEventListener("change", later);
  later();
  const button = (said, label, work) => h("button", { type: "button", "aria-label": label, onclick: work }, said);
  return h("div", { class: "map" }, h("div", { class: "row" }, button("+", "Closer", () => zoomed(-1)), button("−", "Farther", () => zoomed(1)), kind), told, canvas);
}
