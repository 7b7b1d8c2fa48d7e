"""Attention: the one place where softmax(Q K^T / sqrt(d_k)) V is written.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2: scaled dot-product attention (equation 1) and multi-head
attention. Each stands here twice, side by side: `forward`, the fast way over a ragged batch, and `steps`, the same
computation as named intermediate results for the queries one asks about. (Additive attention is in `layers`.)

Axes: B rows of the batch, T query positions, S key positions, H heads, K head width, D width.
A row of scores in which every key is masked gives zero weights, not NaN, in both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.key_value_cache import KeyValueCache
from regard.native.attention import Look, is_ragged, ragged_attention
from regard.native.products import Linear, linear
from regard.sequences import Layout, Sequences

# Up to this many score entries a plain matrix product is faster than the fused kernel on a CPU while training, because
# the fused kernel's backward pass recomputes the scores; but not under a causal mask, whose hidden half the fused
# kernel leaves out (benchmarks/train_step.py --attention).
PLAIN_ATTENTION_ENTRIES = 1 << 24


# --- the formula ------------------------------------------------------------------------------------------------------


def scaled_dot_product_steps(
    queries: Float[Tensor, "heads queries head_width"],
    keys: Float[Tensor, "heads keys head_width"],
    values: Float[Tensor, "heads keys value_width"],
    allowed: Bool[Tensor, "queries keys"] | None = None,
    scale: float | None = None,
    added: Float[Tensor, "heads queries keys"] | None = None,
) -> dict[str, Tensor]:
    """Equation 1, one named result a step: scores, scaled_scores, masked_scores, weights, mixed.

    `added` goes to the scaled scores before the mask (relative positions); it is then a step too, `added_scores`.
    """
    scores = queries @ keys.transpose(-2, -1)
    scaled_scores = scores * (queries.shape[-1] ** -0.5 if scale is None else scale)
    placed_scores = scaled_scores if added is None else scaled_scores + added
    masked_scores = placed_scores if allowed is None else placed_scores.masked_fill(~allowed, -math.inf)
    weights = masked_scores.softmax(dim=-1).nan_to_num(0.0)  # a row without a key: 0 / 0
    return {
        "scores": scores,
        "scaled_scores": scaled_scores,
        **({} if added is None else {"added_scores": added}),
        "masked_scores": masked_scores,
        "weights": weights,
        "mixed": weights @ values,
    }


def scaled_dot_product(
    queries: Float[Tensor, "rows heads queries head_width"],
    keys: Float[Tensor, "rows heads keys head_width"],
    values: Float[Tensor, "rows heads keys value_width"],
    mask: Mask | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "rows heads queries value_width"]:
    """Equation 1, the fast way: a fused kernel, or one batched product each way where that is faster.

    `scale` None is 1 / sqrt(head width); `dropout` is the probability with which a weight is dropped.
    """
    if _plain_is_faster(queries, keys, mask, dropout):
        scores = (queries * (queries.shape[-1] ** -0.5 if scale is None else scale)) @ keys.transpose(-2, -1)
        if mask is not None:
            scores += mask.bias(scores.dtype)
        mixed = F.dropout(scores.softmax(dim=-1), dropout) @ values
    else:
        causal = isinstance(mask, CausalMask)
        bias = None if mask is None or causal else mask.bias(queries.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, bias, dropout, causal, scale=scale)
    if mask is not None and mask.has_empty_rows:
        mixed = mixed.masked_fill(~mask.allowed.any(dim=-1, keepdim=True), 0.0)
    return mixed


# --- masks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mask:
    """Which query may look at which key: `allowed`, broadcast over rows, heads and queries. Shared by all layers.

    `added`, where there is one, goes to the scores of every layer: what relative positions say (T5).
    """

    allowed: Bool[Tensor, "rows 1 #queries #keys"]
    added: Float[Tensor, "1 heads #queries #keys"] | None = None

    def bias(self, dtype: torch.dtype) -> Float[Tensor, "rows heads queries keys"]:
        """0 where allowed, a very low finite score elsewhere (-inf would make NaN of a row without a key)."""
        return self._bias.to(dtype)

    def for_groups(self, count: int) -> Mask:
        """The same where every query stands `count` times, one after the other (heads that share their keys)."""
        several = self.allowed.shape[2] > 1
        return Mask(self.allowed.repeat(1, 1, count, 1)) if several and self.added is None else self

    @cached_property
    def _bias(self) -> Tensor:
        hidden = torch.zeros(self.allowed.shape, device=self.allowed.device).masked_fill_(~self.allowed, -1e9)
        return hidden if self.added is None else hidden + self.added

    @cached_property
    def has_empty_rows(self) -> bool:
        return not bool(self.allowed.any(dim=-1).all())


class PaddingMask(Mask):
    """What pads the keys' rows is hidden, and nothing else. Ragged attention, which pads nothing, needs none."""


