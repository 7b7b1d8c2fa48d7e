"use strict";
// Shows another head by filling the page's slots anew, reads out single cells, and lights a word up wherever it stands.

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
let head = data.head;

const all = (selector, within = document) => within.querySelectorAll(selector);
const at = (path) => path.split("/").reduce((found, name) => found[name === "#" ? head : name], data);
const fixed = (number, digits) => number.toFixed(digits).replace(/^-(?=0(\.0*)?$)/, "").replace("-", "\u2212");

// --- another head ---

function show(chosen) {
  head = chosen;
  const choice = document.getElementById("head-" + head);
  if (choice) choice.checked = true;
  for (const slot of all("[data-head]")) slot.textContent = head;
  for (const slot of all("[data-number*='#']")) slot.textContent = fixed(at(slot.dataset.number), +slot.dataset.digits);
  for (const slot of all("[data-text]")) slot.textContent = at(slot.dataset.text);
  for (const slot of all("[data-share]")) slot.style.setProperty("--share", at(slot.dataset.share));
  for (const strip of all("[data-strip*='#']")) strip.innerHTML = cells(strip);
  for (const strip of all(".row .strip")) name(strip);
  for (const table of all(".heads-map")) {
    all("tbody tr", table).forEach((row, place) => row.classList.toggle("chosen", place === head));
  }
}

function cells(strip) {
  const columns = strip.viewBox.baseVal.width, scale = +strip.dataset.scale, levels = 8, drawn = new Map();
  at(strip.dataset.strip).forEach((value, place) => {
    const level = Math.max(-levels, Math.min(levels, Math.round((value / scale) * levels)));
    const cell = `M${place % columns} ${Math.floor(place / columns)}h1v1h-1z`;
    if (level) drawn.set(level, (drawn.get(level) || "") + cell);
  });
  return [...drawn].map(([level, path]) =>
    `<path class="${level > 0 ? "above" : "below"}" fill-opacity="${Math.abs(level) / levels}" d="${path}"/>`).join("");
}

function name(strip) {
  const label = strip.parentElement.querySelector(".label").textContent.trim();
  strip.setAttribute("aria-label", `${label}, ${at(strip.dataset.strip).length} values`);
}

function fromAddress() {
  const found = /^#head=(\d+)$/.exec(location.hash);
  return found && +found[1] < data.weights.length ? +found[1] : null;
}

for (const choice of all("input[name=head]")) {
  choice.addEventListener("change", () => {
    show(+choice.value);
    history.replaceState(null, "", "#head=" + head);
  });
}
addEventListener("hashchange", () => show(fromAddress() ?? head));

// --- one cell of a strip, by pointer or by arrow keys ---

function read(strip, place) {
  const values = at(strip.dataset.strip), box = strip.getBoundingClientRect();
  const columns = strip.viewBox.baseVal.width, rows = strip.viewBox.baseVal.height;
  place = Math.max(0, Math.min(values.length - 1, place));
  strip.dataset.place = place;
  const label = strip.getAttribute("aria-label").replace(/, \d+ values$/, "");
  tip.textContent = `${label}: value ${place} of ${values.length} is ${fixed(values[place], 4)}`;
  tip.hidden = false;
  const x = box.left + ((place % columns) + 0.5) * (box.width / columns);
  const y = box.top + Math.floor(place / columns) * (box.height / rows);
  tip.style.left = Math.max(4, Math.min(x - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = (y > tip.offsetHeight + 10 ? y - tip.offsetHeight - 6 : y + box.height / rows + 6) + "px";
}

const hide = () => { tip.hidden = true; };

for (const strip of all(".strip")) {
  strip.tabIndex = 0;
  const pointed = (event) => {
    const box = strip.getBoundingClientRect(), columns = strip.viewBox.baseVal.width;
    const column = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
    const row = Math.floor(((event.clientY - box.top) / box.height) * strip.viewBox.baseVal.height);
    read(strip, row * columns + column);
  };
  strip.addEventListener("pointermove", pointed);
  strip.addEventListener("pointerdown", pointed);
  strip.addEventListener("pointerleave", hide);
  strip.addEventListener("focus", () => { if (strip.matches(":focus-visible")) read(strip, +(strip.dataset.place || 0)); });
  strip.addEventListener("blur", hide);
  strip.addEventListener("keydown", (event) => {
    const columns = strip.viewBox.baseVal.width, place = +(strip.dataset.place || 0);
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (event.key === "Escape") hide();
    if (move === undefined || (Math.abs(move) > 1 && strip.viewBox.baseVal.height === 1)) return;
    event.preventDefault();
    read(strip, place + move);
  });
}

// --- a word, everywhere ---

for (const word of all("[data-word]")) {
  const light = (on) => () => {
    for (const same of all(`[data-word="${word.dataset.word}"]`)) same.classList.toggle("lit", on);
  };
  word.addEventListener("pointerenter", light(true));
  word.addEventListener("pointerleave", light(false));
}

document.documentElement.classList.add("script");
show(fromAddress() ?? head);
