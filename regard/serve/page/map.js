// One head over a long text as a map: tiles of 64 × 64 cells, asked for when they come into sight, a few of them kept.

import { ask, subject, unpack } from "./api.js";
import { announce, fixed, h, showTip } from "./dom.js";
import { rgb } from "./draw.js";

const TILE = 64;
const KEPT = 160;
const AT_ONCE = 4;

export function mapOf(place, head, [queries, keys], trace) {
  const canvas = h("canvas", { width: 640, height: 640, tabindex: 0, role: "application", "aria-label": `Attention map, ${queries} by ${keys} tokens. Arrow keys move, plus and minus zoom.`, "data-export": true });
  const told = h("p", { class: "quiet", role: "status" });
  const kind = h("select", { "aria-label": "What a cell shows" }, h("option", { value: "largest" }, "largest weight"), h("option", { value: "mean" }, "mean weight"));
  const tiles = new Map(), context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement), ink = rgb(style, "--above"), ground = rgb(style, "--surface");
  const most = Math.max(0, Math.ceil(Math.log2(Math.max(queries, keys) / TILE)));
  // Begin where a tile is quickly found, from the top left: each of its rows has as many scores as the text has tokens.
  let zoom = Math.max(queries, keys) > 4096 ? 0 : Math.min(most, 3), left = 0, top = 0, asked = 0;
  let waiting = [], under = 0, due = 0;
  const span = () => Math.min(Math.max(queries, keys), TILE * 2 ** zoom * 2);

  function tile(zoom, row, column) {
    const name = `${zoom}/${row}/${column}`, width = TILE * 2 ** zoom;
    if (tiles.has(name)) {
      const found = tiles.get(name);
      tiles.delete(name);
      tiles.set(name, found);
      return found;
    }
    const found = { image: null, cells: null, region: [row * width, Math.min(queries, (row + 1) * width), column * width, Math.min(keys, (column + 1) * width)] };
    tiles.set(name, found);
    waiting.push(found);
    while (tiles.size > KEPT) tiles.delete(tiles.keys().next().value);
    next();
    return found;
  }

  async function next() {
    if (under >= AT_ONCE || !waiting.length) return;
    const one = waiting.pop();
    under++;
    const began = performance.now(), [a, b, c, d] = one.region, cell = 2 ** zoom;
    try {
      const resolution = [Math.max(1, Math.ceil((b - a) / cell)), Math.max(1, Math.ceil((d - c) / cell))].map((size) => Math.min(256, size));
      const found = await ask("/api/map", subject({ place, head, queries: [a, b], keys: [c, d], resolution }));
      one.largest = unpack(found.largest);
      one.mean = unpack(found.mean);
      one.cells = found.cell;
      if (!asked++) canvas.dataset.first = (performance.now() - began).toFixed(0);
    } catch (error) {
      told.textContent = error.message;
    }
    under--;
    later();
    next();
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
    waiting = [];
    for (let row = Math.floor(top / width); row * width < Math.min(queries, top + across); row++) {
      for (let column = Math.floor(left / width); column * width < Math.min(keys, left + across); column++) {
        const one = tile(zoom, row, column);
        if (!one.cells) continue;
        if (!one.image || one.shows !== kind.value) picture(one);
        const [a, b, c, d] = one.region;
        context.drawImage(one.image, (c - left) * scale, (a - top) * scale, (d - c) * scale, (b - a) * scale);
      }
    }
    told.textContent = `Queries ${Math.round(top)} to ${Math.round(Math.min(queries, top + across))}, keys ${Math.round(left)} to ${Math.round(Math.min(keys, left + across))}; a cell is ${2 ** zoom} × ${2 ** zoom} tokens.`;
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
    const query = Math.floor(top + now[1] * span()), key = Math.floor(left + now[0] * span()), width = TILE * 2 ** zoom;
    const one = tiles.get(`${zoom}/${Math.floor(query / width)}/${Math.floor(key / width)}`);
    if (!one || !one.cells || query >= queries || key >= keys) return showTip("");
    const found = one[kind.value], row = Math.floor((query - one.region[0]) / one.cells[0]), column = Math.floor((key - one.region[2]) / one.cells[1]);
    const tokens = trace.rows[0].tokens;
    showTip(`${tokens[query] || query} (${query}) → ${tokens[key] || key} (${key}): ${fixed(found.values[row * found.shape[1] + column], 4)}`, event.clientX, event.clientY);
  });
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
