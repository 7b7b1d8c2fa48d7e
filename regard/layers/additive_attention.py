"""Additive attention: a small network scores each pair (Bahdanau et al. 2015), the forerunner of dot products.

As everywhere `forward` and `step` are the fast way, and `steps` the same computation as named intermediate results.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import Mask, make_mask
from regard.native.products import Linear
from regard.sequences import Sequences


def additive_steps(
    queries: Float[Tensor, "queries width"],
    keys: Float[Tensor, "keys width"],
    values: Float[Tensor, "keys value_width"],
    vector: Float[Tensor, "width"],
    allowed: Bool[Tensor, "queries keys"] | None = None,
) -> dict[str, Tensor]:
    """Bahdanau et al. 2015, equations 5 and 6 and A.1.2: score = v^T tanh(query + key).

    `energies` (queries, keys, width) inside the tanh, `scores`, `masked_scores`, `weights`, `mixed`.
    """
    energies = queries[:, None] + keys[None]
    scores = energies.tanh() @ vector
    masked_scores = scores if allowed is None else scores.masked_fill(~allowed, -math.inf)
    weights = masked_scores.softmax(dim=-1).nan_to_num(0.0)  # a row without a key: 0 / 0
    return {
        "energies": energies,
        "scores": scores,
        "masked_scores": masked_scores,
        "weights": weights,
        "mixed": weights @ values,
    }


def additive(
    queries: Float[Tensor, "rows queries width"],
    keys: Float[Tensor, "rows keys width"],
    values: Float[Tensor, "rows keys value_width"],
    vector: Float[Tensor, "width"],
    mask: Mask | None = None,
) -> Float[Tensor, "rows queries value_width"]:
    """The same over rows, the fast way."""
    scores = (queries[:, :, None] + keys[:, None]).tanh_() @ vector
    if mask is not None:
        scores = scores + mask.bias(scores.dtype)[:, 0]
    weights = scores.softmax(dim=-1)
    mixed = weights @ values.to(weights.dtype)
    if mask is not None and mask.has_empty_rows:
        mixed = mixed.masked_fill(~mask.allowed[:, 0].any(dim=-1, keepdim=True), 0.0)
    return mixed


class AdditiveAttention(nn.Module):
    """Attention by a small network: score = v^T tanh(W s + U h), values are the memory as it is (Bahdanau et al. 2015).

    Made for a decoder that knows its next query only after it has looked: `keys_of` the memory are computed once, then
    `step` looks with one query a row. Where all queries are known `forward` looks with all of them at once.
    """

    def __init__(self, query_width: int, memory_width: int, width: int) -> None:
        super().__init__()
        self.query = Linear(query_width, width, bias=False)
        self.key = Linear(memory_width, width, bias=False)
        self.vector = nn.Parameter(torch.empty(width))
        nn.init.uniform_(self.vector, -(width**-0.5), width**-0.5)

    def forward(
        self, x: Sequences, memory: Sequences, mask: Mask | None = None
    ) -> Float[Tensor, "queries memory_width"]:
        """Each token of `x` looks at the memory of its row. Without a mask only the padding of the keys is hidden."""
        queries, keys, values = x.layout.pad(self.query(x.values)), *self.keys_of(memory)
        mask = mask or make_mask(x.layout, memory.layout)
        return x.layout.unpad(additive(queries, keys, values, self.vector, mask))

    def keys_of(
        self, memory: Sequences
    ) -> tuple[Float[Tensor, "rows keys width"], Float[Tensor, "rows keys memory_width"]]:
        """Keys U h and values h of a memory, padded, for all the steps that will look at it."""
        return memory.layout.pad(self.key(memory.values)), memory.layout.pad(memory.values)

    def step(
        self,
        x: Float[Tensor, "rows query_width"],
        keys: Float[Tensor, "rows keys width"],
        values: Float[Tensor, "rows keys memory_width"],
        mask: Mask | None = None,
    ) -> Float[Tensor, "rows memory_width"]:
        """One query a row."""
        return additive(self.query(x)[:, None], keys, values, self.vector, mask)[:, 0]

    def steps(
        self,
        x: Float[Tensor, "queries query_width"],
        memory: Float[Tensor, "keys memory_width"],
        allowed: Bool[Tensor, "queries keys"] | None = None,
    ) -> dict[str, Tensor]:
        """The same for one sequence: `queries` W s, `keys` U h, the steps of the formula, `output` (what was mixed)."""
        queries, keys = self.query(x), self.key(memory)
        found = additive_steps(queries, keys, memory, self.vector, allowed)
        return {"queries": queries, "keys": keys, **found, "output": found["mixed"]}
