// Elements made plainly: text is always text, styles are set by property, so the page needs no unsafe policy.

export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const MINUS = "\u2212";

export function fixed(value, digits = 2) {
  if (value === null || value === undefined) return MINUS + "∞";
  const shown = Math.abs(value) < 0.5 * 10 ** -digits ? (0).toFixed(digits) : value.toFixed(digits);
  return shown.replace("-", MINUS);
}

export const percent = (value) => (value >= 0.9995 || value < 0.0005 ? fixed(100 * value, 0) : fixed(100 * value, 1)) + " %";

export function short(text, length = 12) {
  return text.length > length ? text.slice(0, length - 1) + "…" : text;
}

// What a screen reader says, and what stands beside the pointer.
let spoken = null;
let tip = null;

export function furnish(root) {
  spoken = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
  tip = h("div", { id: "tip", hidden: true, "aria-hidden": "true" });
  root.append(spoken, tip);
}

export function announce(text) {
  if (spoken) spoken.textContent = text;
}

export function showTip(text, x, y) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 16) + "px";
}

// Anything with a `told` property says it where one points at it.
export function pointing(element) {
  element.addEventListener("pointermove", (event) => {
    let at = event.target;
    while (at && at !== element && !at.told) at = at.parentNode;
    showTip(at && at.told ? (typeof at.told === "function" ? at.told(event) : at.told) : "", event.clientX, event.clientY);
  });
  element.addEventListener("pointerleave", () => showTip(""));
  return element;
}

// Arrow keys go from one to the next of several focusable things, in rows of `columns`.
export function roving(items, columns = items.length, chosen = 0) {
  items.forEach((item, number) => {
    item.setAttribute("tabindex", number === chosen ? 0 : -1);
    item.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? items.length - 1 : by === undefined ? -1 : number + by;
      if ((event.key === "Enter" || event.key === " ") && item.namespaceURI.endsWith("svg")) {
        event.preventDefault();
        item.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      }
      if (to < 0 || to >= items.length) return;
      event.preventDefault();
      item.setAttribute("tabindex", -1);
      items[to].setAttribute("tabindex", 0);
      items[to].focus();
    });
  });
  return items;
}
