// Questions to the service. An answer is kept for a while, so that going back and forth asks nothing again.

import { state } from "./state.js";

const KEPT = 80;
const answers = new Map();
let transport = over_http;

// In a page that keeps its answers and has no model: what it says of that, by what was asked.
export const page = { kept: null };

export function use(other) {
  transport = other;
}

async function over_http(path, body) {
  const token = sessionStorage.getItem("regard-token");
  const headers = { ...(body ? { "Content-Type": "application/json" } : {}), ...(token ? { Authorization: "Bearer " + token } : {}) };
  let answer;
  try {
    answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Error("the service cannot be reached: is it still running?");
  }
  if (answer.status === 401) {
    const given = prompt("This service asks for its token:");
    if (!given) throw new Error("this service asks for a token");
    sessionStorage.setItem("regard-token", given.trim());
    return over_http(path, body);
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ? told.error.message : "the service answered " + answer.status);
  return told;
}

// Asked anew each time: for what is kept where it is drawn.
export const fetched = (path, body) => transport(path, body);

export function ask(path, body) {
  const name = path + JSON.stringify(body || null);
  if (!answers.has(name)) {
    const coming = transport(path, body);
    answers.set(name, coming);
    coming.catch(() => answers.delete(name));
    if (answers.size > KEPT) answers.delete(answers.keys().next().value);
  }
  return answers.get(name);
}

export const forget = () => answers.clear();

// What every question about the trace says: which model read which texts.
export function subject(more = {}) {
  return { model: state.model, texts: state.text, ...(state.begin.length ? { begin: state.begin } : {}), ...more };
}

// Numbers as they came: themselves, or with fewer digits in a page that keeps them.
export function unpack({ shape, values, float32, uint16, uint8 }) {
  if (values) return { shape, values };
  const bytes = Uint8Array.from(atob(float32 || uint16 || uint8), (letter) => letter.charCodeAt(0));
  if (uint16) return { shape, values: Float32Array.from(new Uint16Array(bytes.buffer), (value) => value / 65535) };
  if (uint8) return { shape, values: Float32Array.from(bytes, (value) => (value / 255) ** 2) };
  return { shape, values: new Float32Array(bytes.buffer) };
}
