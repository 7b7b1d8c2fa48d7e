// Questions: every view that the library has, by its name, with what it says block by block.

import { ask, page, subject } from "./api.js";
import { blocksOf } from "./blocks.js";
import { h, pointing } from "./dom.js";
import { set, state } from "./state.js";

export const questions = {
  name: "Questions",
  about: "Ten questions that can be asked of a trace.",
  keys: ["ask", "kind", "layer", "head", "word"],
  async draw(trace, kind) {
    if (page.kept) return pointing(blocksOf((await ask("/api/asked")).results));
    const { views } = await ask("/api/views");
    const name = views[state.ask] ? state.ask : "similarity", one = views[name], takes = new Set(one.options);
    const choice = h("select", { "data-key": "ask", "aria-label": "Question", onchange: () => set({ ask: choice.value }) }, Object.entries(views).map(([key, view]) => h("option", { value: key }, `${key}: ${view.asks}`)));
    choice.value = name;
    const words = trace.rows[0].words, word = words[Math.min(state.word, words.length - 1)], more = {};
    if (takes.has("layer") && state.layer && name !== "similarity") more.layer = state.layer;
    if (takes.has("head") && state.head >= 0 && name !== "alignment") more.head = state.head;
    if (takes.has("kind") && kind && name !== "walkthrough") more.kind = kind;
    if (takes.has("query") && word.number !== null && ["similarity", "contribution"].includes(name)) more.query = word.text;
    if (name === "generation" && trace.kind === "language model") more.tokens = trace.tokens;
    let shown;
    try {
      shown = blocksOf((await ask("/api/view/" + name, subject(more))).results);
    } catch (error) {
      shown = h("p", { class: "failed", role: "alert" }, `${error.message}. (This view is for ${one.models}.)`);
    }
    return pointing(h("div", {}, h("div", { class: "row asked" }, choice), shown));
  },
};
