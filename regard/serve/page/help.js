// The keys, told.

import { h } from "./dom.js";

const KEYS = [
  ["1 … 6", "the views, in their order"], ["w  W", "the next word, the one before"], ["l  L", "the next layer, the one before"], ["h  H", "the next head, the one before"],
  ["space", "play or pause the process"], [".  ,", "one step on, one back"], ["o", "the whole picture"], ["arrows", "along tabs, words, heads; in a strip of numbers from one to the next; on a map"], ["+  −", "closer, farther, on a map"], ["t", "the tour"], ["?", "this list"],
];

export function help() {
  const dialog = h("dialog", { "aria-label": "Keys", onclose: () => dialog.remove() }, h("h2", {}, "Keys"),
    h("table", {}, h("tbody", {}, KEYS.map(([keys, said]) => h("tr", {}, h("th", { scope: "row" }, keys.split("  ").map((key) => [h("kbd", {}, key), " "])), h("td", {}, said))))),
    h("form", { method: "dialog", class: "row end" }, h("button", { autofocus: true }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
