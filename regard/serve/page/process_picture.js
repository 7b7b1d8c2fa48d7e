// The process as one picture: every part stands at its place from the beginning, time lets it come in, the camera follows.

import { fixed, percent, pointing, s, short } from "./dom.js";
import { strip } from "./draw.js";

const ROWS = 8;
const CELL = 5;
const GHOST = 0.07;
// What the camera shows at each step: x, y, width, height.
const VIEWS = [
  [-12, -20, 300, 248], [310, -8, 770, 250], [310, -8, 560, 250], [310, -8, 560, 250], [310, -8, 560, 250], [310, -8, 770, 290],
  [-12, 306, 330, 250], [-12, 306, 600, 250], [300, 306, 410, 300], [500, 306, 560, 300], [700, 300, 510, 310],
];
// The same where there is little room: only what is new.
const NARROW = [
  [-12, -20, 270, 248], [310, -8, 280, 236], [310, -8, 340, 236], [560, -8, 300, 236], [560, -8, 300, 236], [690, 20, 380, 260],
  [-12, 306, 270, 250], [70, 306, 420, 250], [460, 306, 230, 300], [690, 320, 380, 230], [990, 300, 220, 310],
];
const WHOLE = [-12, -12, 1222, 632];
const ROOM = 560;

export function pictureOf(d, head, chosen) {
  const svg = s("svg", { class: "picture", role: "group", "aria-label": `The process for ${d.query}, as a picture`, "data-export": true, preserveAspectRatio: "xMidYMid meet" });
  const parts = [], flights = [];
  const put = (step, element, begin = 0, end = 1) => (svg.append(element), parts.push({ step, element, begin, end }), element);
  const fly = (step, element, from, to, begin, end) => (svg.append(element), flights.push({ step, element, from, to, begin, end }));
  const text = (x, y, said, more = {}) => s("text", { x, y, ...more }, said);
  const wire = (path) => s("path", { class: "wire", d: path });
  const a = d.attention, steps = d.steps, wide = steps[`${a}.queries`][0][0].length;
  const columns = Math.min(d.entering.length, 32), block = (values, x, y, name, cell = CELL, high = 5) =>
    strip(values, { x, y, columns, cell: cell * (32 / columns), high, name });
  const small = Math.min(CELL, 160 / wide);

  // 1. The embedding, part by part.
  let y = 20;
  put(0, text(0, 6, d.formulas.embedding, { class: "formula" }));
  d.labels.forEach(([label, key], number) => {
    const sign = number === 0 ? "" : label === "sum" ? "=" : label === "norm" ? "↓" : "+";
    const high = Math.ceil(d.embedding[key].length / columns) * 5;
    const begin = number / d.labels.length;
    put(0, text(68, y + high / 2 + 4, `${sign} ${label}`, { "text-anchor": "end" }), begin);
    put(0, block(d.embedding[key], 78, y, label), begin);
    y += high + 14;
  });
  const entering = block(d.entering, 78, Math.min(y, 176), "x, what enters the layer");
  put(0, text(68, Math.min(y, 176) + 24, "x", { "text-anchor": "end" }), 0.9);
  put(0, entering, 0.9);

  // 2. Query, keys, values; 3.-5. scores, scaled scores, weights.
  const rows = shown(d, head), tokens = rows.map((row) => d.tokens[row]);
  const query = steps[`${a}.queries`][head][0], keys = steps[`${a}.keys`][head], values = steps[`${a}.values`][head];
  const top = (row) => 46 + row * Math.min(24, 180 / Math.max(1, rows.length));
  const [kx, sx, ex, wx, vx] = [410, 585, 655, 725, 880];
  put(1, wire(`M245 100 C 275 100, 290 18, 395 18`), 0, 0.4);
  put(1, text(400, 24, "q", { "text-anchor": "end", class: "formula" }), 0.1);
  put(1, strip(query, { x: kx, y: 12, cell: small, high: 13, name: `query of ${d.asking.text}` }), 0.1, 0.5);
  [["keys k", kx, 1], ["q·k", sx, 2], ["scaled", ex, 3], ["softmax", wx, 4], ["values v", vx, 1]].forEach(([said, x, step]) => put(step, text(x, 40, said, { class: "muted" })));
  const words = [...new Set(tokens.map((token) => token.word))];
  tokens.forEach((token, row) => {
    const at = top(row), begin = (row / tokens.length) * 0.8, own = token.token === d.asking.token && d.asking.word !== null;
    const label = s("g", { class: "button" }, ...(own ? [s("rect", { class: "lit", x: 318, y: at - 2, width: 88, height: 18, rx: 4 })] : []), text(402, at + 11, short(token.text), { "text-anchor": "end" }));
    label.addEventListener("click", () => chosen.word(token.word));
    put(1, label, begin);
    put(1, strip(keys[rows[row]], { x: kx, y: at, cell: small, high: 13, name: `key of ${token.text}` }), begin);
    put(1, strip(values[rows[row]], { x: vx, y: at, cell: small, high: 13, name: `value of ${token.text}` }), begin);
    const dot = d.scores[head][token.token];
    const score = put(2, text(sx + 48, at + 11, fixed(dot), { "text-anchor": "end", "data-number": "score" }), begin, begin + 0.2);
    score.told = `q·k(${token.text}) = ${fixed(dot, 4)}`;
    fly(2, strip(query, { cell: small, high: 13, name: "" }), [kx, 12], [kx, at], begin, begin + 0.2);
  });
  words.forEach((word) => {
    const own = tokens.map((token, row) => [token, row]).filter(([token]) => token.word === word).map(([, row]) => row);
    const middle = (top(own[0]) + top(own[own.length - 1])) / 2, begin = (own[0] / tokens.length) * 0.8;
    const share = d.weights[head][word], name = d.words[word].text;
    const scaled = put(3, text(ex + 44, middle + 11, fixed(d.scaled_scores[head][word]), { "text-anchor": "end", "data-number": "scaled" }), begin, begin + 0.2);
    scaled.told = `s(${name}) = ${fixed(d.scaled_scores[head][word], 4)}`;
    if (own.length > 1) put(3, wire(`M${sx + 54} ${top(own[0]) + 2} h4 V${top(own[own.length - 1]) + 12} h-4`), begin);
    const weight = s("g", {},
      s("rect", { class: "ground", x: wx, y: middle + 1, width: 90, height: 12, rx: 2 }),
      s("rect", { class: "above", x: wx, y: middle + 1, width: 90 * share, height: 12, rx: 2 }),
      text(wx + 96, middle + 11, percent(share), { "data-number": "weight" }));
    weight.told = `weight(${name}) = ${fixed(share, 6)}`;
    put(4, weight, begin, begin + 0.2);
    // 6. What each word hands on, as strong as its weight, comes together.
    const handed = d.weighted_values[head][d.detailed.indexOf(word)];
    put(5, s("path", { class: "edge", "stroke-width": 0.5 + 6 * share, "stroke-opacity": 0.15 + 0.6 * share, d: `M${vx + 162} ${middle + 7} C ${vx + 185} ${middle + 7}, ${vx + 185} 256, ${vx + 162} 256` }), begin, begin + 0.2);
    fly(5, strip(handed, { cell: small, high: 13, name: "", top: Math.max(...handed.map(Math.abs), 0.3) }), [vx, middle], [vx, 250], begin, begin + 0.25);
  });
  const mixed = steps[`${a}.mixed`].map((one) => one[0]);
  if (rows.length < d.tokens.length || d.detailed.length < d.words.length) put(1, text(vx - 10, top(rows.length - 1) + 34, "the rest of the text is in the sums", { class: "muted", "text-anchor": "end" }));
  put(5, text(vx - 10, 261, "Σ weight · v =", { "text-anchor": "end", class: "formula" }), 0.6);
  put(5, strip(mixed[head], { x: vx, y: 250, cell: small, high: 13, name: `mixed values, head ${head}` }), 0.6);

  // 7. All heads; 8. projected.
  const tall = Math.min(22, 180 / mixed.length), across = 78;
  mixed.forEach((one, number) => {
    const at = 330 + number * tall, button = s("g", { class: "button" },
      ...(number === head ? [s("rect", { class: "lit", x: 0, y: at - 3, width: across - 6, height: Math.min(18, tall), rx: 4 })] : []),
      text(across - 10, at + Math.min(11, tall - 2), `head ${number}`, { "text-anchor": "end" }));
    button.addEventListener("click", () => chosen.head(number));
    put(6, button, (number / mixed.length) * 0.7);
    put(6, strip(one, { x: across, y: at, cell: small, high: Math.min(13, tall - 2), name: `mixed values, head ${number}` }), number === head ? 0 : (number / mixed.length) * 0.7);
    if (number === head) fly(6, strip(one, { cell: small, high: Math.min(13, tall - 2), name: "" }), [vx, 250], [across, at], 0, 0.6);
    put(7, wire(`M${across + 166} ${at + 5} C ${across + 190} ${at + 5}, ${across + 190} 420, ${across + 222} 420`), 0, 0.5);
  });
  const output = steps[`${a}.output`][0], adds = 352;
  put(7, text(across + 196, 322, "W_O", { class: "formula", "text-anchor": "middle" }), 0.2);
  const stack = (step, x, list) => {
    let at = 330;
    list.forEach(([sign, said, values, name], number) => {
      const high = Math.ceil(values.length / columns) * Math.min(5, 40 / Math.ceil(values.length / columns));
      const begin = (number / list.length) * 0.8, rows = Math.ceil(values.length / columns);
      put(step, text(x - 8, at + 24, sign, { "text-anchor": "end", class: "formula" }), begin);
      put(step, block(values, x, at, name, CELL, Math.min(5, 40 / rows)), begin);
      put(step, text(x, at + high + 12, said, { class: "muted" }), begin);
      at += high + 26;
    });
  };
  const normed = (name) => (d.formulas.norm_first ? [] : [["↓", d.formulas.norm, steps[`${name}_residual.output`][0], `${d.formulas.norm} of the sum`]]);
  const added = (name) => (steps[`${name}_residual.added`] || steps[`${name}_residual.output`])[0];
  put(7, block(output, across + 226, 400, "attention's output, projected"), 0.4);
  put(7, text(across + 226, 454, "attention", { class: "muted" }), 0.4);
  stack(8, adds + 160, [["", "x, as it entered", d.entering, "x"], ["+", "attention", output, "attention's output"], ["=", "sum", added(a), "sum"], ...normed(a)]);
  fly(8, block(output, 0, 0, ""), [across + 226, 400], [adds + 160, 396], 0.1, 0.45);

  // 10. The feed-forward network; 11. the new embedding.
  const inner = steps["feed_forward.activated"][0], many = Math.ceil(Math.sqrt(inner.length * 1.6));
  const cell = Math.min(5, 150 / many);
  put(9, wire("M676 440 h34"), 0, 0.3);
  put(9, strip(inner, { x: 714, y: 350, columns: many, cell, high: cell, name: "inner numbers after the non-linearity" }), 0.2);
  put(9, text(714, 344, `${inner.length} inner numbers`, { class: "muted" }), 0.2);
  put(9, wire("M868 400 h14"), 0.5);
  put(9, block(steps["feed_forward.output"][0], 886, 380, "feed-forward output", 3.4), 0.6);
  put(9, text(886, 436, "feed-forward", { class: "muted" }), 0.6);
  const forward = steps["feed_forward.output"][0], before = added("feed_forward").map((value, place) => value - forward[place]);
  stack(10, 1030, [["", "x", before, "x"], ["+", "feed-forward", forward, "feed-forward output"], ["=", "sum", added("feed_forward"), "sum"], ...normed("feed_forward")]);
  put(10, text(1190, 318, `the new embedding of ${short(d.query)}`, { class: "formula", "text-anchor": "end" }), 0.8);

  return { svg: pointing(svg), render: (time, whole) => render(svg, parts, flights, time, whole) };
}

