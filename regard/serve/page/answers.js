// Answers: the alternatives at each word, the beam, where the model looked, what each layer would have said.

import { ask, page, subject } from "./api.js";
import { drawn } from "./blocks.js";
import { fixed, h, percent, pointing } from "./dom.js";
import { lines, matrix } from "./draw.js";
import { set, state } from "./state.js";

export const answers = {
  name: "Answers",
  about: "The answer as it came about.",
  keys: ["at", "beams"],
  async draw(trace) {
    const writes = trace.kind === "language model" ? { tokens: trace.tokens } : {};
    const watched = trace.kind === "translator" && state.beams > 1 && !state.begin.length;
    const data = await ask("/api/answers", subject({ ...writes, ...(watched ? { beams: state.beams } : {}) }));
    if (data.kind === "reader") return readers(data, trace);
    const at = Math.max(0, Math.min(state.at, data.produced.length - 1));
    const parts = [h("h2", {}, data.answer || "(nothing)"), h("p", { class: "lead" }, "Under each token the most probable at its place. ", page.kept ? page.kept[""] : "Choose another and the model goes on from there.")];
    if (state.begin.length) parts.push(h("p", { class: "row" }, h("button", { type: "button", "data-key": "free", onclick: () => set({ begin: [], at: 0 }) }, "Let it answer freely again"), h("span", { class: "quiet" }, `${state.begin.length} tokens were chosen by hand`)));
    parts.push(h("ol", { class: "produced", "aria-label": "The answer, token by token", tabindex: 0 }, data.produced.map((one, place) => column(one, place, at, data))));
    const extra = await Promise.all([alignment(trace), lens(trace, data, at, writes)]);
    parts.push(h("div", { class: "plates" }, ...extra.filter(Boolean)));
    if (trace.kind === "translator" && !page.kept) parts.push(beams(data));
    if (data.shares) parts.push(h("h3", {}, "What each token was made from (ALTI): source, then what was written before"),
      h("div", { class: "frame", tabindex: 0, role: "region", "aria-label": "What each token was made from" }, matrix(data.shares.flat(), data.produced.map((one) => one.text), data.inputs, { lit: at, label: "What each token was made from", choose: (row) => set({ at: row }) })));
    return pointing(h("div", {}, parts));
  },
};

function column(one, place, at, data) {
  const before = data.produced.slice(0, place).map((earlier) => earlier.token);
  const other = one.alternatives.map((way) => {
    const own = way.token === one.token, stays = own || way.token === data.end || Boolean(page.kept);
    return h("li", {}, h("button", { type: "button", class: "token" + (own ? " own" : ""), "--share": way.probability.toFixed(4), "data-key": `way${place}-${way.token}`, "aria-disabled": stays ? "true" : null,
      "aria-label": `${way.text}, ${percent(way.probability)}${own ? ", chosen" : stays ? "" : ": go on from here"}`, onclick: () => stays || set({ begin: [...before, way.token], at: place }) },
      h("span", {}, way.text), h("span", { class: "quiet" }, fixed(100 * way.probability, 1))));
  });
  return h("li", {}, h("button", { type: "button", "aria-pressed": String(place === at), "data-key": "at" + place, onclick: () => set({ at: place }) }, one.text), h("ol", {}, other));
}

async function alignment(trace) {
  if (trace.kind !== "translator" || trace.about.system === "seq2seq") return null;
  const found = await ask("/api/view/alignment", subject());
  const data = found.results[0].data, weights = data.weights.flat();
  return h("div", {}, h("h3", {}, "Cross-attention as alignment"), h("div", { class: "frame" }, lines(weights, data.target, data.source, { label: "Cross-attention: produced words to source words", choose: null })),
    h("p", { class: "quiet" }, `decoder layer ${data.layer}, ${data.head === null ? "mean of all heads" : "head " + data.head}`));
}

async function lens(trace, data, at, writes) {
  if (!Object.keys(trace.kinds).length) return null; // recurrent layers share no stream that could be read on the way
  try {
    const found = await ask("/api/view/lens", subject({ ...writes, query: data.first + at }));
    const [table, line] = found.results[0].blocks;
    return h("div", {}, h("h3", {}, `Layer by layer at “${data.produced[at].text}” (logit lens)`), drawn(table), drawn(line));
  } catch (error) {
    return h("p", { class: "quiet" }, error.message);
  }
}

function beams(data) {
  const choice = h("select", { "data-key": "beams", disabled: state.begin.length > 0, onchange: () => set({ beams: Number(choice.value) }) }, [1, 2, 3, 4, 6].map((count) => h("option", { value: count }, count === 1 ? "greedy" : count)));
  choice.value = String(state.beams);
  const tree = data.tree && drawn({ type: "tree", caption: "The beams that were followed, with the probability of each step", root: node(data.tree), choose: (path) => path[path.length - 1] !== data.end && (() => goOn(path, data)) });
  return h("div", {}, h("h3", {}, "The beam"), h("label", {}, h("span", { class: "quiet" }, "beams"), choice), h("p", { class: "quiet" }, state.begin.length ? "A beam is of a whole answer: let it answer freely again to see one." : tree ? "Choose a token and the model goes on from there." : null), tree);
}

const node = (one) => ({ label: one.token, token: one.id, probability: one.probability, chosen: one.chosen, children: one.children.map(node) });

// The tree goes when its node was chosen, so what is focused is that place of the answer, which is there before and after.
function goOn(path, data) {
  const at = Math.min(path.length, data.produced.length) - 1;
  document.querySelector(`[data-key="at${at}"]`).focus();
  set({ begin: path, at: path.length - 1 });
}

function readers(data, trace) {
  const list = (choices, caption) => h("div", {}, h("h3", {}, caption), h("ol", { class: "choices" }, choices.map((one) => h("li", { class: "token", "--share": one.probability.toFixed(4) }, h("span", {}, one.text), h("span", { class: "quiet" }, percent(one.probability))))));
  if (data.classes) return h("div", {}, h("h2", {}, data.classes[0].text), list(data.classes, "The classes"));
  return h("div", {}, h("p", { class: "lead" }, `Hidden words are written ${trace.about.mask}. What they may be:`), data.hidden.map((choices, place) => list(choices, `Hidden word ${place + 1}`)));
}
