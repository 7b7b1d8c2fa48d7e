"""The decoder of Bahdanau et al. 2015 over all target words, as a CPU learns it fastest: its derivative by hand.

Left to autograd each step adds whole gradients of the keys, the values and five matrices to those of the steps before.
Here a look is native code (`regard/native/additive.h`), and what the derivative needs of whole matrices is one product
over all tokens at the end. (`benchmarks/train_systems.py`)
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.layers.recurrence import reset_before, reset_before_back, reset_before_weights
from regard.layers.time_order import TimeOrder
from regard.native import LookStruct, library
from regard.native.matrices import KINDS
from regard.native.products import product
from regard.sequences import Layout


class Weights(NamedTuple):
    """Of the additive attention, and of the GRU that resets before the product."""

    query: Float[Tensor, "attention width"]
    vector: Float[Tensor, "attention"]
    context: Float[Tensor, "gates value_width"]
    hidden: Float[Tensor, "gates width"]


def loops_fast(inputs: Tensor) -> bool:
    """Whether `attentive_loop` can be used."""
    return inputs.device.type == "cpu" and inputs.dtype in KINDS and library() is not None


def attentive_loop(
    inputs: Float[Tensor, "tokens gates"],
    keys: Float[Tensor, "source_tokens attention"],
    values: Float[Tensor, "source_tokens value_width"],
    hidden: Float[Tensor, "rows width"],
    weights: Weights,
    time: TimeOrder,
    sources: Layout,
) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens value_width"]]:
    """The hidden state before each target word and what was seen from it, in order of time.

    `inputs`: what the words give to the gates, biases included, in order of time; `hidden`: the state that each row
    begins with; `sources`: where the source of each row lies in `keys` and `values`. All is computed in the inputs'
    dtype, sums over a source in float32.
    """
    keys, values, hidden = (part.to(inputs.dtype) for part in (keys, values, hidden[time.rows][: time.sizes[0]]))
    given = (inputs, keys, values, hidden, *weights, _Places.of(time, sources))
    found: tuple[Tensor, Tensor] = _Loop.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _Places(NamedTuple):
    """How many rows are read at each time, and where the source of each lies."""

    sizes: tuple[int, ...]
    begins: Int[Tensor, "rows"]
    ends: Int[Tensor, "rows"]
    longest: int

    @classmethod
    def of(cls, time: TimeOrder, sources: Layout) -> _Places:
        begins, ends = (part[time.rows].int() for part in (sources.offsets[:-1], sources.offsets[1:]))
        return cls(time.sizes, begins, ends, sources.longest)


class _Loop(torch.autograd.Function):
    """Gates: reset gate, update gate, candidate."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        keys: Tensor,
        values: Tensor,
        hidden: Tensor,
        query_weight: Tensor,
        vector: Tensor,
        context_weight: Tensor,
        hidden_weight: Tensor,
        places: _Places,
    ) -> tuple[Tensor, Tensor]:
        dtype = inputs.dtype
        look = _Looking(keys.contiguous(), values.contiguous(), vector.float(), places)
        with torch.autocast("cpu", enabled=False):
            query_weight, context_weight, hidden_weight = (
                weight.to(dtype) for weight in (query_weight, context_weight, hidden_weight)
            )
            gates, befores = torch.empty_like(inputs), inputs.new_empty(len(inputs), hidden.shape[1])
            queries = inputs.new_empty(len(inputs), len(vector))
            contexts = inputs.new_empty(len(inputs), values.shape[1])
            seen = torch.empty(len(inputs), places.longest)
            parts = (inputs, gates, befores, queries, contexts, seen)
            each = zip(*(part.split(places.sizes) for part in parts), strict=True)
            for entering, gate, before, query, context, weights in each:
                before.copy_(hidden[: len(before)])
                torch.mm(before, query_weight.t(), out=query)
                look.ahead(query, weights, context)
                torch.addmm(entering, context, context_weight.t(), out=gate)
                hidden = reset_before(gate, gate, before, hidden_weight)
        kept = (gates, befores, queries, contexts, seen, look.keys, look.values, look.vector)
        ctx.save_for_backward(*kept, query_weight, context_weight, hidden_weight)
        ctx.places = places
        return befores, contexts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        gates, befores, queries, contexts, seen, keys, values, vector, *matrices = ctx.saved_tensors
        query_weight, context_weight, hidden_weight = matrices
        places, width = ctx.places, hidden_weight.shape[1]
        look = _Looking(keys, values, vector, places)
        with torch.autocast("cpu", enabled=False):
            d_befores, d_contexts = (given.to(gates.dtype) for given in gradients)
            d_gates, d_queries, d_mixed = map(torch.empty_like, (gates, queries, contexts))
            d_hidden = gates.new_zeros(places.sizes[0], width)
            parts = (d_befores, d_contexts, gates, befores, queries, seen, d_gates, d_queries, d_mixed)
            each = list(zip(*(part.split(places.sizes) for part in parts), strict=True))
            for more_before, more_context, gate, before, query, weights, d_gate, d_query, d_context in reversed(each):
                d = d_hidden[: len(gate)]
                reset_before_back(d, gate, before, hidden_weight, d_gate)
                torch.addmm(more_context, d_gate, context_weight, out=d_context)
                look.back(query, weights, d_context, d_query)
                d.add_(more_before).addmm_(d_gate[:, : 2 * width], hidden_weight[: 2 * width])
                d.addmm_(d_query, query_weight)
            d_values = look.back_at_values(seen, d_mixed)
            d_hidden_weight = reset_before_weights(d_gates, gates, befores)
            d_query_weight, d_context_weight = product(d_queries.t(), befores), product(d_gates.t(), contexts)
        d_vector = look.d_vectors.sum(dim=0)
        d_keys = look.d_keys.to(keys.dtype)
        return d_gates, d_keys, d_values, d_hidden, d_query_weight, d_vector, d_context_weight, d_hidden_weight, None


