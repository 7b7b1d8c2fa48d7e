"""What kind of head it is, measured: where each head of a stack looks, by named scores.

Each score is a mean over queries of the weight that goes to one kind of place: the previous or next token, the first,
the token itself, others that read the same; `broad` is the entropy of a row over that of an even one. `induction`
(Olsson et al. 2022, "In-context Learning and Induction Heads") is measured on random tokens that stand twice in a row:
the weight on what came after the same token the last time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.explain.result import Block, Result, Table
from regard.explain.split import check_layers
from regard.explain.trace import Kind, Trace
from regard.sequences import Sequences

SCORES = ("previous", "next", "first", "itself", "same word", "broad", "induction")
_CLEAR = 0.4
"""A head is called by its largest score from here on; below, it is mixed."""
_REPEATED = 24


@dataclass(frozen=True)
class HeadKinds(Result):
    """Every head of a stack with its scores."""

    view: ClassVar[str] = "heads"
    place: str
    """The stack and the attention: `encoder self_attention`."""
    scores: dict[str, Float[Tensor, "layers heads"]]

    @property
    def title(self) -> str:
        return f"Where each head of the {self.place.replace('_', '-')} looks"

    def kind(self, layer: int, head: int) -> str:
        """The largest score's name, or `mixed`."""
        found = {name: float(value[layer, head]) for name, value in self.scores.items()}
        best = max((name for name in found if name != "broad"), key=lambda name: found[name], default="broad")
        if found.get(best, 0.0) >= _CLEAR:
            return best
        return "broad" if found["broad"] >= 1 - _CLEAR / 2 else "mixed"

    def blocks(self) -> list[Block]:
        """One row a head."""
        shape = next(iter(self.scores.values())).shape
        rows: list[list[Any]] = [
            [f"{layer}.{head}", self.kind(layer, head), *(float(value[layer, head]) for value in self.scores.values())]
            for layer in range(shape[0])
            for head in range(shape[1])
        ]
        columns = ["layer.head", "kind", *self.scores]
        return [Table("mean weight on each kind of place", columns, rows)]

    def to_dict(self) -> dict[str, Any]:
        shape = next(iter(self.scores.values())).shape
        kinds = [[self.kind(layer, head) for head in range(shape[1])] for layer in range(shape[0])]
        scores = {name: value.tolist() for name, value in self.scores.items()}
        return {"view": self.view, "place": self.place, "scores": scores, "kinds": kinds}


@torch.no_grad()
def head_kinds(trace: Trace, kind: Kind | None = None) -> HeadKinds:
    """Scores of all heads over all texts of the trace; of cross-attention those that make sense between two texts."""
    places = trace.asking(kind)
    check_layers(trace, places)
    name = "cross_attention" if kind == "cross" else "self_attention"
    side = places[0].split(".")[0]
    causal = side == "decoder"
    by_layer = []
    for place in places:
        found = [_measured(trace, place, name, row, causal) for row in range(len(trace.source))]
        by_layer.append({key: _mean([one[key] for one in found]) for key in found[0]})
    scores = {key: torch.stack([one[key] for one in by_layer]) for key in by_layer[0]}
    if name == "self_attention" and trace.target is None:
        scores["induction"] = _induction(trace, places)
    return HeadKinds(f"{side} {name}", scores)


def _measured(trace: Trace, place: str, name: str, row: int, causal: bool) -> dict[str, Float[Tensor, "heads"]]:
    """One layer over one text; NaN where no query has such a place."""
    attention = getattr(trace.model.get_submodule(place), name)
    weights = torch.stack([trace.weights(f"{place}.{name}", head, row=row) for head in range(attention.heads)])
    entropy = -(weights * weights.clamp_min(1e-12).log()).sum(dim=-1)
    count = weights.shape[-1]
    seen = (
        torch.arange(1, count + 1.0) if causal and name == "self_attention" else torch.full((len(weights[0]),), count)
    )
    wide = seen > 1
    broad = (entropy[:, wide] / seen[wide].log()).mean(dim=-1)
    if name == "cross_attention":
        return {"first": weights[:, :, 0].mean(dim=-1), "last": weights[:, :, -1].mean(dim=-1),
                "in step": _in_step(weights), "broad": broad}  # fmt: skip
    tokens = (trace.target if causal and trace.target is not None else trace.source)[row]
    if tokens.is_floating_point():  # sound: no position is the same as another
        tokens = torch.arange(len(tokens))
    found = {
        "previous": weights.diagonal(-1, 1, 2).mean(dim=-1),
        "next": weights.diagonal(1, 1, 2).mean(dim=-1),
        "first": weights[:, 1:, 0].mean(dim=-1),
        "itself": weights[:, 1:].diagonal(1, 1, 2).mean(dim=-1),
        "same word": _same(weights, tokens, causal),
        "broad": broad,
    }
    if causal:
        del found["next"]
    return found


def _same(weights: Float[Tensor, "heads queries keys"], tokens: Int[Tensor, "keys"], causal: bool) -> Tensor:
    """Weight on other places that hold the same token, over the queries that have one."""
    same = (tokens[:, None] == tokens) & ~torch.eye(len(tokens), dtype=torch.bool)
    same = same.tril() if causal else same
    asking = same.any(dim=-1)
    return (weights * same).sum(dim=-1)[:, asking].mean(dim=-1)


def _in_step(weights: Float[Tensor, "heads queries keys"]) -> Tensor:
    """Weight on the diagonal of the map, stretched to its shape: how far the head walks along with the answer."""
    queries, keys = weights.shape[1:]
    along = torch.arange(queries) * (keys - 1) / max(1, queries - 1)
    near = (along[:, None] - torch.arange(keys)).abs() <= 1.0
    return (weights * near).sum(dim=-1).mean(dim=-1)


def _induction(trace: Trace, places: list[str]) -> Float[Tensor, "layers heads"]:
    """Weight on what came after the same token in the first of two equal halves."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(trace.model.config.vocab_size)
    half = torch.randperm(vocabulary - vocabulary // 10, generator=generator)[:_REPEATED] + vocabulary // 10
    longest = int(
        getattr(trace.model.config, "max_position_embeddings", 0)
        or getattr(trace.model.config, "n_positions", 0)
        or 512
    )
    half = half[: max(2, min(len(half), longest // 2 - 2))]
    twice = Trace(trace.model, Sequences.of([torch.cat([half, half])]))
    rows = torch.arange(len(half), 2 * len(half))
    found = []
    for place in places:
        heads = trace.model.get_submodule(place).self_attention.heads
        found.append(
            torch.stack(
                [
                    twice.weights(f"{place}.self_attention", head)[rows, rows - len(half) + 1].mean()
                    for head in range(heads)
                ]
            )
        )
    return torch.stack(found)


def _mean(values: list[Float[Tensor, "heads"]]) -> Float[Tensor, "heads"]:
    """Over the texts in which the score could be taken; 0 if there were none."""
    return torch.stack(values).nanmean(dim=0).nan_to_num(0.0) if math.prod(values[0].shape) else values[0]
