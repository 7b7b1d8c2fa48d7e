// Drawings that several views share: strips of numbers, matrices, small pictures, lines.

import { announce, fixed, h, s, short, showTip } from "./dom.js";

// A vector as cells: blue above zero, orange below, the stronger the larger. Arrow keys walk along it.
export function strip(values, { x = 0, y = 0, cell = 5, high = 9, columns = values.length, name = "", top = null } = {}) {
  const largest = top ?? Math.max(1e-9, ...values.map(Math.abs));
  const rows = Math.ceil(values.length / columns);
  const group = s("g", { transform: `translate(${x} ${y})`, class: "strip", role: "img", tabindex: 0, "aria-label": `${name}, ${values.length} numbers; arrow keys read them` });
  group.append(s("rect", { class: "ground", width: columns * cell, height: rows * high, rx: 1 }));
  values.forEach((value, place) => {
    const share = Math.min(1, Math.abs(value) / largest);
    if (share < 0.02) return;
    group.append(s("rect", {
      class: value < 0 ? "below" : "above", x: (place % columns) * cell, y: Math.floor(place / columns) * high,
      width: cell, height: high, "fill-opacity": share.toFixed(2),
    }));
  });
  const cursor = s("rect", { class: "cursor", width: cell, height: high, fill: "none", stroke: "currentColor", visibility: "hidden" });
  group.append(cursor);
  let at = -1;
  const told = (place) => `${name} [${place}] = ${fixed(values[place], 4)}`;
  group.values = values;
  group.told = (event) => {
    const box = group.querySelector(".ground").getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const place = Math.floor(((event.clientY - box.top) / box.height) * rows) * columns + column;
    return column >= 0 && column < columns && place >= 0 && place < values.length ? told(place) : name;
  };
  group.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    at = Math.max(0, Math.min(values.length - 1, at < 0 ? 0 : at + by));
    cursor.setAttribute("x", (at % columns) * cell);
    cursor.setAttribute("y", Math.floor(at / columns) * high);
    cursor.setAttribute("visibility", "visible");
    const box = cursor.getBoundingClientRect();
    showTip(told(at), box.left, box.bottom);
    announce(told(at));
  });
  group.addEventListener("blur", () => {
    cursor.setAttribute("visibility", "hidden");
    showTip("");
  });
  return group;
}

// A matrix of weights as a picture of few bytes: one pixel a cell.
export function pixels(values, rows, columns, signed = false) {
  const canvas = h("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const style = getComputedStyle(document.documentElement);
  const above = rgb(style, "--above"), below = rgb(style, "--below"), ground = rgb(style, "--surface");
  const largest = signed ? Math.max(1e-9, ...values.map(Math.abs)) : 1;
  values.forEach((value, place) => {
    const share = Math.min(1, Math.abs(value) / largest), to = value < 0 ? below : above;
    for (let part = 0; part < 3; part++) image.data[4 * place + part] = ground[part] + (to[part] - ground[part]) * share;
    image.data[4 * place + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

export function rgb(style, name) {
  const probing = h("i", {});
  probing.style.color = `var(${name})`;
  document.documentElement.append(probing);
  probe.fillStyle = getComputedStyle(probing).color;
  probing.remove();
  probe.fillRect(0, 0, 1, 1);
  return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

// A matrix with names and numbers; `choose(row, column)` where one clicks.
export function matrix(values, rows, columns, { lit = -1, framed = new Set(), choose = null, label = "", signed = false, of = "of" } = {}) {
  const size = Math.max(15, Math.min(44, Math.floor(560 / Math.max(rows.length, columns.length))));
  const left = 14 + 7 * Math.min(12, Math.max(...rows.map((one) => one.length))), top = 14 + 6.4 * Math.min(12, Math.max(...columns.map((one) => one.length)));
  const width = left + size * columns.length + 24, height = top + size * rows.length + 6;
  const largest = signed ? Math.max(1e-9, ...values.map(Math.abs)) : 1;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "drawing", role: "img", "aria-label": label, "data-export": true });
  columns.forEach((name, column) => {
    const x = left + size * (column + 0.5);
    svg.append(s("text", { transform: `translate(${x + 4} ${top - 6}) rotate(-55)`, class: "" }, short(name)));
  });
  rows.forEach((name, row) => {
    if (row === lit) svg.append(s("rect", { class: "lit", x: 0, y: top + size * row, width: left, height: size }));
    svg.append(s("text", { x: left - 6, y: top + size * (row + 0.5) + 4, "text-anchor": "end" }, short(name)));
    columns.forEach((column, place) => {
      const value = values[row * columns.length + place], share = Math.min(1, Math.abs(value) / largest);
      const cell = s("g", choose ? { class: "button", onclick: () => choose(row, place) } : {});
      cell.told = `${name} → ${column}: ${fixed(value, 4)}`;
      const x = left + size * place, y = top + size * row;
      cell.append(s("rect", { class: "ground", x, y, width: size - 1, height: size - 1 }));
      cell.append(s("rect", { class: value < 0 ? "below" : "above", x, y, width: size - 1, height: size - 1, "fill-opacity": (0.9 * share).toFixed(3) }));
      if (framed.has(row + "," + place)) cell.append(s("rect", { x: x + 1, y: y + 1, width: size - 3, height: size - 3, fill: "none", stroke: "var(--ink)", "stroke-width": 2 }));
      if (size >= 30) {
        const digits = fixed(value, 2).replace(/^(\u2212?)0\./, "$1.");
        cell.append(s("text", { x: x + size / 2, y: y + size / 2 + 4, "text-anchor": "middle", ...(share > 0.6 ? { class: "inverse" } : {}) }, digits));
      }
      svg.append(cell);
    });
  });
  return svg;
}

// Lines between two columns of words, as strong as the weights.
export function lines(values, left, right, { lit = -1, choose = null, label = "" } = {}) {
  const step = 24, high = step * Math.max(left.length, right.length) + 16, width = 420;
  const svg = s("svg", { viewBox: `0 0 ${width} ${high}`, width, height: high, class: "drawing", role: "img", "aria-label": label, "data-export": true });
  left.forEach((name, row) => {
    right.forEach((other, column) => {
      const value = values[row * right.length + column];
      if (value < 0.02) return;
      const faint = lit >= 0 && row !== lit ? 0.16 : 1;
      const edge = s("path", {
        class: "edge", "stroke-width": (0.6 + 5 * value).toFixed(2), "stroke-opacity": (faint * (0.15 + 0.85 * value)).toFixed(3),
        d: `M140 ${step * row + 20} C 200 ${step * row + 20}, 220 ${step * column + 20}, 280 ${step * column + 20}`,
      });
      edge.told = `${name} → ${other}: ${fixed(value, 4)}`;
      svg.append(edge);
    });
  });
  left.forEach((name, row) => {
    if (row === lit) svg.append(s("rect", { class: "lit", x: 0, y: step * row + 8, width: 138, height: step - 2, rx: 4 }));
    svg.append(s("text", { x: 132, y: step * row + 24, "text-anchor": "end", class: choose ? "button" : "", ...(choose ? { onclick: () => choose(row) } : {}) }, short(name, 16)));
  });
  right.forEach((name, column) => svg.append(s("text", { x: 288, y: step * column + 24 }, short(name, 16))));
  return svg;
}

export function bar(share, kind = "") {
  return h("span", { class: "bar " + kind, "--share": Math.min(1, Math.abs(share)).toFixed(4), "aria-hidden": "true" });
}
