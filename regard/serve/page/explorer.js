// The explorer: a model, a few texts, their words, and views of them that are linked by what is chosen.

import { answers } from "./answers.js";
import { ask, forget, page, subject } from "./api.js";
import { contexts } from "./contexts.js";
import { announce, furnish, h, roving } from "./dom.js";
import { heads } from "./heads.js";
import { help } from "./help.js";
import { process } from "./process.js";
import { questions } from "./questions.js";
import { saved } from "./save.js";
import { listen, set, state } from "./state.js";
import { tour } from "./tour.js";
import { whatIf } from "./whatif.js";

export const VIEWS = { process, heads, contexts, answers, "what-if": whatIf, questions };
const KINDS = { encoder: "reading the text", decoder: "what was written so far", cross: "looking at the source" };
// What a view needs of the trace beyond the texts: of language models, how far to go on.
const GOES_ON = 12;

export async function explorer(root) {
  const parts = {};
  let models = [], trace = null, told = null, ticket = 0;

  async function begin() {
    root.replaceChildren(h("p", { class: "quiet" }, "Opening…"));
    try {
      models = (await ask("/api/models")).models;
    } catch (error) {
      root.replaceChildren(h("p", { class: "failed", role: "alert" }, error.message));
      return;
    }
    forget();
    if (models.some((model) => model.state === "loading")) setTimeout(begin, 700);
    const usable = models.filter((model) => model.state === "ready");
    if (!usable.some((model) => model.name === state.model)) set({ model: usable.length ? usable[0].name : "" }, true);
    furnished();
    if (usable.length) await read();
  }

  // What stands around the views.
  function furnished() {
    const ready = models.filter((model) => model.state === "ready");
    parts.model = h("select", { "aria-label": "Model", "data-key": "model", onchange: () => set({ model: parts.model.value, layer: 0, head: -1, kind: "", word: 0, begin: [], edit: [], at: 0 }) },
      ready.map((model) => h("option", { value: model.name }, model.name)));
    parts.model.value = state.model;
    parts.texts = h("ol", { class: "texts", "aria-label": "Texts" });
    parts.words = h("div", { class: "words", role: "radiogroup", "aria-label": "The chosen word" });
    parts.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Views" });
    parts.bar = h("div", { class: "row" });
    parts.view = h("section", { class: "view", role: "tabpanel", id: "view", "aria-label": "View" });
    const theme = h("button", { type: "button", "aria-label": "Light or dark", onclick: () => {
      const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      draw();
    } }, "◐");
    const tools = h("div", { class: "tools" },
      page.kept ? null : h("button", { type: "button", onclick: () => tour(root) }, "Tour"), h("button", { type: "button", onclick: help }, "Keys"), theme,
      h("button", { type: "button", onclick: () => saved(parts.view, "svg") }, "SVG"), h("button", { type: "button", onclick: () => saved(parts.view, "png") }, "PNG"));
    const failures = models.filter((model) => model.state !== "ready").map((model) => h("p", { class: "failed", role: "status" },
      h("b", {}, model.name), model.state === "loading" ? " is being opened…" : ` could not be opened: ${model.reason}`));
    root.replaceChildren(
      h("header", {}, h("div", { class: "top" }, h("h1", {}, "regard"), ready.length ? h("label", {}, h("span", { class: "quiet" }, "model"), parts.model) : null, tools), failures, parts.texts, parts.words),
      h("main", {}, parts.tabs, parts.bar, parts.view),
      h("footer", { class: "foot quiet" }, h("small", {}, "Blue: above zero, orange: below; the stronger, the larger. Every number is the model's own. ", page.kept ? page.kept.foot : ""), page.kept ? null : h("a", { href: "/docs" }, "The service's reference")));
    furnish(root);
    const tabs = Object.entries(VIEWS).map(([name, view]) => h("button", { type: "button", role: "tab", id: "tab-" + name, "aria-controls": "view", onclick: () => set({ view: name }) }, view.name));
    parts.tabs.append(...tabs);
    roving(tabs, tabs.length, Math.max(0, Object.keys(VIEWS).indexOf(state.view)));
  }

  // The texts were chosen anew: trace them.
  async function read() {
    const mine = ++ticket;
    parts.view.setAttribute("aria-busy", "true");
    drawTexts();
    const model = models.find((one) => one.name === state.model);
    try {
      const found = await ask("/api/trace", subject());
      if (mine !== ticket) return;
      trace = { ...found, about: model, tokens: GOES_ON };
      const words = asking().words;
      if (state.word >= words.length || state.word < 0) set({ word: 0 }, true);
    } catch (error) {
      if (mine !== ticket) return;
      trace = null;
      parts.words.replaceChildren();
      parts.bar.replaceChildren();
      drawTexts();
      failed(error);
      return;
    }
    drawTexts();
    await draw();
  }

  function drawTexts() {
    const inputs = state.text.map((text, row) => h("li", {},
      h("input", { type: "text", value: text, readonly: Boolean(page.kept), title: page.kept && page.kept[""], "aria-label": `Text ${row + 1}`, "data-key": "text" + row, spellcheck: "false", onchange: (event) => change(row, event.target.value.trim()) }),
      h("span", { class: "answer", "aria-label": trace && trace.rows[row] && trace.rows[row].answer ? "Answer" : null }, trace && trace.rows[row] ? trace.rows[row].answer : ""),
      state.text.length > 1 && !page.kept ? h("button", { type: "button", "aria-label": `Remove text ${row + 1}`, onclick: () => change(row, "") }, "×") : h("span", {})));
    const add = state.text.length < 6 && !page.kept ? h("li", {}, h("button", { type: "button", "data-key": "add", onclick: () => {
      const last = state.text[state.text.length - 1];
      set({ text: [...state.text, last] });
    } }, "Add a text to compare")) : null;
    keepFocus(parts.texts, () => parts.texts.replaceChildren(...inputs, ...(add ? [add] : [])));
  }

  function change(row, text) {
    const texts = text ? state.text.map((one, place) => (place === row ? text : one)) : state.text.filter((_, place) => place !== row);
    if (texts.length) set({ text: texts, begin: [], edit: [], at: 0, row: -1, ...(row === 0 ? { word: 0 } : {}) });
  }

  // The words among which one is chosen: those that ask in this kind of attention.
  function asking() {
    const first = trace.rows[0];
    return ["encoder", ""].includes(kind()) || !first.target || state.view === "contexts" ? { words: first.words, name: "" } : { words: first.target, name: "the answer" };
  }

  function kind() {
    const kinds = Object.keys(trace.kinds);
    return kinds.includes(state.kind) ? state.kind : kinds[0] || "";
  }

  function drawWords() {
    const { words, name } = asking(), chosen = Math.min(state.word, words.length - 1);
    const buttons = words.slice(0, 200).map((word, number) => h("button", {
      type: "button", role: "radio", "aria-checked": String(number === chosen), class: word.number === null ? "special" : "", "data-key": "word" + number,
      title: word.pieces.length > 1 ? "in pieces: " + word.pieces.join(" · ") : null, onclick: () => set({ word: number }),
    }, word.text));
    keepFocus(parts.words, () => parts.words.replaceChildren(h("span", { class: "name" }, name ? `word of ${name}` : "word"), ...buttons));
    roving(buttons, buttons.length, Math.max(0, chosen));
  }

  function drawBar() {
    const kinds = Object.keys(trace.kinds), view = VIEWS[state.view];
    const chooser = (name, options, value, choose) => {
      const select = h("select", { "data-key": name, onchange: () => choose(select.value) }, options.map(([key, said]) => h("option", { value: key }, said)));
      select.value = String(value);
      return h("label", {}, h("span", { class: "quiet" }, name), select);
    };
    const found = [];
    if (view.keys.includes("kind") && kinds.length > 1) found.push(chooser("attention", kinds.map((one) => [one, `${one}: ${KINDS[one]}`]), kind(), (value) => set({ kind: value, layer: 0, head: -1, word: 0 })));
    const layers = kind() ? trace.kinds[kind()].places.length : trace.layers.length;
    if (view.keys.includes("layer")) found.push(chooser("layer", Array.from({ length: layers }, (_, number) => [number, number]), Math.min(state.layer, layers - 1), (value) => set({ layer: Number(value) })));
    if (view.keys.includes("head") && kind()) {
      const heads = trace.kinds[kind()].heads;
      found.push(chooser("head", [[-1, view.everyHead || "the sharpest"], ...Array.from({ length: heads }, (_, number) => [number, number])], state.head, (value) => set({ head: Number(value) })));
    }
    keepFocus(parts.bar, () => parts.bar.replaceChildren(...found));
  }

  async function draw() {
    if (!trace) return;
    if (!VIEWS[state.view]) set({ view: "process" }, true); // of an address that was typed
    const mine = ++ticket, view = VIEWS[state.view];
    [...parts.tabs.children].forEach((tab, number) => {
      const own = Object.keys(VIEWS)[number] === state.view;
      tab.setAttribute("aria-selected", String(own));
      if (!own) return;
      parts.view.setAttribute("aria-labelledby", tab.id);
      tab.parentNode.scrollLeft = tab.offsetLeft - tab.parentNode.offsetLeft - 40;
    });
    document.title = `${view.name} · ${state.text[0]} · regard`;
    drawWords();
    drawBar();
    parts.view.setAttribute("aria-busy", "true");
    try {
      const drawn = await view.draw(trace, kind());
      if (mine !== ticket) return;
      const first = drawn.querySelector("h2, h3");
      if (!first || first.tagName === "H3") drawn.prepend(h("h2", { class: "unseen" }, view.about));
      keepFocus(parts.view, () => parts.view.replaceChildren(drawn));
      parts.view.removeAttribute("aria-busy");
      parts.view.dataset.shown = state.view;
    } catch (error) {
      if (mine === ticket) failed(error);
    }
  }

  function failed(error) {
    parts.view.removeAttribute("aria-busy");
    parts.view.replaceChildren(h("p", { class: "failed", role: "alert" }, error.message));
    parts.view.dataset.shown = "failed";
  }

  listen((changed) => {
    if (changed.includes("view")) Object.values(VIEWS).forEach((view) => view.leave && view.leave());
    if (changed.some((name) => ["text", "model", "begin"].includes(name))) {
      parts.model.value = state.model;
      read();
    } else if (trace && (changed.includes("view") || changed.some((name) => VIEWS[state.view].keys.includes(name)) || changed.includes("word"))) draw();
    if (changed.includes("word") && trace) announce("word " + asking().words[state.word].text);
  });

  // Keys that hold everywhere: a view by its number, the next word, layer, head; and those of the view itself.
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
    const number = Number(event.key) - 1, names = Object.keys(VIEWS);
    const own = parts.view && parts.view.firstChild && parts.view.firstChild.keys;
    const used = () => event.preventDefault();
    if (event.key >= "1" && number < names.length) return used(), set({ view: names[number] });
    if (event.key === "?") return used(), help();
    if (event.key === "t" && !page.kept) return used(), tour(root);
    if (!trace) return;
    const step = { w: ["word", 1, asking().words.length], W: ["word", -1, asking().words.length], l: ["layer", 1, kind() ? trace.kinds[kind()].places.length : 1], L: ["layer", -1, kind() ? trace.kinds[kind()].places.length : 1], h: ["head", 1, kind() ? trace.kinds[kind()].heads : 1], H: ["head", -1, kind() ? trace.kinds[kind()].heads : 1] }[event.key];
    if (step) return used(), set({ [step[0]]: (Math.max(0, state[step[0]]) + step[1] + step[2]) % step[2] });
    if (own && own[event.key] && !(event.key === " " && /^(BUTTON|A)$/.test(event.target.tagName))) return used(), own[event.key]();
  });

  await begin();
}

// What was focused before is focused again, if it is still there.
function keepFocus(root, work) {
  const active = document.activeElement, key = root.contains(active) && active.dataset ? active.dataset.key : null;
  work();
  const again = key && root.querySelector(`[data-key="${key}"]`);
  if (again) again.focus({ preventScroll: true });
}
