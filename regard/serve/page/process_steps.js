// The eleven steps of the process: what each is called, its formula, the formula with this run's numbers in it.

import { fixed } from "./dom.js";

const first = (values) => fixed(values[0], 2);
const factor = (value) => (value < 0 ? `(${fixed(value)})` : fixed(value));

export function stepsOf(d, head) {
  const a = d.attention, f = d.formulas, steps = d.steps, filled = d.filled[head];
  const heads = d.weights.length, wide = steps[`${a}.queries`][0][0].length;
  const output = steps[`${a}.output`][0], placed = { sinusoids: " plus position", learned: " plus position" }[f.positions] || "";
  const parts = d.labels.filter(([label]) => !["sum", "norm"].includes(label));
  const summed = d.labels.find(([label]) => label === "sum");
  const norm = (inner) => (f.norm_first ? inner : `${f.norm}(${inner})`);
  const residual = (name) => steps[`${name}_residual.output`][0];
  const added = (name) => (steps[`${name}_residual.added`] || steps[`${name}_residual.output`])[0];
  const entered = added("feed_forward")[0] - steps["feed_forward.output"][0][0];
  const shown = f.activation.replace(/_.*/, "");
  const turned = f.positions === "rotary" ? ", turned by their places" : "";
  return [
    {
      name: "Embedding" + placed,
      formula: f.embedding,
      filled: summed ? `first number: ${parts.map(([, key]) => factor(d.embedding[key][0])).join(" + ")} = ${first(d.embedding[summed[1]])}` : `first number: ${first(d.embedding.output)}`,
      told: "The row of the embedding table for this token" + (placed ? ", and a pattern that says where in the text it stands." : "; its place comes in later, with the attention.")
        + (/\.0$/.test(d.place) && a === "self_attention" ? "" : " The layers below have worked on it since: x is what enters here."),
    },
    {
      name: "Query, keys, values",
      formula: `q = ${f.read}·W_Q,  k = ${f.read}·W_K,  v = ${f.read}·W_V`,
      filled: `${wide} numbers each; q begins ${steps[`${a}.queries`][head][0].slice(0, 3).map((value) => fixed(value)).join(", ")}, …`,
      told: `Head ${head} has its own learnt maps: the query is what this word asks for, a key is what a word can be found by, a value is what it hands on${turned}.`,
    },
    { name: "Dot product with every key", formula: "score = q·k = Σ qᵢ kᵢ", filled: filled.dot, told: "Number by number multiplied, then summed. This is how the model finds how words relate." },
    { name: "Scale", formula: `s = ${f.score}`, filled: filled.scale, told: "Dot products grow with the number of their terms; scaled, they leave the softmax room to weigh." },
    { name: "Softmax", formula: "weight = e^s / Σ e^s", filled: filled.softmax, told: "Positive weights that sum to 1: a share for each word." },
    { name: "Weighted sum of the values", formula: "mixed = Σ weight · v", filled: filled.mixed, told: "What each word hands on, as much of it as its weight." },
    {
      name: "All heads side by side", formula: `mixed 0, …, mixed ${heads - 1}`,
      filled: `weights of head ${head} sum to ${fixed(d.weight_sums[head], 3)}`,
      told: `The same with ${heads} heads at once; each looks for something else. Choose one to see it in full.`,
    },
    {
      name: "Concatenate and project", formula: `[mixed 0 … mixed ${heads - 1}]·W_O${f.biases.output ? " + b_O" : ""}`,
      filled: `${heads} × ${wide} numbers to ${output.length}; the first: ${first(output)}`,
      told: "All heads in one row, and one more learnt map that puts together what they found.",
    },
    {
      name: f.norm_first ? "Add" : "Add and norm", formula: norm("x + attention"),
      filled: `first number: ${first(d.entering)} + ${factor(output[0])} = ${first(added(a))}` + (f.norm_first ? "" : `, normed ${first(residual(a))}`),
      told: f.norm_first ? "What was found is added to what the word brought along; this model norms before each part." : "What was found is added to what the word brought along, and brought to a common scale.",
    },
    {
      name: "Feed-forward", formula: f.gated ? `(${shown}(x W_g) ⊙ x W_1) W_2` : `${shown === "relu" ? "max(0, " : shown + "("}x W_1${f.biases.feed_forward ? " + b_1" : ""}) W_2${f.biases.feed_forward ? " + b_2" : ""}`,
      filled: `${steps["feed_forward.activated"][0].filter((value) => value > 1e-6).length} of ${steps["feed_forward.activated"][0].length} inner numbers are above zero; the first of the output: ${first(steps["feed_forward.output"][0])}`,
      told: "Each word for itself, through a wide layer that is not linear: it works out what the mixture means.",
    },
    {
      name: f.norm_first ? "Add" : "Add and norm", formula: norm("x + FFN(x)"),
      filled: `first number: ${fixed(entered)} + ${factor(steps["feed_forward.output"][0][0])} = ${first(added("feed_forward"))}` + (f.norm_first ? "" : `, normed ${first(residual("feed_forward"))}`),
      told: "The word's new embedding, which knows its context. The next layer does the same again.",
    },
  ];
}
