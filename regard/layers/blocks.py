"""Encoder and decoder layers: attention and feed-forward, each inside a residual connection with a norm.

Vaswani et al. 2017, section 3.1. The residual connection is a part that is handed in: `PostNorm` as in the paper,
LayerNorm(x + Sublayer(x)), or `PreNorm`, x + Sublayer(LayerNorm(x)), which trains deep stacks more easily
(Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.attention import Mask, MultiHeadAttention
from regard.key_value_cache import KeyValueCache
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import FeedForward, GatedFeedForward
from regard.sequences import Sequences


class PostNorm(nn.Module):
    """LayerNorm(x + Dropout(Sublayer(x))): the paper's residual connection."""

    def __init__(
        self, width: int, dropout: float, eps: float = 1e-5, norm: Callable[[int, float], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.norm = norm(width, eps)
        self.dropout = Dropout(dropout)

    def enter(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """What the sublayer gets."""
        return x

    def leave(
        self, x: Float[Tensor, "tokens width"], y: Float[Tensor, "tokens width"]
    ) -> Float[Tensor, "tokens width"]:
        """What goes on, from the input x and the sublayer's answer y."""
        output: Tensor = self.norm(x + self.dropout(y))
        return output

    def steps(self, x: Float[Tensor, "tokens width"], y: Float[Tensor, "tokens width"]) -> dict[str, Tensor]:
        """`added`, x + y, and `output`, its norm; both (tokens, width)."""
        added = x + y
        return {"added": added, "output": self.norm(added)}


class PreNorm(PostNorm):
    """x + Dropout(Sublayer(LayerNorm(x)))."""

    def enter(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        entered: Tensor = self.norm(x)
        return entered

    def leave(
        self, x: Float[Tensor, "tokens width"], y: Float[Tensor, "tokens width"]
    ) -> Float[Tensor, "tokens width"]:
        output: Tensor = x + self.dropout(y)
        return output

    def steps(self, x: Float[Tensor, "tokens width"], y: Float[Tensor, "tokens width"]) -> dict[str, Tensor]:
        """`added` and `output` are the same here: the norm came first."""
        added = x + y
        return {"added": added, "output": added}


class EncoderLayer(nn.Module):
    """Self-attention over the whole sequence, then feed-forward."""

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        feed_forward: FeedForward | GatedFeedForward,
        residual: Callable[[], PostNorm],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_residual = residual()
        self.feed_forward = feed_forward
        self.feed_forward_residual = residual()

    def forward(self, x: Sequences, mask: Mask | None) -> Sequences:
        entered = x.with_values(self.self_attention_residual.enter(x.values))
        attended = self.self_attention_residual.leave(x.values, self.self_attention(entered, None, mask))
        entered_ffn = self.feed_forward_residual.enter(attended)
        return x.with_values(self.feed_forward_residual.leave(attended, self.feed_forward(entered_ffn)))

    def step(
        self,
        x: Float[Tensor, "rows width"],
        cache: KeyValueCache,
        mask: Mask | None = None,
        positions: Int[Tensor, "rows"] | None = None,
        count: int = 1,
    ) -> Float[Tensor, "rows width"]:
        """One new token a row, which sees itself and the past in the cache: a layer of a decoder without a source.

        Or `count` tokens for each row of the cache; then the mask hides from each those that follow it.
        """
        entered = self.self_attention_residual.enter(x)
        self.self_attention.remember(entered, cache, positions, count)
        seen = self.self_attention.step(entered, cache, count, mask, positions)
        attended = self.self_attention_residual.leave(x, seen)
        entered_ffn = self.feed_forward_residual.enter(attended)
        return self.feed_forward_residual.leave(attended, self.feed_forward(entered_ffn))

    def steps(
        self,
        x: Float[Tensor, "tokens width"],
        queries: slice,
        allowed: Bool[Tensor, "queries tokens"] | None = None,
        added: Float[Tensor, "heads queries tokens"] | None = None,
    ) -> dict[str, Tensor]:
        """Every intermediate value for the chosen queries of one sequence, by name; `output` is the layer's.

        What they may look at, and what is added to their scores, is given for these queries alone.
        """
        found = _self_attention_steps(self, x, queries, allowed, added)
        return found | _feed_forward_steps(self, found["self_attention_residual.output"])


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention to the memory, then feed-forward."""

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        feed_forward: FeedForward | GatedFeedForward,
        residual: Callable[[], PostNorm],
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_residual = residual()
        self.cross_attention = cross_attention
        self.cross_attention_residual = residual()
        self.feed_forward = feed_forward
        self.feed_forward_residual = residual()

    def forward(self, x: Sequences, memory: Sequences, mask: Mask | None, memory_mask: Mask | None) -> Sequences:
        entered = x.with_values(self.self_attention_residual.enter(x.values))
        attended = self.self_attention_residual.leave(x.values, self.self_attention(entered, None, mask))
        asking = x.with_values(self.cross_attention_residual.enter(attended))
        informed = self.cross_attention_residual.leave(attended, self.cross_attention(asking, memory, memory_mask))
        entered_ffn = self.feed_forward_residual.enter(informed)
        return x.with_values(self.feed_forward_residual.leave(informed, self.feed_forward(entered_ffn)))

    def step(
        self,
        x: Float[Tensor, "rows width"],
        cache: KeyValueCache,
        memory_cache: KeyValueCache,
        beams: int,
        memory_mask: Mask | None,
        mask: Mask | None = None,
        count: int = 1,
    ) -> Float[Tensor, "rows width"]:
        """The same for one new token a row, or `count` of them; the past comes from the caches."""
        entered = self.self_attention_residual.enter(x)
        self.self_attention.remember(entered, cache, count=count)
        attended = self.self_attention_residual.leave(x, self.self_attention.step(entered, cache, count, mask))
        asking = self.cross_attention_residual.enter(attended)
        seen = self.cross_attention.step(asking, memory_cache, beams * count, memory_mask)
        informed = self.cross_attention_residual.leave(attended, seen)
        entered_ffn = self.feed_forward_residual.enter(informed)
        return self.feed_forward_residual.leave(informed, self.feed_forward(entered_ffn))

    def steps(
        self,
        x: Float[Tensor, "tokens width"],
        queries: slice,
        allowed: Bool[Tensor, "queries tokens"] | None,
        memory: Float[Tensor, "source_tokens width"],
        added: Float[Tensor, "heads queries tokens"] | None = None,
    ) -> dict[str, Tensor]:
        """The same, with the memory that the layer looks at."""
        found = _self_attention_steps(self, x, queries, allowed, added)
        attended = found["self_attention_residual.output"]
        asking = self.cross_attention_residual.enter(attended)
        found["cross_attention_residual.entered"] = asking
        found |= _named("cross_attention", self.cross_attention.steps(asking, memory))
        left = self.cross_attention_residual.steps(attended, found["cross_attention.output"])
        found |= _named("cross_attention_residual", left)
        return found | _feed_forward_steps(self, left["output"])


def _self_attention_steps(
    layer: EncoderLayer | DecoderLayer, x: Tensor, queries: slice, allowed: Tensor | None, added: Tensor | None
) -> dict[str, Tensor]:
    entered = layer.self_attention_residual.enter(x)
    positions = torch.arange(len(x), device=x.device)[queries]
    attention = layer.self_attention.steps(entered[queries], entered, allowed, positions, added)
    left = layer.self_attention_residual.steps(x[queries], attention["output"])
    found = {"self_attention_residual.entered": entered[queries]} | _named("self_attention", attention)
    return found | _named("self_attention_residual", left)


def _feed_forward_steps(layer: EncoderLayer | DecoderLayer, x: Tensor) -> dict[str, Tensor]:
    entered = layer.feed_forward_residual.enter(x)
    inner = layer.feed_forward.steps(entered)
    left = layer.feed_forward_residual.steps(x, inner["output"])
    found = {"feed_forward_residual.entered": entered} | _named("feed_forward", inner)
    found |= _named("feed_forward_residual", left)
    return found | {"output": left["output"]}


def _named(place: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{name}": value for name, value in found.items()}
