"""What each word really adds to each other word: weights alone do not say it.

- `norm`: the size of what a word adds, weight x transformed value, all heads (Kobayashi et al. 2020, "Attention is Not
  Only a Weight: Analyzing Transformers with Vector Norms", equation 4); one layer.
- `alti`: how much nearer a word's part brings the output vector, residual connection and norm included, multiplied up
  from the input (Ferrando et al. 2022, "Measuring the Mixing of Contextual Information in the Transformer",
  equations 8 to 11).
- `rollout`: the mean over heads, half of it the residual connection, multiplied up from the input (Abnar & Zuidema
  2020, "Quantifying Attention Flow in Transformers", section 2).
- `flow`: the same graph, its weights as capacities: the largest flow from a word to each input word (the same).

For a single word also the exact split of its last vector by layer, head and feed-forward network (`split`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError, unknown
from regard.explain.result import Block, Grid, Note, Result, Table
from regard.explain.split import check_layers, rescaled, split, transformed
from regard.explain.trace import Trace, check_range
from regard.explain.words import find_word, join_keys, join_rows
from regard.layers.blocks import PreNorm

Method = Literal["norm", "alti", "rollout", "flow"]
_SLOW_FLOW = 20
"""Tokens up to which the flow from every token is computed; beyond, one must be chosen."""
_BLOCK_NUMBERS = 1 << 24
_SHOWN_PARTS = 16


@dataclass(frozen=True)
class Contribution(Result):
    """Shares of the words of a text in each of its words' vectors."""

    view: ClassVar[str] = "contribution"
    method: str
    layer: int
    """The layer, from 0; methods that multiply up begin at the first and end here."""
    words: list[str]
    asking: list[str]
    """The words whose vectors are looked into: all, or the chosen one."""
    shares: Float[Tensor, "asking words"]
    """Each row sums to 1."""
    parts: list[tuple[str, float]]
    """Of a chosen word: each part of the model with its share of the last vector; they add up to 1."""
    difference: float
    """Largest difference between the sum of these parts and the vector of the fast run."""

    @property
    def title(self) -> str:
        upto = "of layer" if self.method == "norm" else "up to layer"
        return f"What each word adds ({self.method}, {upto} {self.layer})"

    def blocks(self) -> list[Block]:
        """The shares; of a chosen word also the parts of the model."""
        found: list[Block] = [
            Grid("rows: words whose vector is made; columns: shares", self.asking, self.words, self.shares.tolist())
        ]
        if self.parts:
            largest = sorted(self.parts, key=lambda part: -abs(part[1]))[:_SHOWN_PARTS]
            rest = 1.0 - sum(share for _, share in largest)
            rows: list[list[Any]] = [[name, share] for name, share in largest]
            caption = f'the last vector of "{self.asking[0]}" as a sum: share of each part along it'
            found.append(Table(caption, ["part", "share"], [*rows, ["all others", rest]], digits=3))
            line = f"all parts together against the fast run: largest difference {self.difference:.1e}"
            found.append(Note(line, holds=self.difference < 1e-4))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "method": self.method,
            "layer": self.layer,
            "words": self.words,
            "asking": self.asking,
            "shares": self.shares.tolist(),
            "parts": [{"part": name, "share": share} for name, share in self.parts],
            "difference_from_fast_run": self.difference,
        }


@torch.no_grad()
def contribution(
    trace: Trace, query: str | None = None, layer: int | None = None, method: str = "alti", row: int = 0
) -> Contribution:
    """Contributions within the stack that reads the source, up to a layer (by default the last).

    Raises RegardError for an unknown method, word or layer, and for models without multi-head attention.
    """
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    places = trace.stack()
    check_layers(trace, places)
    layer = len(places) - 1 if layer is None else layer
    check_range("layer", layer, len(places))
    words = trace.words(row)
    chosen = None if query is None else find_word(words, query)
    tokens = None if chosen is None else list(words[chosen].places)
    matrix = _matrix(trace, places[: layer + 1], method, row, tokens)
    joined = join_rows(join_keys(matrix, words), words if chosen is None else [_rows_of(words[chosen], tokens)])
    shares = joined / joined.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    names = [word.text for word in words]
    parts, difference = ([], 0.0) if tokens is None or trace.target is not None else _parts(trace, tokens[-1], row)
    return Contribution(method, layer, names, names if chosen is None else [names[chosen]], shares, parts, difference)


def alti(trace: Trace, places: Sequence[str], row: int = 0) -> Float[Tensor, "queries keys"]:
    """Shares of the input tokens in each token's vector after these layers; rows sum to 1."""
    product: Tensor | None = None
    for place in places:
        here = alti_layer(trace, f"{place}.self_attention", row)
        product = here if product is None else here @ product
    assert product is not None
    return product


