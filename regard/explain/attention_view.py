"""One head's attention over one text, asked for piece by piece: any rows and columns, at any resolution.

A map of a long text does not fit into memory, and nobody looks at all of it. Here only queries and keys of one head are
kept, (tokens, head width); weights are computed in blocks when they are asked for. What a row of weights is divided by
is found once and kept (its log-sum-exp), so that a few columns of a row cost a few dot products. All of it stays under
the trace's bound on memory.

    >>> view = trace.attention("encoder.layers.0.self_attention", head=2)
    >>> view.weights(queries=slice(0, 3))                # (3, keys)
    >>> view.map(resolution=(64, 64)).largest            # the whole map, 64 cells wide
    >>> view.map(resolution=(64, 64), sampled=True)      # its first sight: one query of each row of cells
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from regard.attention import MultiHeadAttention
from regard.errors import RegardError
from regard.explain.cache import Cache

EVERY = slice(None)
_BLOCK_ENTRIES = 1 << 22
"""Scores held at a time: 16 MiB in float32, and about three times as much while they are worked on."""
_BYTES_AN_ENTRY = 12


@dataclass(frozen=True)
class Map:
    """A region of an attention map, cell by cell."""

    queries: slice
    keys: slice
    """The region."""
    cell: tuple[int, int]
    """Queries and keys in a cell; those at the end of the region may be smaller."""
    largest: Float[Tensor, "rows columns"]
    """The largest weight in each cell."""
    mean: Float[Tensor, "rows columns"]
    """The mean of the weights in each cell."""


class AttentionView:
    """Scores and weights of one head over one text.

    `asking` and `looked_at` give what enters the attention as queries and as keys, (tokens, width), when it is needed;
    `shape` is queries and keys of the whole map; `causal` hides the future; `added` gives what relative positions add
    to the scores, from positions of queries and keys; `name` is the head's own in the cache.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        head: int,
        asking: Callable[[], Float[Tensor, "queries width"]],
        looked_at: Callable[[], Float[Tensor, "keys width"]],
        shape: tuple[int, int],
        causal: bool,
        added: torch.nn.Module | None,
        cache: Cache,
        name: str,
    ) -> None:
        if not 0 <= head < attention.heads:
            raise RegardError(f"there is no head {head}: this attention has heads 0 to {attention.heads - 1}")
        self.attention, self.head, self.causal, self._added = attention, head, causal, added
        self._asking, self._looked_at, self.shape = asking, looked_at, shape
        self._cache, self._name = cache, name
        usual = attention.head_width**-0.5
        self.scale = usual if attention.scale is None else attention.scale

    @property
    def queries(self) -> Float[Tensor, "queries head_width"]:
        """What each token asks, turned by its position where the model has rotations."""
        begin = self.head * self.attention.head_width
        return self._kept("queries", lambda: self._turned(self._projected(self._asking(), begin)))

    @property
    def keys(self) -> Float[Tensor, "keys head_width"]:
        """What each token can be found by."""
        begin = self.attention.query_width + self._shared
        return self._kept("keys", lambda: self._turned(self._projected(self._looked_at(), begin)))

    @property
    def values(self) -> Float[Tensor, "keys head_width"]:
        """What each token hands on."""
        begin = self.attention.query_width + self.attention.key_width + self._shared
        return self._kept("values", lambda: self._projected(self._looked_at(), begin))

    @torch.no_grad()
    def scores(self, queries: slice | Tensor = EVERY, keys: slice = EVERY) -> Float[Tensor, "queries keys"]:
        """What goes into the softmax: scaled, positions added; -inf where a query may not look.

        Queries are a region, or any by their numbers.
        """
        asking, looked_at = (
            torch.arange(size, device=self.keys.device)[part]
            for part, size in zip((queries, keys), self.shape, strict=True)
        )
        self._check_room(len(asking) * len(looked_at))
        scores = (self.queries[queries] @ self.keys[keys].T).mul_(self.scale)
        if self._added is not None:
            scores += self._added(asking, looked_at)[self.head].to(scores.dtype)
        return _hide_future(scores, asking + self.shape[1] - self.shape[0], looked_at) if self.causal else scores

    @torch.no_grad()
    def weights(self, queries: slice = EVERY, keys: slice = EVERY) -> Float[Tensor, "queries keys"]:
        """Softmax over all keys, of which the chosen ones are given."""
        normaliser = self.normaliser(queries)  # before the scores: both are never held at once
        return self.scores(queries, keys).sub_(normaliser[:, None]).exp_()

    @torch.no_grad()
    def mixed(self, queries: slice = EVERY) -> Float[Tensor, "queries head_width"]:
        """The weighted sum of the values."""
        parts = [self.weights(block) @ self.values for block in self._blocks(queries)]
        return torch.cat(parts) if parts else self.values[:0]

    @torch.no_grad()
    def normaliser(self, queries: slice = EVERY) -> Float[Tensor, "queries"]:
        """log sum exp of each row of scores; found once, and kept."""
        found = self._kept("normaliser", lambda: self.keys.new_full((self.shape[0],), math.nan))
        for block in self._blocks(queries):
            if found[block].isnan().any():
                fresh = self.scores(block).logsumexp(dim=-1)
                found[block] = torch.where(found[block].isnan(), fresh, found[block])
                del fresh  # see `map`
        return found[queries]

    @torch.no_grad()
    def map(
        self,
        queries: slice = EVERY,
        keys: slice = EVERY,
        resolution: tuple[int, int] = (256, 256),
        sampled: bool = False,
    ) -> Map:
        """A region in at most so many rows and columns of cells, whatever the length of the text.

        `sampled`: of each row of cells only the query in its middle, with every key: as quick at any distance as from
        close by. Raises RegardError for a resolution or region without a cell.
        """
        rows, columns = (range(*part.indices(size)) for part, size in zip((queries, keys), self.shape, strict=True))
        if min(resolution) < 1 or not rows or not columns or {rows.step, columns.step} != {1}:
            raise RegardError(f"a map needs cells: queries {queries}, keys {keys} of {self.shape} at {resolution}")
        cell = (-(-len(rows) // resolution[0]), -(-len(columns) // resolution[1]))
        bands = range(rows.start, rows.stop, cell[0])
        if sampled:
            return self._sampled(bands, rows, columns, cell)
        # Made before any block is: a small result made between blocks of many MiB keeps the heap from giving back
        # what lies below it, and memory grows with every block (tests/explain/test_long_text.py).
        largest = self.keys.new_zeros(len(bands), -(-len(columns) // cell[1]))
        sums = torch.zeros_like(largest)
        for number, begin in enumerate(bands):
            for block in self._blocks(slice(begin, min(begin + cell[0], rows.stop))):
                parts = _cells(self._weighed(block, slice(columns.start, columns.stop)), cell[1])
                torch.maximum(largest[number], parts.amax(dim=(0, 2)), out=largest[number])
                sums[number] += parts.sum(dim=(0, 2))
                del parts  # before the next block is made
        counts = _sizes(len(rows), cell[0])[:, None] * _sizes(len(columns), cell[1])
        mean = sums / counts.to(self.keys)
        return Map(slice(rows.start, rows.stop), slice(columns.start, columns.stop), cell, largest, mean)

    def _weighed(self, queries: slice, keys: slice) -> Float[Tensor, "queries keys"]:
        """`weights`; of rows not seen before with their normaliser at once: one look at their scores instead of two.

        The softmax is three times as fast as exp of scores of which half are -inf. Its largest weight is
        exp(largest score - normaliser).
        """
        kept = self._kept("normaliser", lambda: self.keys.new_full((self.shape[0],), math.nan))
        if not kept[queries].isnan().any():
            return self.weights(queries, keys)
        scores = self.scores(queries)
        weights = scores.softmax(dim=-1)
        kept[queries] = scores.amax(dim=-1) - weights.amax(dim=-1).log()
        return weights[:, keys]

    def _sampled(self, bands: range, rows: range, columns: range, cell: tuple[int, int]) -> Map:
        """See `map`. Nothing is kept of it but queries and keys."""
        middles = torch.tensor([min(begin + cell[0] // 2, rows.stop - 1) for begin in bands], device=self.keys.device)
        largest, mean = [], []
        region = slice(columns.start, columns.stop)
        widths = _sizes(len(columns), cell[1]).to(self.keys)
        for block in self._blocks(slice(0, len(bands))):
            parts = _cells(self.scores(middles[block]).softmax(dim=-1)[:, region], cell[1])
            largest.append(parts.amax(dim=2))
            mean.append(parts.sum(dim=2) / widths)
            del parts  # before the next block is made
        return Map(slice(rows.start, rows.stop), region, cell, torch.cat(largest), torch.cat(mean))

    @property
    def _shared(self) -> int:
        """Where the keys of this head begin among all keys: several heads may share theirs."""
        attention = self.attention
        return self.head // (attention.heads // attention.key_heads) * attention.head_width

    def _kept(self, part: str, compute: Callable[[], Tensor]) -> Tensor:
        return self._cache.value(f"{self._name}/{part}", compute)

    @torch.no_grad()
    def _projected(self, x: Float[Tensor, "tokens width"], begin: int) -> Float[Tensor, "tokens head_width"]:
        """One head's share of the projection, in float32 where the model computes in less (as its attention does)."""
        rows = slice(begin, begin + self.attention.head_width)
        bias = self.attention.projection.bias
        found = F.linear(x, self.attention.projection.weight[rows], None if bias is None else bias[rows])
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found

    @torch.no_grad()
    def _turned(self, x: Float[Tensor, "tokens head_width"]) -> Float[Tensor, "tokens head_width"]:
        if self.attention.rotation is None:
            return x
        turned: Tensor = self.attention.rotation(x, torch.arange(len(x), device=x.device))
        return turned

    def _check_room(self, entries: int) -> None:
        """Scores that are asked for at once stay under the bound on memory too."""
        needed = entries * _BYTES_AN_ENTRY
        if needed > self._cache.bound:
            raise RegardError(
                f"{entries:,} scores take {_megabytes(needed)}, more than the memory bound of "
                f"{_megabytes(self._cache.bound)}: ask for fewer queries, for a map, or raise the bound"
            )

    def _blocks(self, queries: slice) -> Iterator[slice]:
        """The chosen queries in pieces whose scores over all keys are small enough."""
        rows = range(*queries.indices(self.shape[0]))
        if rows.step != 1:
            raise RegardError(f"queries are asked for in a row, not in steps of {rows.step}")
        room = min(_BLOCK_ENTRIES, self._cache.bound // _BYTES_AN_ENTRY)
        size = room // max(1, self.shape[1])
        if not size:
            raise RegardError(
                f"a memory bound of {_megabytes(self._cache.bound)} has no room for one row of {self.shape[1]:,} "
                f"scores: it takes {_megabytes(self.shape[1] * _BYTES_AN_ENTRY)}"
            )
        for begin in range(rows.start, rows.stop, size):
            yield slice(begin, min(begin + size, rows.stop))


def _hide_future(
    scores: Float[Tensor, "queries keys"], last: Int[Tensor, "queries"], keys: Int[Tensor, "keys"]
) -> Float[Tensor, "queries keys"]:
    """-inf, in place, where a key stands after the `last` one that its query may look at.

    Only the corner where some rows see a key and others do not needs a comparison of each pair: large temporary masks
    leave holes in memory that grow with every block.
    """
    if not scores.numel():
        return scores
    seen_by_all, seen_by_some = (int((keys <= bound).sum()) for bound in (last.min(), last.max()))
    scores[:, seen_by_some:] = -math.inf
    corner = slice(seen_by_all, seen_by_some)
    scores[:, corner].masked_fill_(keys[None, corner] > last[:, None], -math.inf)
    return scores


def _cells(weights: Float[Tensor, "queries keys"], width: int) -> Float[Tensor, "queries columns width"]:
    """Columns in cells of a width; weights are never negative, so zeros fill the last one."""
    missing = -weights.shape[1] % width
    filled = F.pad(weights, (0, missing)) if missing else weights
    cells: Tensor = filled.unflatten(1, (-1, width))
    return cells


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.3g} MiB" if size < 2**30 else f"{size / 2**30:,.3g} GiB"


def _sizes(length: int, cell: int) -> Float[Tensor, "cells"]:
    """How much of a length falls into each cell."""
    return torch.tensor([min(cell, length - begin) for begin in range(0, length, cell)], dtype=torch.float32)
