"""What can be changed inside one run of a model: heads, edges, positions, rows of weights, vectors.

While `edited` lasts, attention with an edit is computed step by step, the way it is explained, with the change in its
place; everything else runs as always. The model is the same before and after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attention import CausalMask, Mask, MultiHeadAttention, attention_steps
from regard.errors import RegardError, unknown
from regard.sequences import Sequences


@dataclass(frozen=True)
class KnockOut:
    """Silence a head (alone), an edge (`query` and `key`), a key for every query, or a query's look at everything.

    A silenced head adds nothing. An edge is taken out before the softmax, so that the other weights of its row grow
    (Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4).
    """

    place: str
    """An attention, such as `encoder.layers.2.self_attention`."""
    head: int | None = None
    """None: all heads."""
    query: int | None = None
    key: int | None = None

    def __str__(self) -> str:
        heads = "all heads" if self.head is None else f"head {self.head}"
        edge = [f"{name} {value}" for name, value in (("query", self.query), ("key", self.key)) if value is not None]
        return f"{self.place}, {heads} knocked out" + (f" at {' and '.join(edge)}" if edge else "")


@dataclass(frozen=True)
class SetWeights:
    """Set one query's row of weights by hand, such as the notes' (0.4, 0.4, 0.2)."""

    place: str
    query: int
    weights: tuple[float, ...]
    head: int | None = None

    def __str__(self) -> str:
        heads = "all heads" if self.head is None else f"head {self.head}"
        return f"{self.place}, {heads}: query {self.query} weighs {', '.join(f'{one:g}' for one in self.weights)}"


@dataclass(frozen=True, eq=False)
class Patch:
    """Replace what enters a layer at one position by another vector: one of another text, or any other."""

    place: str
    """A layer, such as `decoder.layers.3`."""
    position: int
    vector: Float[Tensor, "width"]

    def __str__(self) -> str:
        return f"{self.place}, position {self.position} replaced"


Edit = KnockOut | SetWeights | Patch


@contextmanager
def edited(model: Any, edits: Sequence[Edit]) -> Iterator[None]:
    """While the block runs, the model computes with these changes, in every text of a batch.

    Raises RegardError for a place that is not there, a head, and (as it runs) a position out of range.
    """
    of_attention: dict[str, list[KnockOut | SetWeights]] = {}
    of_layers: dict[str, list[Patch]] = {}
    for edit in edits:
        if isinstance(edit, Patch):
            of_layers.setdefault(edit.place, []).append(edit)
        else:
            of_attention.setdefault(edit.place, []).append(edit)
    with ExitStack() as stack:
        for place, changes in of_attention.items():
            attention, layer = _attention(model, place, changes), _part(model, place.rpartition(".")[0])
            begin, end = _while_it_runs(attention, _changed(attention, changes, place.startswith("decoder.")))
            stack.callback(layer.register_forward_pre_hook(begin).remove)
            stack.callback(layer.register_forward_hook(end, always_call=True).remove)
        for place, patches in of_layers.items():
            layer = _part(model, place)
            stack.callback(layer.register_forward_pre_hook(_patching(patches)).remove)
        yield


def _attention(model: Any, place: str, changes: Sequence[KnockOut | SetWeights]) -> MultiHeadAttention:
    found = _part(model, place)
    if not isinstance(found, MultiHeadAttention):
        raise RegardError(f"{place} is no attention with heads: give a place like encoder.layers.0.self_attention")
    for change in changes:
        if change.head is not None and not 0 <= change.head < found.heads:
            raise RegardError(f"there is no head {change.head}: there are heads 0 to {found.heads - 1}")
    return found


def _part(model: Any, place: str) -> Any:
    parts = dict(model.named_modules(remove_duplicate=False))
    if place not in parts:
        raise unknown("place", place, [name for name in parts if name.split(".")[-1].isdigit() or "attention" in name])
    return parts[place]


def _while_it_runs(attention: MultiHeadAttention, changed: Any) -> tuple[Any, Any]:
    """Hooks of a layer that put another `forward` into its attention and take it out: layers may share a module."""

    def begin(*_: Any) -> None:
        attention.forward = changed  # type: ignore[method-assign]

    def end(*_: Any) -> None:
        attention.__dict__.pop("forward", None)

    return begin, end


def _changed(attention: MultiHeadAttention, changes: Sequence[KnockOut | SetWeights], decoding: bool) -> Any:
    """The attention's `forward`, text by text and step by step, with the changes."""

    def forward(x: Sequences, memory: Sequences | None, mask: Mask | None) -> Tensor:
        outputs = []
        for row, values in enumerate(x):
            looked_at = values if memory is None else memory[row]
            positions = torch.arange(len(values), device=values.device)
            allowed = positions[:, None] >= positions if decoding and memory is None else None
            added = None if mask is None or isinstance(mask, CausalMask) else mask.added
            added = None if added is None else added[0, :, : len(values), : len(looked_at)]
            outputs.append(_attended(attention, values, looked_at, allowed, positions, added, changes))
        return torch.cat(outputs)

    return forward


def _attended(
    attention: MultiHeadAttention,
    x: Tensor,
    memory: Tensor,
    allowed: Tensor | None,
    positions: Tensor,
    added: Tensor | None,
    changes: Sequence[KnockOut | SetWeights],
) -> Float[Tensor, "queries width"]:
    steps = attention_steps(attention, x, memory, allowed, positions, added)
    scores, silent = steps["masked_scores"].clone(), []
    for change in changes:
        heads = slice(None) if change.head is None else slice(change.head, change.head + 1)
        if isinstance(change, KnockOut):
            if change.query is None and change.key is None:
                silent.append(heads)
            else:
                queries = slice(None) if change.query is None else _one(change.query, scores.shape[1])
                scores[
                    heads, queries, slice(None) if change.key is None else _one(change.key, scores.shape[2])
                ] = -math.inf
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    for change in changes:
        if isinstance(change, SetWeights):
            if len(change.weights) != weights.shape[2]:
                raise RegardError(f"a row has {weights.shape[2]} weights here, not {len(change.weights)}")
            heads = slice(None) if change.head is None else slice(change.head, change.head + 1)
            weights[heads, _one(change.query, weights.shape[1])] = weights.new_tensor(change.weights)
    for heads in silent:
        weights[heads] = 0.0
    mixed = weights @ steps["values"]
    output: Tensor = attention.output(mixed.transpose(0, 1).flatten(-2))
    return output


def _patching(patches: Sequence[Patch]) -> Any:
    def hook(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Sequences = inputs[0]
        values = x.values.clone()
        for patch in patches:
            for row, length in enumerate(x.lengths):
                begin = sum(x.lengths[:row])
                values[begin + _one(patch.position, length).start] = patch.vector
        return (x.with_values(values), *inputs[1:])

    return hook


def _all_or_one(position: int | None, count: int) -> slice:
    return slice(None) if position is None else _one(position, count)


def _one(position: int, count: int) -> slice:
    """A position as a slice; RegardError where it is out of range."""
    if not 0 <= position < count:
        raise RegardError(f"there is no position {position}: there are positions 0 to {count - 1}")
    return slice(position, position + 1)