@torch.no_grad()
def alti_layer(trace: Trace, place: str, row: int = 0) -> Float[Tensor, "queries keys"]:
    """One attention's shares: of self-attention over the tokens; of cross-attention over the memory and, as one more
    column at the end, the token's own stream.
    """
    layer_place, _, name = place.rpartition(".")
    x = trace.entering(layer_place, row)
    residual: Any = getattr(trace.model.get_submodule(layer_place), f"{name}_residual")
    own = name == "self_attention"
    keys = len(x) if own or trace.memory is None else len(trace.memory[row])
    size = max(1, _BLOCK_NUMBERS // (keys * x.shape[1]))
    rows = []
    for begin in range(0, len(x), size):
        block = slice(begin, min(begin + size, len(x)))
        parts, attended = transformed(trace, place, block, row)
        added = trace.steps(layer_place, block, row)[f"{name}_residual.added"]
        stream = added - attended  # what the residual connection carries past the attention
        if own:
            parts[torch.arange(len(stream)), torch.arange(block.start, block.stop)] += stream
        else:
            parts = torch.cat([parts, stream[:, None]], dim=1)
        whole = added
        if not isinstance(residual, PreNorm):
            parts, whole = rescaled(residual.norm, parts, added[:, None]), residual.norm(added)
        nearer = whole.abs().sum(dim=-1)[:, None] - (whole[:, None] - parts).abs().sum(dim=-1)
        nearer = nearer.clamp_min(0)
        nothing = nearer.sum(dim=-1) == 0  # where no part is of use, the vector is taken as the token's own
        nearer[nothing, torch.arange(block.start, block.stop)[nothing] if own else -1] = 1.0
        rows.append(nearer / nearer.sum(dim=-1, keepdim=True))
    return torch.cat(rows)


def _matrix(trace: Trace, places: Sequence[str], method: str, row: int, tokens: list[int] | None) -> Tensor:
    """Tokens by tokens; of `tokens` alone where they are given."""
    if method == "norm":
        chosen = slice(None) if tokens is None else slice(tokens[0], tokens[-1] + 1)
        found: Tensor = transformed(trace, f"{places[-1]}.self_attention", chosen, row)[0].norm(dim=-1)
    elif method == "flow":
        found = _flow([_half_residual(trace, place, row) for place in places], tokens)
    else:
        product = alti(trace, places, row) if method == "alti" else _rollout(trace, places, row)
        found = product if tokens is None else product[tokens]
    return found


def _rollout(trace: Trace, places: Sequence[str], row: int) -> Float[Tensor, "queries keys"]:
    product = _half_residual(trace, places[0], row)
    for place in places[1:]:
        product = _half_residual(trace, place, row) @ product
    return product


def _half_residual(trace: Trace, place: str, row: int) -> Float[Tensor, "queries keys"]:
    """0.5 A + 0.5 I, A the mean over heads."""
    weights = trace.steps(place, row=row)["self_attention.weights"].mean(dim=0)
    return 0.5 * weights + 0.5 * torch.eye(len(weights), device=weights.device)


def _flow(layers: Sequence[Float[Tensor, "queries keys"]], tokens: list[int] | None) -> Float[Tensor, "asking keys"]:
    """The largest flow from each asking token down to each input token."""
    import networkx

    count = len(layers[0])
    if tokens is None and count > _SLOW_FLOW:
        raise RegardError(f"flow from all {count} tokens takes long: choose one word with --query")
    graph = networkx.DiGraph()
    for depth, weights in enumerate(layers, start=1):
        for query, row in enumerate(weights.tolist()):
            for key, weight in enumerate(row):
                graph.add_edge((depth, query), (depth - 1, key), capacity=weight)
    asking = range(count) if tokens is None else tokens
    return torch.tensor(
        [[networkx.maximum_flow_value(graph, (len(layers), one), (0, key)) for key in range(count)] for one in asking]
    )


def _parts(trace: Trace, token: int, row: int) -> tuple[list[tuple[str, float]], float]:
    """Share of each part along the token's last vector: (part . whole) / |whole|^2."""
    found = split(trace, token, row)
    along = found.parts @ found.whole / found.whole.square().sum()
    return list(zip(found.names, along.tolist(), strict=True)), found.difference


def _rows_of(word: Any, tokens: list[int] | None) -> Any:
    """A word whose pieces are all the rows that there are."""
    from dataclasses import replace

    return replace(word, places=tuple(range(len(tokens or ()))))
