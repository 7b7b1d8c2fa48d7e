"""An explanation as terminal text: numbers, and bars of block characters. Returns rich renderables, prints nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from regard.explain.recurrence import Reading
from regard.explain.render.blocks import bar, sparkline
from regard.explain.result import Result
from regard.explain.walkthrough import Walkthrough

_BAR = 24
_SHOWN = 6


def explanation(texts: Sequence[str], answers: Sequence[str], results: Sequence[Result]) -> Group:
    """Everything `regard explain` prints, top to bottom."""
    parts: list[RenderableType] = [_answers(texts, answers)] if any(answers) else []
    for result in results:
        parts += [Text(), result]
    return Group(*parts)


def _answers(texts: Sequence[str], answers: Sequence[str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for text, answered in zip(texts, answers, strict=True):
        table.add_row(Text(text, style="bold"), "→", Text(answered))
    return table


def walkthrough(walk: Walkthrough) -> list[RenderableType]:
    """The complete process for one query, step by step."""
    steps, head, name = walk.steps, walk.head, walk.word.text
    head_width = walk.head_width
    side, _, layer = walk.place.split(".")
    head_line = f'The complete process for one query: "{name}" in "{walk.text}", {side} layer {layer}{walk.looking}'
    counted = f"(layers and heads count from 0; head {head} in detail; each line of numbers shows its first {_SHOWN})"
    joined = [word for word in walk.words if len(word.pieces) > 1]
    parts: list[RenderableType] = [Text(head_line, style="bold underline"), Text(counted, style="dim")]
    if joined:
        cut = ", ".join("·".join(word.pieces) for word in joined)
        rule = f"(cut in pieces: {cut}. Weights of a word's pieces add up; its score is their log-sum-exp)"
        parts.append(Text(rule, style="dim"))
    if len(walk.word.pieces) > 1:
        parts.append(Text(f'(the query is the piece "{walk.asking}")', style="dim"))

    before, after = walk.embedding_formula
    plain = walk.positions not in ("sinusoids", "learned")
    parts += _step(1, "Embedding" if plain else "Embedding plus position", f"{before}{name}{after}")
    parts.append(_vectors(*((label, walk.embedding[key][0]) for label, key in walk.embedding_rows)))
    if layer != "0" or walk.attention == "cross_attention":
        after = f"layer {layer}" if walk.attention == "self_attention" else f"the cross-attention of layer {layer}"
        parts.append(_vectors((f"x, entering {after}", walk.entering)))
    read = walk.read
    if walk.norm_first:
        parts.append(_vectors((read, steps[f"{walk.attention}_residual.entered"][0])))
    parts += _step(2, f"Query, keys, values of head {head}", f"q, k, v = {read} · W_Q, W_K, W_V   ({head_width} wide)")
    keys, values = steps[f"{walk.attention}.keys"][head], steps[f"{walk.attention}.values"][head]
    rows = [(f"q({name})", steps[f"{walk.attention}.queries"][head, 0])]
    rows += [(f"k({word.text})", keys[list(word.places)].mean(dim=0)) for word in walk.words]
    rows += [(f"v({word.text})", values[list(word.places)].mean(dim=0)) for word in walk.words]
    parts.append(_vectors(*rows))

    if walk.positions == "rotary":
        parts.append(
            Text("   (queries and keys are turned by their positions, so that q·k knows how far apart two words are)")
        )
    parts += _step(3, "Dot product with every key, scale, softmax", f"weights = softmax({walk.score()})")
    if walk.positions == "relative":
        parts.append(Text("   (r: a learned number for how far the key is from the query)"))
    parts.append(_scores(walk))
    parts += _step(4, "Weighted sum of the values", f"mixed = Σ weight · v, head {head}")
    terms = " + ".join(
        f"{weight:.2f} v({word.text})" for weight, word in zip(walk.weights[head].tolist(), walk.words, strict=True)
    )
    parts.append(Text(f"   mixed = {terms}"))
    parts.append(_vectors(("mixed", steps[f"{walk.attention}.mixed"][head, 0])))
    parts += _step(5, f"All {walk.heads} heads side by side", "weights of each, in percent")
    parts.append(_heads(walk))
    parts += _step(
        6, "Concatenate and project", f"[mixed 0 … mixed {walk.heads - 1}] W_O{' + b' * walk.biases['output']}"
    )
    parts.append(_vectors(("attention", steps[f"{walk.attention}.output"][0])))
    parts += _add_and_norm(7, walk, "attention", f"{walk.attention}_residual")
    if walk.attention == "self_attention" and walk.before_feed_forward != "self_attention_residual":
        parts.append(Text("   (then this layer's cross-attention looks at the source, in the same way)"))
    activated = steps["feed_forward.activated"][0]
    active = f"gated, {len(activated)}" if walk.gated else f"{int((activated > 0).sum())} of {len(activated)} active"
    biased = walk.biases["feed_forward"]
    hidden = f"{walk.activation}({read} {'W_g' if walk.gated else 'W_1' + ' + b_1' * biased})"
    hidden = f"({hidden} ⊙ {read} W_1)" if walk.gated else hidden
    parts += _step(8, "Feed-forward", f"FFN(x) = {hidden} W_2{' + b_2' * biased}")
    parts.append(_vectors((f"inner ({active})", activated), ("output", steps["feed_forward.output"][0])))
    parts += _add_and_norm(9, walk, "FFN(x)", "feed_forward_residual")
    return [*parts, Text(), _proof(walk.difference)]


def reading(found: Reading) -> list[RenderableType]:
    """A recurrent layer: how far each gate stands open at each word, then every value at one of them."""
    name = found.words[found.query].text
    parts: list[RenderableType] = [
        Text(f"How {found.place} reads the text, word by word", style="bold underline"),
        Text("(mean of each gate over its units: 0 shut, 1 open)", style="dim"),
    ]
    table = _table("word", *(column for gate in found.gates for column in (gate.replace("_", " "), "")))
    for number, word in enumerate(found.words):
        shares = [float(values[number]) for values in found.gates.values()]
        cells = [cell for share in shares for cell in (f"{share:.2f}", Text(bar(share, 10), style="cyan"))]
        table.add_row(Text(word.text, style="bold" if number == found.query else ""), *cells)
    parts += [table, Text(), Text(f'Every value at "{name}"', style="bold")]
    parts.append(_vectors(*((value.replace("_", " "), numbers) for value, numbers in found.steps.items())))
    return [*parts, Text(), _proof(found.difference)]


def _proof(difference: float) -> Text:
    line = f"This walk against the model's own fast run: largest difference {difference:.1e}"
    return Text(line, style="bold green" if difference < 1e-4 else "bold red")


def _add_and_norm(number: int, walk: Walkthrough, what: str, place: str) -> list[RenderableType]:
    """The residual connection, post-norm or pre-norm."""
    added, normed = walk.steps[f"{place}.added"][0], walk.steps[f"{place}.output"][0]
    if not walk.norm_first:
        lines = _vectors((f"x + {what}", added), ("norm", normed))
        return [*_step(number, "Add and norm", f"x = {walk.norm}(x + {what})"), lines]
    rows = [(f"x + {what}", added)]
    if place == walk.before_feed_forward:
        rows.append((walk.read, walk.steps["feed_forward_residual.entered"][0]))
    note = "norm comes before each sublayer in this model"
    return [*_step(number, "Add", f"x = x + {what}   ({note})"), _vectors(*rows)]


def _scores(walk: Walkthrough) -> Table:
    table = _table("word", "q·k", walk.score("").strip().replace("/", "÷") or "score", "weight", "")
    for number, word in enumerate(walk.words):
        dots = " ".join(f"{value:.2f}" for value in walk.scores[walk.head, list(word.places)].tolist())
        weight = float(walk.weights[walk.head, number])
        scaled = float(walk.scaled_scores[walk.head, number])
        table.add_row(Text(word.text), dots, f"{scaled:.2f}", f"{weight:.3f}", Text(bar(weight, _BAR), style="cyan"))
    return table


def _heads(walk: Walkthrough) -> Table:
    table = _table("word", *(f"head {head}" for head in range(walk.heads)), "mean")
    for number, word in enumerate(walk.words):
        shares = [*walk.weights[:, number].tolist(), float(walk.weights[:, number].mean())]
        table.add_row(Text(word.text), *(Text(f"{100 * share:.0f}", style=_shade(share)) for share in shares))
    return table


def _step(number: int, title: str, formula: str) -> list[RenderableType]:
    return [Text(), Text.assemble((f"{number}  {title}", "bold"), "   ", (formula, "italic"))]


def _vectors(*rows: tuple[str, Tensor]) -> Table:
    """Vectors by name: first numbers, length, and a sparkline of the first 32 values."""
    table = Table.grid(padding=(0, 2))
    for name, values in rows:
        numbers = values.tolist()
        shown = " ".join(f"{number:6.2f}" for number in numbers[:_SHOWN])
        length = math.sqrt(sum(number * number for number in numbers))
        table.add_row(
            Text(f"   {name}"), f"[{shown} …]", f"length {length:.2f}", Text(sparkline(numbers[:32]), style="cyan")
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 1))
    for number, column in enumerate(columns):
        numeric = number > 0 and column not in ("", "looked at (share of its attention)")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _shade(share: float) -> str:
    """Stronger for larger shares; readable on light and dark ground."""
    return "bold cyan" if share >= 0.3 else "cyan" if share >= 0.1 else "dim"