class CausalMask(Mask):
    """A query sees itself and what came before it. The matrix is made only if it is asked for: fused kernels need none.

    It serves ragged rows too: what pads a row stands at its end, after every token of it.
    """

    def __init__(self, length: int, device: torch.device | str = "cpu") -> None:
        object.__setattr__(self, "length", length)
        object.__setattr__(self, "device", device)

    length: int
    device: torch.device | str
    has_empty_rows = False

    @cached_property
    def allowed(self) -> Bool[Tensor, "1 1 length length"]:
        return causal_mask(self.length, self.length, self.device)[None, None]


def make_mask(queries: Layout, keys: Layout, causal: bool = False) -> Mask | None:
    """The mask of one attention call: padding of the keys, or the future if `causal` (then queries and keys are the
    same tokens). None where nothing is hidden.
    """
    if causal:
        if queries.lengths != keys.lengths:
            raise ValueError("a causal mask is for a sequence that looks at itself")
        return CausalMask(keys.longest, keys.device)
    return None if keys.even else PaddingMask(keys.present[:, None, None, :])


def causal_mask(queries: int, keys: int, device: torch.device | str = "cpu") -> Bool[Tensor, "queries keys"]:
    """A query sees itself and what came before it; the last query sees the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(diagonal=keys - queries)


# --- multi-head attention ---------------------------------------------------------------------------------------------


Rotation = Callable[[Tensor, Tensor], Tensor]
"""Turns vectors (..., positions, head_width) by their positions: what `regard.layers.positions.Rotary` does."""


class Heads(nn.Module):
    """The learned maps of H attentions side by side, each on its own projection of width K = D / H (section 3.2.2).

    Those to queries, keys and values are one matrix, `projection`: first the rows that make queries, then keys, then
    values. What came later is optional: another `head_width` than D / H; fewer `key_heads` than heads, each shared by a
    group of queries (Ainslie et al. 2023, "GQA"); no `bias` (of the projection, of the output); a `rotation` of queries
    and keys by their positions (Su et al. 2021, "RoFormer").
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int | None = None,
        key_heads: int | None = None,
        bias: tuple[bool, bool] = (True, True),
        rotation: Rotation | None = None,
    ) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"a width of {width} cannot be cut into {heads} heads of equal width")
        self.heads, self.key_heads = heads, key_heads or heads
        if heads % self.key_heads:
            raise ValueError(f"{heads} heads cannot share {self.key_heads} heads of keys equally")
        self.head_width, self.rotation = head_width or width // heads, rotation
        self.query_width, self.key_width = heads * self.head_width, self.key_heads * self.head_width
        self.projection: nn.Linear = Linear(width, self.query_width + 2 * self.key_width, bias[0])
        self.output = Linear(self.query_width, width, bias[1])

    def project_queries(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch query_width"]:
        weight, bias = self.projection.weight, self.projection.bias
        return linear(x, weight[: self.query_width], None if bias is None else bias[: self.query_width])

    def project_memory(self, memory: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch two_key_widths"]:
        """Keys and values, side by side."""
        weight, bias = self.projection.weight, self.projection.bias
        return linear(memory, weight[self.query_width :], None if bias is None else bias[self.query_width :])

    def split(self, x: Float[Tensor, "*batch positions width"]) -> Float[Tensor, "*batch heads positions head_width"]:
        heads: Tensor = x.unflatten(-1, (-1, self.head_width)).transpose(-2, -3)
        return heads

    def split_pairs(self, pairs: Float[Tensor, "*batch positions two_key_widths"]) -> tuple[Tensor, Tensor]:
        """Keys and values that lie side by side, each as (..., key_heads, positions, head_width)."""
        keys, values = pairs.split(self.key_width, dim=-1)
        return self.split(keys), self.split(values)

    def for_all_heads(self, x: Tensor) -> Tensor:
        """(..., key_heads, positions, head_width) -> (..., heads, positions, head_width)"""
        return x if self.key_heads == self.heads else x.repeat_interleave(self.heads // self.key_heads, dim=-3)

    def turned(self, x: Float[Tensor, "*batch positions head_width"], positions: Tensor | None = None) -> Tensor:
        """Turned by the positions, by default 0, 1, ...; as it is where there is no rotation."""
        if self.rotation is None:
            return x
        return self.rotation(x, torch.arange(x.shape[-2], device=x.device) if positions is None else positions)


class MultiHeadAttention(Heads):
    """H attentions side by side, the fast way and step by step (section 3.2.2).

    `dropout` falls on the weights while training; `scale` None is 1 / sqrt(K); the rest see `Heads`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        scale: float | None = None,
        head_width: int | None = None,
        key_heads: int | None = None,
        bias: tuple[bool, bool] = (True, True),
        rotation: Rotation | None = None,
    ) -> None:
        super().__init__(width, heads, head_width, key_heads, bias, rotation)
        self.dropout, self.scale = dropout, scale

    def forward(self, x: Sequences, memory: Sequences | None, mask: Mask | None) -> Float[Tensor, "tokens width"]:
        """Each token of `x` looks at `memory`, or at `x` itself where memory is None (self-attention)."""
        asking = self.projection(x.values) if memory is None else self.project_queries(x.values)
        pairs = None if memory is None else self.project_memory(memory.values)
        keys = x.layout if memory is None else memory.layout
        if _hides_as_ragged(self, mask) and is_ragged(asking, pairs):
            mixed = ragged_attention(asking, pairs, _look(self, x.layout, keys, isinstance(mask, CausalMask)))
        else:
            padded = None if pairs is None else keys.pad(pairs)
            mixed = x.layout.unpad(_over_rows(self, x.layout.pad(asking), padded, mask))
        output: Tensor = self.output(mixed)
        return output

    def step(
        self,
        x: Float[Tensor, "rows width"],
        cache: KeyValueCache,
        beams: int = 1,
        mask: Mask | None = None,
        positions: Int[Tensor, "rows"] | None = None,
    ) -> Float[Tensor, "rows width"]:
        """One new token a row, looking at what the cache holds. Rows that share a cache row are queries of one call.

        `positions`, for a rotation: where each token stands in its text.
        """
        queries = self.split(self.project_queries(x).view(-1, beams, self.query_width))
        queries = self.turned(queries, _by_row(positions, beams))
        if self.key_heads < self.heads:  # heads that share their keys are queries of one head
            queries = queries.unflatten(1, (self.key_heads, -1)).flatten(2, 3)
            mask = None if mask is None else mask.for_groups(self.heads // self.key_heads)
        mixed = _in_full_precision(queries, cache.keys, cache.values, mask, self.scale)
        if self.key_heads < self.heads:
            mixed = mixed.unflatten(2, (-1, beams)).flatten(1, 2)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(len(x), self.query_width))
        return output

    def remember(
        self,
        x: Float[Tensor, "rows width"],
        cache: KeyValueCache,
        positions: Int[Tensor, "rows"] | None = None,
        count: int = 1,
    ) -> None:
        """Append the keys and values of new tokens to the cache, `count` for each of its rows."""
        keys, values = self.split_pairs(self.project_memory(x).unflatten(0, (-1, count)))
        cache.append(self.turned(keys, _by_row(positions, count)), values)

    def steps(
        self,
        x: Float[Tensor, "queries width"],
        memory: Float[Tensor, "keys width"],
        allowed: Bool[Tensor, "queries keys"] | None = None,
        positions: Int[Tensor, "queries"] | None = None,
        added: Float[Tensor, "heads queries keys"] | None = None,
    ) -> dict[str, Tensor]:
        """The same for one sequence, step by step: give one row of `x` for one query, or all; see `attention_steps`."""
        return attention_steps(self, x, memory, allowed, positions, added)


def attention_steps(
    attention: MultiHeadAttention,
    x: Float[Tensor, "queries width"],
    memory: Float[Tensor, "keys width"],
    allowed: Bool[Tensor, "queries keys"] | None = None,
    positions: Int[Tensor, "queries"] | None = None,
    added: Float[Tensor, "heads queries keys"] | None = None,
) -> dict[str, Tensor]:
    """Multi-head attention over one sequence, by name.

    `queries`, `keys`, `values` (heads, positions, head_width); the steps of the formula; `heads`, what each head adds
    to the output (heads, queries, width); `output`, their sum and the bias (queries, width). With a rotation (then
    `positions` tells where the queries stand) also `unrotated_queries` and `unrotated_keys`, before it.
    """
    queries = attention.split(attention.project_queries(x))
    keys, values = (attention.for_all_heads(part) for part in attention.split_pairs(attention.project_memory(memory)))
    found = {} if attention.rotation is None else {"unrotated_queries": queries, "unrotated_keys": keys}
    queries, keys = attention.turned(queries, positions), attention.turned(keys)
    found |= {"queries": queries, "keys": keys, "values": values}
    found |= scaled_dot_product_steps(queries, keys, values, allowed, attention.scale, added)
    heads = found["mixed"] @ attention.split(attention.output.weight).transpose(-2, -1)
    bias, output = attention.output.bias, heads.sum(dim=0)
    return found | {"heads": heads, "output": output if bias is None else output + bias}


def cache_of(attention: MultiHeadAttention, memory: Sequences) -> KeyValueCache:
    """Keys and values of a whole memory, computed once for all the steps that will look at it."""
    keys, values = attention.split_pairs(memory.layout.pad(attention.project_memory(memory.values)))
    return KeyValueCache(attention.turned(keys), values, memory.layout.longest)


def empty_cache(attention: MultiHeadAttention, rows: int, like: Tensor) -> KeyValueCache:
    """A cache that has seen nothing yet."""
    return KeyValueCache.empty(rows, attention.key_heads, attention.head_width, like)


def _by_row(positions: Int[Tensor, "rows"] | None, beams: int = 1) -> Int[Tensor, "rows_ 1 beams"] | None:
    """Positions of single tokens as they stand beside (rows, heads, beams, head_width)."""
    return None if positions is None else positions.view(-1, 1, beams)


# --- which way is fast ------------------------------------------------------------------------------------------------


def _hides_as_ragged(attention: MultiHeadAttention, mask: Mask | None) -> bool:
    return attention.rotation is None and (mask is None or type(mask) in (PaddingMask, CausalMask))


def _look(attention: MultiHeadAttention, queries: Layout, keys: Layout, causal: bool) -> Look:
    scale = attention.head_width**-0.5 if attention.scale is None else attention.scale
    dropout = attention.dropout * attention.training
    return Look(queries.offsets, keys.offsets, attention.heads, attention.key_heads, causal, scale, dropout)


def _over_rows(
    attention: MultiHeadAttention,
    asking: Float[Tensor, "rows queries projected"],
    pairs: Float[Tensor, "rows keys two_key_widths"] | None,
    mask: Mask | None,
) -> Float[Tensor, "rows queries query_width"]:
    if pairs is None:
        asking, pairs = asking.split([attention.query_width, 2 * attention.key_width], dim=-1)
    queries, (keys, values) = attention.turned(attention.split(asking)), attention.split_pairs(pairs)
    keys, values = attention.for_all_heads(attention.turned(keys)), attention.for_all_heads(values)
    dropout = attention.dropout * attention.training
    return _in_full_precision(queries, keys, values, mask, attention.scale, dropout).transpose(1, 2).flatten(-2)


def _in_full_precision(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Mask | None, scale: float | None, dropout: float = 0.0
) -> Tensor:
    """On a CPU attention runs in float32 also under bf16: its backward pass is four times slower in bf16 there."""
    if queries.device.type != "cpu":
        return scaled_dot_product(queries, keys, values, mask, scale, dropout)
    with torch.autocast("cpu", enabled=False):
        if queries.dtype == torch.bfloat16:
            mixed = scaled_dot_product(queries.float(), keys.float(), values.float(), mask, scale, dropout)
            return mixed.bfloat16()
        return scaled_dot_product(queries, keys, values, mask, scale, dropout)


def _plain_is_faster(queries: Tensor, keys: Tensor, mask: Mask | None, dropout: float) -> bool:
    if queries.device.type != "cpu" or not queries.requires_grad or (isinstance(mask, CausalMask) and not dropout):
        return False
    return math.prod(queries.shape[:3]) * keys.shape[2] <= PLAIN_ATTENTION_ENTRIES