// Which of the drawn tokens have rows: all of a few, else the query's own and those with the largest weights.
function shown(d, head) {
  const all = d.tokens.map((_, row) => row);
  if (all.length <= ROWS) return all;
  const share = (row) => (d.tokens[row].token === d.asking.token ? 2 : d.weights[head][d.tokens[row].word]);
  return all.sort((a, b) => share(b) - share(a)).slice(0, ROWS).sort((a, b) => a - b);
}

const ease = (part) => (part < 0.5 ? 2 * part * part : 1 - 2 * (1 - part) ** 2);

function render(svg, parts, flights, time, whole) {
  const views = svg.clientWidth && svg.clientWidth < ROOM ? NARROW : VIEWS, last = views.length - 1, now = Math.min(last, Math.ceil(time - 1e-9)), share = time - (now - 1);
  const within = (part) => Math.max(0, Math.min(1, (share - part.begin) / Math.max(1e-6, part.end - part.begin)));
  for (const part of parts) {
    const come = part.step < now || now === 0 ? 1 : part.step > now ? 0 : within({ begin: part.begin, end: Math.min(1, part.begin + 0.2) });
    part.element.style.opacity = part.step <= now || (now === 0 && part.step === 0) ? GHOST + (1 - GHOST) * come : GHOST;
    if (part.step > now) part.element.setAttribute("aria-hidden", "true");
    else part.element.removeAttribute("aria-hidden");
    if (part.element.values) part.element.setAttribute("tabindex", part.step > now ? -1 : 0); // what is not there yet is not reached by Tab
  }
  for (const flight of flights) {
    const part = within(flight), seen = flight.step === now && part > 0 && part < 1;
    flight.element.setAttribute("visibility", seen ? "visible" : "hidden");
    flight.element.setAttribute("aria-hidden", "true");
    flight.element.setAttribute("tabindex", -1);
    if (!seen) continue;
    const [x, y] = [0, 1].map((axis) => flight.from[axis] + (flight.to[axis] - flight.from[axis]) * ease(part));
    flight.element.setAttribute("transform", `translate(${x} ${y})`);
  }
  const from = views[Math.max(0, now - 1)], to = views[now], part = ease(Math.max(0, Math.min(1, share * 2.5)));
  const box = whole ? WHOLE : now === 0 ? to : to.map((value, axis) => from[axis] + (value - from[axis]) * part);
  svg.setAttribute("viewBox", box.map((value) => value.toFixed(1)).join(" "));
}
