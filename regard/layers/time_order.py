"""The tokens of a ragged batch in order of time, as everything that reads one token after another wants them.

All first tokens come first, then all second ones, so that row after row drops out as it ends and nothing is padded:
what PyTorch calls a packed sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.sequences import Layout


@dataclass(frozen=True)
class TimeOrder:
    """The tokens of a ragged batch in the order in which they are read: all first ones, then all second ones, ..."""

    order: Int[Tensor, "tokens"]
    """For each place in the order of time, the token that stands there."""
    places: Int[Tensor, "tokens"]
    """For each token its place: the inverse."""
    sizes: tuple[int, ...]
    """How many rows are read at each time."""
    rows: Int[Tensor, "rows"]
    """The rows as they are read: longer ones first, so that those still read are always the first ones."""
    ranks: Int[Tensor, "rows"]
    """The inverse of `rows`."""

    @classmethod
    def of(cls, layout: Layout, reverse: bool = False) -> TimeOrder:
        # On the CPU, from lengths that are plain integers: a device is told, not asked.
        lengths = torch.tensor(layout.lengths, dtype=torch.long)
        ends = lengths.cumsum(0)
        rows = lengths.argsort(descending=True, stable=True)
        times = torch.arange(layout.longest)[:, None]
        present = times < lengths[rows]
        tokens = (ends[rows] - 1) - times if reverse else (ends - lengths)[rows] + times
        order = tokens[present]
        sizes = tuple(present.sum(1).tolist())
        moved = (part.to(layout.device) for part in (order, order.argsort(), rows, rows.argsort()))
        order, places, rows, ranks = moved
        return cls(order, places, sizes, rows, ranks)

    def arrange(self, values: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """Values in order of time."""
        arranged: Tensor = _Permute.apply(values, self.order, self.places)  # type: ignore[no-untyped-call]
        return arranged

    def restore(self, arranged: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """Values at their tokens again."""
        values: Tensor = _Permute.apply(arranged, self.places, self.order)  # type: ignore[no-untyped-call]
        return values


class _Permute(torch.autograd.Function):
    """A permutation; its adjoint is the inverse one, a plain gather again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return values.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None
