"""Attention of ragged sequences on a CPU, in native code: no padding, and nothing is laid out in rows and columns.

PyTorch's attention wants padded batches: laying them out, taking them apart and the copies for bfloat16 cost as much as
the arithmetic on short sequences; on long ones its own derivative is at a quarter of the peak.
(docs/log.md, "Training beside peers")
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.native import AttentionStruct, has_wide_vectors, library
from regard.native.matrices import KINDS
from regard.native.products import are_plain

_STEPS = 1 << 32


class Look(NamedTuple):
    """What looks at what, and how."""

    query_begins: Int[Tensor, "sequences_plus_1"]  # where each sequence begins, and the last one ends
    key_begins: Int[Tensor, "sequences_plus_1"]
    heads: int
    key_heads: int
    causal: bool
    scale: float
    dropout: float


def is_ragged(asking: Tensor, pairs: Tensor | None) -> bool:
    """Whether `ragged_attention` takes them: float32 or bfloat16 on the CPU, and there are kernels for it."""
    given = (asking,) if pairs is None else (asking, pairs)
    alike = all(part.dtype in KINDS and part.dtype == asking.dtype for part in given)
    return alike and has_wide_vectors() and are_plain(given)


def ragged_attention(
    asking: Float[Tensor, "tokens projected"], pairs: Float[Tensor, "keys two_key_widths"] | None, look: Look
) -> Float[Tensor, "tokens query_width"]:
    """softmax(Q K^T scale) V of each sequence and head (Vaswani et al. 2017, equation 1).

    `asking` holds the queries of all heads side by side and, where there are no `pairs`, behind them keys and values;
    else `pairs` does. A query without a key gets zeros.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_()) if look.dropout else 0
    found: Tensor = _RaggedAttention.apply(asking, pairs, look, seed)  # type: ignore[no-untyped-call]
    return found


class _RaggedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, asking: Tensor, pairs: Tensor | None, look: Look, seed: int) -> Tensor:
        asking, pairs = asking.contiguous(), None if pairs is None else pairs.contiguous()
        width = _query_width(asking, pairs, look)
        mixed = asking.new_empty(len(asking), width)
        normalisers = torch.empty(look.heads, len(asking)) if any(ctx.needs_input_grad) else None
        _run(_call(asking, pairs, look, seed, mixed=mixed, normalisers=normalisers))
        ctx.save_for_backward(asking, pairs, normalisers)
        ctx.look, ctx.seed = look, seed
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        asking, pairs, normalisers = ctx.saved_tensors
        d_asking, d_pairs = torch.empty_like(asking), None if pairs is None else torch.empty_like(pairs)
        call = _call(asking, pairs, ctx.look, ctx.seed, normalisers=normalisers)
        d_mixed = gradient.to(asking.dtype).contiguous()
        call.d_mixed = d_mixed.data_ptr()
        call.d_queries, call.d_keys, call.d_values = _places(d_asking, d_pairs, ctx.look)
        _run(call)
        return d_asking, d_pairs, None, None


def _query_width(asking: Tensor, pairs: Tensor | None, look: Look) -> int:
    if pairs is not None:
        return asking.shape[1]
    return asking.shape[1] // (look.heads + 2 * look.key_heads) * look.heads


def _places(asking: Tensor, pairs: Tensor | None, look: Look) -> tuple[int, int, int]:
    """Where queries, keys and values begin."""
    size, queries = asking.element_size(), _query_width(asking, pairs, look)
    keys = asking.data_ptr() + queries * size if pairs is None else pairs.data_ptr()
    return asking.data_ptr(), keys, keys + queries // look.heads * look.key_heads * size


def _call(
    asking: Tensor,
    pairs: Tensor | None,
    look: Look,
    seed: int,
    mixed: Tensor | None = None,
    normalisers: Tensor | None = None,
) -> AttentionStruct:
    queries, keys, values = _places(asking, pairs, look)
    return AttentionStruct(
        kind=KINDS[asking.dtype],
        threads=torch.get_num_threads(),
        sequences=len(look.query_begins) - 1,
        heads=look.heads,
        key_heads=look.key_heads,
        width=_query_width(asking, pairs, look) // look.heads,
        causal=look.causal,
        scale=look.scale,
        dropped=min(round(look.dropout * _STEPS), _STEPS - 1),
        seed=seed,
        query_begins=look.query_begins.data_ptr(),
        key_begins=look.key_begins.data_ptr(),
        queries=queries,
        keys=keys,
        values=values,
        query_row=asking.stride(0),
        key_row=(asking if pairs is None else pairs).stride(0),
        mixed=None if mixed is None else mixed.data_ptr(),
        normalisers=None if normalisers is None else normalisers.data_ptr(),
    )


def _run(call: AttentionStruct) -> None:
    native = library()
    assert native is not None
    native.regard_attention(ctypes.byref(call))
