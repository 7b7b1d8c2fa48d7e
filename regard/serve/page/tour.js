// Two minutes through the notes' example: what self-attention is, on two sentences about Python.

import { h } from "./dom.js";
import { EXAMPLE, set } from "./state.js";

const START = { text: EXAMPLE, begin: [], edit: [], kind: "", layer: 0, head: -1, word: 0, at: 0, step: 0 };
const STOPS = [
  ["One word, two meanings?", "“Python executes quickly”, “Python crawls quickly”: the first is a language, the second a snake. The word is the same. How does a model tell? It lets each word take in the others: self-attention.", { view: "process", ...START }],
  ["A word becomes numbers", "Each word begins as a row of a table, plus a pattern that says where in the text it stands. So far “Python” is the same in both.", { view: "process", step: 0 }],
  ["Asking and being found", "Three learnt maps make a query (what Python asks for), keys (what each word can be found by) and values (what each word hands on).", { view: "process", step: 1 }],
  ["How similar are words?", "By dot products: the query with every key, number by number. The larger, the closer. Scaled by the square root of their size, so that they stay moderate.", { view: "process", step: 3 }],
  ["Shares", "The softmax makes shares of the scores: positive, and 1 together. The notes have 0.4, 0.4 and 0.2; here are the model's own.", { view: "process", step: 4 }],
  ["The mixture", "The values come together, each as strong as its share: e(Python) = … e(Python) + … e(executes) + … That is the contextual embedding.", { view: "process", step: 5 }],
  ["Many heads", "All of it happens in several heads at once, each with its own maps. Rows are layers: choose any head to see what it looks at.", { view: "heads", layer: 0, head: -1 }],
  ["The meanings part", "Layer by layer the two Pythons move apart. Below stands who pushed them: “executes” here, “crawls” there. Type a sentence of your own.", { view: "contexts" }],
  ["The answer", "From such vectors the answer is written, token by token. Choose an alternative, and the model goes on from there.", { view: "answers" }],
  ["Now change it", "Silence a head, hide a word, drag a weight: what would the model answer then? That is all. The page is yours.", { view: "what-if" }],
];

export function tour(root) {
  root.querySelector(".tour")?.remove();
  let at = 0;
  const box = h("aside", { class: "tour", role: "dialog", "aria-label": "Tour", tabindex: -1 });
  const leave = () => box.remove();
  const show = () => {
    const [title, text, changes] = STOPS[at];
    set(changes);
    const on = h("button", { type: "button", onclick: () => (at + 1 < STOPS.length ? (at++, show()) : leave()) }, at + 1 < STOPS.length ? "Next" : "Done");
    box.replaceChildren(h("h2", {}, title), h("p", { "aria-live": "polite" }, text),
      h("div", { class: "row" }, h("small", {}, `${at + 1} of ${STOPS.length}`), h("span", { class: "push" }), h("button", { type: "button", disabled: at === 0, onclick: () => (at--, show()) }, "Back"), on, h("button", { type: "button", "aria-label": "End the tour", onclick: leave }, "×")));
    on.focus({ preventScroll: true });
  };
  box.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  root.append(box);
  show();
}