class _Looking:
    """The native calls of one batch."""

    def __init__(self, keys: Tensor, values: Tensor, vector: Tensor, places: _Places) -> None:
        self.keys, self.values, self.vector, self.places = keys, values, vector, places
        self.threads = torch.get_num_threads()
        self.d_keys, self.d_vectors = torch.zeros(keys.shape), torch.zeros(self.threads, len(vector))

    def ahead(self, queries: Tensor, weights: Tensor, mixed: Tensor) -> None:
        """What is seen from the queries of one step; how much of each key, and all of it together."""
        self._run(0, len(queries), queries=queries, weights=weights, mixed=mixed)

    def back(self, queries: Tensor, weights: Tensor, d_mixed: Tensor, d_queries: Tensor) -> None:
        """The derivative of a step: of its queries, and added to that of keys and vector."""
        given = {"queries": queries, "weights": weights, "d_mixed": d_mixed, "d_queries": d_queries}
        self._run(1, len(queries), **given, d_keys=self.d_keys, d_vectors=self.d_vectors)

    def back_at_values(self, weights: Tensor, d_mixed: Tensor) -> Tensor:
        """The derivative of the values, from the weights and the derivative of what was seen of all tokens."""
        d_values, sizes = torch.zeros(self.values.shape), self.places.sizes
        rows_at = torch.tensor(sizes, dtype=torch.int32)
        given = {"weights": weights, "d_mixed": d_mixed, "rows_at": rows_at, "d_values": d_values}
        self._run(2, sizes[0], **given)
        return d_values.to(self.values.dtype)

    def _run(self, part: int, rows: int, **arrays: Tensor) -> None:
        native = library()
        assert native is not None
        arrays |= {"begins": self.places.begins, "ends": self.places.ends}
        arrays |= {"keys": self.keys, "values": self.values, "vector": self.vector}
        call = LookStruct(
            kind=KINDS[self.keys.dtype],
            rows=rows,
            threads=self.threads,
            width=self.keys.shape[1],
            value_width=self.values.shape[1],
            longest=self.places.longest,
            times=len(self.places.sizes),
            **{name: array.data_ptr() for name, array in arrays.items()},
        )
        native.regard_look(ctypes.byref(call), part)
