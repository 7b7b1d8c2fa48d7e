// Any view as an image: its drawings one below the other, with the colours they have now, as SVG or PNG.

import { announce, s } from "./dom.js";

const STYLES = ["fill", "stroke", "stroke-width", "stroke-opacity", "fill-opacity", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "visibility", "image-rendering"];
const GAP = 24;

export async function saved(view, kind) {
  const found = [...view.querySelectorAll("svg[data-export], canvas[data-export]")];
  if (!found.length) return announce("there is no drawing in this view");
  const svg = composed(found), text = new XMLSerializer().serializeToString(svg);
  const blob = new Blob([text], { type: "image/svg+xml" });
  give(kind === "svg" ? blob : await rastered(text, Number(svg.getAttribute("width")), Number(svg.getAttribute("height"))), kind);
  announce(`saved as ${kind.toUpperCase()}`);
}

function composed(found) {
  const sizes = found.map((one) => one.getBoundingClientRect());
  const width = Math.ceil(Math.max(...sizes.map((size) => size.width))) + 2 * GAP;
  let y = GAP;
  const whole = s("svg", { xmlns: "http://www.w3.org/2000/svg", width, viewBox: "0 0 0 0" });
  whole.append(s("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
  found.forEach((one, number) => {
    const { width, height } = sizes[number], place = { x: GAP, y, width: Math.round(width), height: Math.round(height) };
    if (one instanceof HTMLCanvasElement) whole.append(s("image", { ...place, href: one.toDataURL() }));
    else {
      const copy = one.cloneNode(true);
      inline(one, copy);
      for (const [name, value] of Object.entries(place)) copy.setAttribute(name, value);
      copy.removeAttribute("class");
      whole.append(copy);
    }
    y += height + GAP;
  });
  whole.setAttribute("height", Math.ceil(y));
  whole.setAttribute("viewBox", `0 0 ${width} ${Math.ceil(y)}`);
  return whole;
}

// The styles as they are now, so that the image needs no style sheet.
function inline(from, to) {
  const style = getComputedStyle(from);
  for (const name of STYLES) {
    const value = style.getPropertyValue(name);
    if (value && from.parentNode) to.style.setProperty(name, value);
  }
  for (const name of ["tabindex", "fill", "stroke"]) if (name === "tabindex" || String(to.getAttribute(name)).startsWith("var(")) to.removeAttribute(name);
  [...from.children].forEach((child, number) => inline(child, to.children[number]));
}

async function rastered(text, width, height) {
  const image = new Image(), scale = 2;
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width * scale, height * scale];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function give(blob, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `regard.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}
