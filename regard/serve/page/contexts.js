// Contexts: one word in several texts, how its vectors part layer by layer, and which words pushed them.

import { ask, page, subject } from "./api.js";
import { equation } from "./blocks.js";
import { fixed, h, pointing, s, short } from "./dom.js";
import { bar } from "./draw.js";
import { set, state } from "./state.js";

const DASHES = ["", "8 3", "2 3", "9 3 2 3", "5 5", "1 4"];

export const contexts = {
  name: "Contexts",
  about: "One word in several texts.",
  keys: ["layer", "head"],
  everyHead: "the mean of all",
  async draw(trace) {
    const add = page.kept ? h("p", { class: "quiet" }, "Other sentences: ", page.kept[""]) : h("form", { class: "row another", onsubmit: (event) => {
      event.preventDefault();
      if (input.value.trim()) set({ text: [...state.text, input.value.trim()].slice(-6) });
    } });
    const input = h("input", { type: "text", class: "grow", placeholder: "Type another sentence with this word and see it land", "aria-label": "Another sentence", "data-key": "another" });
    if (!page.kept) add.append(h("div", { class: "grow" }, input), h("button", { type: "submit" }, "Add"));
    if (state.text.length < 2) return h("div", {}, h("p", { class: "lead" }, "A word's context is compared between texts: add a second one that shares a word with the first."), add);
    const rows = trace.rows.map((row) => row.words), chosen = rows[0][Math.min(state.word, rows[0].length - 1)];
    const everywhere = chosen.number !== null && rows.every((words) => words.some((word) => word.text.toLowerCase() === chosen.text.toLowerCase()));
    const found = await ask("/api/view/context", subject({ layer: state.layer, ...(state.head >= 0 ? { head: state.head } : {}), ...(everywhere ? { query: chosen.text } : {}) }));
    const data = found.results[0].data, blocks = found.results[0].blocks;
    return pointing(h("div", {},
      h("h2", {}, `“${data.word}” in ${data.texts.length} texts`),
      everywhere ? null : h("p", { class: "quiet" }, `“${chosen.text}” is not in every text; shown is “${data.word}”.`),
      h("p", { class: "lead" }, "The same word begins with the same vector (its place in the text apart). Layer by layer the other words mix into it, and its vectors part."),
      h("h3", {}, `Layer ${data.layer}, ${data.head === null ? "mean of all heads" : "head " + data.head}: what the new embedding is mixed from`),
      blocks.filter((block) => block.type === "equation").map(equation),
      h("h3", {}, "How far the vectors part from that in text 1"), h("div", { class: "frame wide", tabindex: 0, role: "region", "aria-label": "How far the vectors part" }, parting(data)),
      h("h3", {}, "Who pushed them apart"), h("div", { class: "plates" }, data.pushes.map((pushes, row) => pushed(pushes, data.texts[row], row))), add));
  },
};

// After each layer: how far each text's vector of the word is from that in the first text, to one side or the other.
function parting(data) {
  const steps = data.distances.length, texts = data.texts.length, [left, width, top, height] = [60, 560, 24, 220];
  const spread = data.distances.map((one) => one[0].map((value, text) => (text % 2 ? value : -value)));
  const x = (step) => left + (width * step) / (steps - 1), low = Math.min(...spread.flat()), high = Math.max(...spread.flat(), low + 1e-9), y = (value) => top + height * (1 - (value - low) / (high - low));
  const label = `Distances between the texts: ` + data.distances.map((one, step) => `after ${step} layers ${fixed(one[0][texts - 1])}`).join(", ");
  const svg = s("svg", { viewBox: `0 0 ${left + width + 190} ${top + height + 70}`, width: left + width + 190, class: "drawing", role: "img", "aria-label": label, "data-export": true });
  for (let step = 0; step < steps; step++) {
    svg.append(s("path", { class: "wire", d: `M${x(step)} ${top} V${top + height}` }));
    svg.append(s("text", { x: x(step), y: top + height + 20, "text-anchor": "middle" }, step ? `layer ${step - 1}` : "start"));
    const said = s("text", { x: x(step), y: top + height + 38, "text-anchor": "middle", class: "muted" }, `distance ${data.distances[step][0].slice(1, 4).map((value) => fixed(value)).join(", ")}`);
    svg.append(said, s("text", { x: x(step), y: top + height + 54, "text-anchor": "middle", class: "muted" }, `cosine ${data.cosines[step][0].slice(1, 4).map((value) => fixed(value, 3)).join(", ")}`));
  }
  const taken = [];
  for (let text = 0; text < texts; text++) {
    const kind = text % 2 ? "below" : "above";
    svg.append(s("polyline", { fill: "none", stroke: `var(--${kind})`, "stroke-width": 2.5, "stroke-dasharray": DASHES[text], points: spread.map((row, step) => `${x(step)},${y(row[text])}`).join(" ") }));
    spread.forEach((row, step) => {
      const dot = s("circle", { class: kind, cx: x(step), cy: y(row[text]), r: 5 });
      dot.told = `text ${text + 1}, after ${step} layers: ` + data.texts.map((_, other) => (other === text ? "" : `${fixed(data.distances[step][text][other], 3)} from text ${other + 1}`)).filter(Boolean).join(", ");
      svg.append(dot);
    });
    let at = y(spread[steps - 1][text]) + 4;
    while (taken.some((other) => Math.abs(other - at) < 14)) at += 14;
    taken.push(at);
    svg.append(s("text", { x: left + width + 12, y: at }, `${text + 1}  ${short(data.texts[text], 24)}`));
  }
  return svg;
}

function pushed(pushes, text, row) {
  const most = Math.max(1e-9, ...pushes.map((one) => Math.abs(one.push)));
  return h("table", {}, h("caption", {}, `Text ${row + 1}: ${text}; along the line from ${row ? "text 1" : "text 2"} to it`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "from"), h("th", { scope: "col" }, "push"))),
    h("tbody", {}, pushes.map((one) => h("tr", {}, h("th", { scope: "row" }, one.from), h("td", {}, bar(one.push / most, one.push < 0 ? "negative" : ""), fixed(one.push))))));
}
