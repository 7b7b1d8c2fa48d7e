// Any result of the library, block by block: notes, tables, grids, lines over layers, trees, the notes' equation.

import { fixed, h, percent, roving, s, short } from "./dom.js";
import { bar, matrix } from "./draw.js";

export function blocksOf(results) {
  return h("div", {}, ...results.map((result) => {
    const section = h("section", {}, h("h2", {}, result.title), ...result.blocks.map(drawn));
    section.querySelectorAll("[role=region]").forEach((region) => region.setAttribute("aria-label", `${region.getAttribute("aria-label")} (${result.title})`));
    return section;
  }));
}

export function drawn(block) {
  return { note, table, grid, lines, tree, equation }[block.type](block);
}

function note(block) {
  const kind = block.holds === null ? "" : block.holds ? "holds" : "fails";
  return h("p", { class: kind }, (kind ? (block.holds ? "✓ " : "✗ ") : "") + block.text);
}

export function equation(block) {
  const terms = block.words.map((word, place) => [place ? " + " : "", h("span", { "--share": block.weights[place].toFixed(3) }, `${fixed(block.weights[place])} e(${word})`)]);
  return h("div", {}, h("small", {}, block.caption), h("p", { class: "equation" }, `e(${block.word}) = `, terms));
}

function table(block) {
  const shares = new Set(block.shares);
  const cell = (value, place) => {
    const column = block.columns[place], share = shares.has(column) && typeof value === "number";
    const said = typeof value === "number" && !Number.isInteger(value) ? fixed(value, block.digits) : value === null ? "" : String(value);
    return place === 0 ? h("th", { scope: "row" }, said) : h("td", { class: typeof value === "number" ? "number" : "" }, share ? bar(value) : null, said);
  };
  return scrolled(block.caption, h("table", {}, h("caption", {}, block.caption),
    h("thead", {}, h("tr", {}, block.columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, block.rows.map((row) => h("tr", {}, row.map(cell))))));
}

function grid(block) {
  const values = block.values.flat(), plain = block.signed || Math.max(...values.map(Math.abs)) > 1;
  const framed = new Set(block.framed.map((pair) => pair.join(",")));
  return h("div", {}, h("h3", {}, block.caption), scrolled(block.caption, matrix(values, block.rows, block.columns, { framed, signed: plain, label: block.caption })));
}

const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

export function lines(block) {
  const values = Object.values(block.lines).flat().filter((value) => value !== null);
  const low = Math.min(...values), high = Math.max(...values), room = high - low || 1;
  const [width, height, left, top] = [460, 150, 58, 12];
  const x = (place) => left + (width * place) / Math.max(1, block.steps.length - 1), y = (value) => top + (height * (high - value)) / room;
  const svg = s("svg", { viewBox: `0 0 ${left + width + 96} ${top + height + 36}`, width: left + width + 96, class: "drawing", role: "img", "data-export": true,
    "aria-label": `${block.caption}: ` + Object.entries(block.lines).map(([name, line]) => `${name}: ${line.map((value) => fixed(value)).join(", ")}`).join("; ") });
  for (const value of [high, (high + low) / 2, low]) {
    svg.append(s("path", { class: "wire", d: `M${left} ${y(value)} h${width}` }), s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "muted" }, fixed(value, room < 0.1 ? 4 : room < 10 ? 2 : 1)));
  }
  const every = Math.ceil(block.steps.length / 10);
  block.steps.forEach((step, place) => place % every === 0 && svg.append(s("text", { x: x(place), y: top + height + 18, "text-anchor": "middle", class: "muted" }, short(step))));
  let taken = [];
  Object.entries(block.lines).forEach(([name, line], number) => {
    svg.append(s("polyline", { class: "edge", "stroke-width": 2, "stroke-dasharray": DASHES[number % 4], points: line.map((value, place) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
    line.forEach((value, place) => {
      const dot = s("circle", { class: "above", cx: x(place), cy: y(value), r: 3.5 });
      dot.told = `${name}, ${block.steps[place]}: ${fixed(value, 4)}`;
      svg.append(dot);
    });
    let at = y(line[line.length - 1]) + 4;
    while (taken.some((other) => Math.abs(other - at) < 13)) at += 13;
    taken.push(at);
    svg.append(s("text", { x: left + width + 9, y: at }, short(name, 14)));
  });
  return h("div", {}, h("h3", {}, block.caption), scrolled(block.caption, svg));
}

// Where there is something to do with a node it is a button: one stop of Tab for the whole tree, arrows from node to node.
function tree(block) {
  const drawn = h("ul", { class: "tree" }, branch(block.root, block.choose));
  const nodes = [...drawn.querySelectorAll("button")];
  roving(nodes, 1);
  return h("div", {}, h("h3", {}, block.caption), drawn);
}

function branch(node, choose, before = []) {
  const path = node.token === null || node.token === undefined ? before : [...before, node.token];
  const label = [bar(node.probability), node.chosen ? h("b", {}, node.label) : node.label, " " + fixed(node.probability)];
  const does = choose && path.length && choose(path);
  return h("li", {}, does ? h("button", { type: "button", class: "node", "data-key": "node" + path.join("-"), onclick: does,
    "aria-label": `${node.label}, ${percent(node.probability)}${node.chosen ? ", chosen" : ""}: go on from here` }, label) : label,
  node.children.length ? h("ul", {}, node.children.map((child) => branch(child, choose, path))) : null);
}

export function scrolled(label, inner) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, inner);
}
