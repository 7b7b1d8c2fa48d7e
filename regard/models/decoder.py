"""A decoder without a source: a stack of masked self-attention that predicts each next token. GPT and Llama are two.

Here is what all of them do alike: from tokens to logits, and one token at a time with what was read kept in caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attention import Mask, cache_of, causal_mask, empty_cache, make_mask
from regard.errors import RegardError
from regard.key_value_cache import KeyValueCache
from regard.layers.blocks import EncoderLayer
from regard.models.base import Model
from regard.native.products import linear
from regard.sequences import Layout, Sequences


class DecoderModel(Model):
    """Tokens in, scores of every next token out. Its parts: `embedding`, `dropout`, `decoder` (`layers`, `norm`), and
    `output`, None where the embedding predicts too.
    """

    embedding: nn.Embedding
    dropout: nn.Module
    decoder: Any
    output: nn.Linear | None

    def forward(self, tokens: Sequences) -> Float[Tensor, "tokens vocabulary"]:
        """Logits of the token after each token."""
        return self.logits(self.hidden(tokens).values)

    def hidden(self, tokens: Sequences) -> Sequences:
        """Token ids to the last hidden state, (tokens, width)."""
        hidden: Sequences = self.decoder(self.embed(tokens))
        return hidden

    def embed(self, tokens: Sequences) -> Sequences:
        """Where the residual stream begins."""
        return tokens.with_values(self.dropout(self.place(self.lookup(tokens.values), tokens.layout.positions)))

    def place(
        self, embedded: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        """What is added to embeddings to tell their positions: nothing, unless a model says so."""
        return embedded

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """Rows of the embedding matrix."""
        found: Tensor = self.embedding(tokens)
        return found

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the vocabulary."""
        return linear(hidden, (self.output or self.embedding).weight)

    # What generation knows of a model: start and step here, select on the state.

    def start(self, source: Sequences) -> TextState:
        """Read all but the last token of each text at once; `step` goes on from there, with the last one first."""
        if min(source.lengths, default=0) < 1:
            raise RegardError("a text to go on from needs at least one token")
        read = Sequences.of([row[:-1] for row in source])
        longest = read.layout.longest
        missing = longest - read.layout.length_tensor
        caches = self._read(read) if longest else self._empty(len(read))
        return TextState(caches, None if read.layout.even else missing)

    def step(self, tokens: Int[Tensor, "rows"], state: TextState) -> tuple[Float[Tensor, "rows vocabulary"], TextState]:
        """Logits after one more token in each row; the state grows by that position."""
        return self.logits(self.advance(tokens[:, None], state)[:, 0]), state

    # What some ways of generating need besides.

    def extend(
        self, tokens: Int[Tensor, "rows count"], state: TextState
    ) -> tuple[Float[Tensor, "rows count vocabulary"], TextState]:
        """Logits after each of several more tokens in each row; `state.cut` takes back those one does not want."""
        hidden = self.advance(tokens, state)
        return self.logits(hidden.flatten(0, 1)).unflatten(0, tokens.shape), state

    def advance(self, tokens: Int[Tensor, "rows count"], state: TextState) -> Float[Tensor, "rows count width"]:
        """The last hidden state at each of the new tokens; the state grows by them."""
        rows, count = tokens.shape
        positions, mask = state.positions(tokens).flatten(), state.mask(count)
        hidden = self.place(self.lookup(tokens.flatten()), positions)
        for layer, cache in zip(self.decoder.layers, state.caches, strict=True):
            hidden = _layer(layer).step(hidden, cache, mask, positions, count)
        found: Tensor = self.decoder.norm(hidden).view(rows, count, -1)
        return found

    def _read(self, tokens: Sequences) -> list[KeyValueCache]:
        """Keys and values of every layer, each row moved to the right end of its cache."""
        x, mask, caches = self.embed(tokens), make_mask(tokens.layout, tokens.layout, causal=True), []
        for number, layer in enumerate(self.decoder.layers, start=1):
            entered = x.with_values(_layer(layer).self_attention_residual.enter(x.values))
            caches.append(_aligned(cache_of(_layer(layer).self_attention, entered), tokens.layout))
            if number < len(self.decoder.layers):  # nobody asks for what leaves the last layer
                x = layer(x, mask)
        return caches

    def _empty(self, rows: int) -> list[KeyValueCache]:
        layers = [_layer(layer) for layer in self.decoder.layers]
        return [empty_cache(layer.self_attention, rows, self.embedding.weight) for layer in layers]


@dataclass
class TextState:
    """Keys and values of all tokens read so far, rows aligned at their right end."""

    caches: list[KeyValueCache]
    missing: Int[Tensor, "rows"] | None
    """For each row how many places at the left of its caches hold no token; None where all rows are full."""

    @property
    def length(self) -> int:
        """Positions read so far."""
        return self.caches[0].length

    def positions(self, tokens: Int[Tensor, "rows count"]) -> Int[Tensor, "rows count"]:
        """Where the next tokens of each row stand in its text."""
        places = torch.arange(tokens.shape[1], device=tokens.device) + self.length
        return places.expand_as(tokens) if self.missing is None else places - self.missing[:, None]

    def mask(self, count: int = 1) -> Mask | None:
        """What the next tokens of each row may look at: themselves and what came before them."""
        device, length = self.caches[0].keys.device, self.length + count
        before = None if count == 1 else causal_mask(count, length, device)[None, None]
        if self.missing is None:
            return None if before is None else Mask(before)
        there = (torch.arange(length, device=device) >= self.missing[:, None])[:, None, None]
        return Mask(there if before is None else there & before)

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` positions."""
        for cache in self.caches:
            cache.cut(length)

    def select(self, rows: Int[Tensor, "chosen"]) -> TextState:
        """The state of the chosen rows, in that order."""
        missing = None if self.missing is None else self.missing[rows]
        return TextState([cache.select(rows) for cache in self.caches], missing)


def language_model_loss(model: DecoderModel, hidden: Sequences, tokens: Sequences) -> Float[Tensor, ""]:
    """Mean negative log-probability of every token but the first of each text."""
    layout = tokens.layout
    going_on = (layout.positions < layout.length_tensor[layout.rows] - 1).nonzero()[:, 0]
    return F.cross_entropy(model.logits(hidden.values[going_on]), tokens.values[going_on + 1])


def last_of_each(hidden: Sequences) -> Float[Tensor, "rows width"]:
    """The hidden state of the last token of every text."""
    if 0 in hidden.lengths:
        raise RegardError("a text to judge needs at least one token")
    return hidden.values[hidden.layout.offsets[1:] - 1]


def _aligned(cache: KeyValueCache, layout: Layout) -> KeyValueCache:
    """Move each row of a cache from the left end to the right; what stands before it is hidden by the mask."""
    if layout.even:
        return cache
    places = torch.arange(layout.longest, device=layout.device) - (layout.longest - layout.length_tensor)[:, None]
    chosen = places.clamp_min(0)[:, None, :, None].expand_as(cache.keys)
    return KeyValueCache(cache.keys.gather(2, chosen), cache.values.gather(2, chosen), layout.longest)


def _layer(layer: nn.Module) -> EncoderLayer:
    """A ModuleList forgets what it holds; this tells the type checker."""
    assert isinstance(layer, EncoderLayer)
    return layer
