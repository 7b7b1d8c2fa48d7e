"""The Transformer: Vaswani et al. 2017, "Attention Is All You Need".

An encoder and a decoder of N layers each. What is notable in it: no recurrence, so all positions of a sequence are
computed at once; eight attentions side by side in every sublayer; positions as sinusoids added to the embeddings
(section 3.5); one embedding matrix for source, target and the output projection, scaled by sqrt(d_model) on the way in
(section 3.4); the norm after the residual sum (section 3.1), or before it as an option.

What is unusual here: the batch is ragged (`Sequences`), so nothing but attention itself ever sees padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.attention import Mask, MultiHeadAttention, cache_of, causal_mask, empty_cache, make_mask
from regard.key_value_cache import KeyValueCache
from regard.layers.blocks import DecoderLayer, EncoderLayer, PostNorm, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import FeedForward
from regard.layers.positions import LearnedPositions, SinusoidalPositions
from regard.models.base import Config, Model
from regard.native.products import linear
from regard.sequences import Layout, Sequences


class TransformerConfig(Config):
    """Sizes of a Transformer; the defaults are the paper's base model (table 3)."""

    model_type: Literal["transformer"] = "transformer"
    vocab_size: int = Field(37000, gt=0)
    """V: source and target share one vocabulary."""
    d_model: int = Field(512, gt=0)
    """D: the width of the residual stream."""
    encoder_layers: int = Field(6, ge=0)
    decoder_layers: int = Field(6, gt=0)
    attention_heads: int = Field(8, gt=0)
    """H: heads of every attention sublayer."""
    ffn_dim: int = Field(2048, gt=0)
    """F: inner width of the feed-forward network."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """On the output of each sublayer and on the sum of embedding and position (section 5.4)."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights."""
    activation_function: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    normalize_before: bool = False
    """Norm before each sublayer (and once at the end) instead of after it."""
    normalize_embedding: bool = False
    """A norm after embedding and position as well (BART)."""
    scale_embedding: bool = True
    """Multiply embeddings by sqrt(d_model) (section 3.4)."""
    positions: Literal["sinusoids", "sinusoids-in-halves", "learned"] = "sinusoids"
    """Sines and cosines in turn, as in the paper; all sines, then all cosines (Marian); or learned vectors (BART)."""
    first_position: int = Field(0, ge=0)
    """How many rows of a learned table stand before that of position 0."""
    logits_bias: bool = False
    """A number for each word is added to its score. It is not trained here (Marian, BART)."""
    max_position_embeddings: int = Field(1024, gt=0)
    """Longest text accepted, in tokens. Sinusoids need no limit; memory and training lengths do."""
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int = Field(1, ge=0)
    """Begins the decoder's input."""
    forced_bos_token_id: int | None = Field(None, ge=0)
    """The first token of every answer, where it is given (BART)."""
    eos_token_id: int = Field(2, ge=0)
    """Ends every source and every target."""

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerConfig:
        if self.d_model % self.attention_heads:
            raise ValueError(f"d_model {self.d_model} cannot be cut into {self.attention_heads} heads")
        return self


PRESETS = {
    "base": TransformerConfig(),
    "big": TransformerConfig(d_model=1024, attention_heads=16, ffn_dim=4096, dropout=0.3),
}


class Transformer(Model):
    """Source tokens in, scores of every next target token out."""

    config_class: ClassVar[type[Config]] = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = _positions(config)
        self.target_positions = _positions(config)
        self.embedding_norm = _embedding_norm(config)
        self.target_embedding_norm = _embedding_norm(config)
        self.output_bias: Tensor | None
        self.register_buffer("output_bias", torch.zeros(config.vocab_size) if config.logits_bias else None)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self._initialise()

    def forward(self, source: Sequences, target: Sequences) -> Float[Tensor, "tokens vocabulary"]:
        """Logits of the token after each target token. `target` begins with bos_token_id (teacher forcing)."""
        return self.logits(self.decode(target, self.encode(source)).values)

    def encode(self, source: Sequences) -> Sequences:
        """Token ids to the memory, (source tokens, width)."""
        memory: Sequences = self.encoder(self.embed(source))
        return memory

    def decode(self, target: Sequences, memory: Sequences) -> Sequences:
        """Target ids and the memory to the decoder's last hidden state, (target tokens, width)."""
        hidden: Sequences = self.decoder(self.embed_target(target), memory)
        return hidden

    def embed(self, source: Sequences) -> Sequences:
        """embedding * sqrt(d_model) + position: where the encoder's residual stream begins."""
        placed = self.positions(self.lookup(source.values), source.layout.positions)
        return source.with_values(self.dropout(self.embedding_norm(placed)))

    def embed_target(self, target: Sequences) -> Sequences:
        """The same where the decoder's begins."""
        placed = self.place_target(self.lookup(target.values), target.layout.positions)
        return target.with_values(self.dropout(placed))

    def place_target(
        self, embedded: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        """Embeddings of target tokens with their positions."""
        placed: Tensor = self.target_embedding_norm(self.target_positions(embedded, positions))
        return placed

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """Rows of the embedding matrix, scaled by sqrt(d_model) (section 3.4)."""
        found: Tensor = self.embedding(tokens)
        return found * math.sqrt(self.config.d_model) if self.config.scale_embedding else found

    def embedding_steps(
        self, ids: Int[Tensor, "tokens"], positions: Int[Tensor, "tokens"], of_target: bool
    ) -> dict[str, Tensor]:
        """`lookup`, `encoding` (the positions), their sum, and what a norm makes of it; each (tokens, width)."""
        looked_up = self.lookup(ids)
        found = {"lookup": looked_up}
        found |= (self.target_positions if of_target else self.positions).steps(looked_up, positions)
        if self.config.normalize_embedding:
            norm = self.target_embedding_norm if of_target else self.embedding_norm
            found |= {"added": found.pop("output")}
            found["output"] = norm(found["added"])
        return found

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the vocabulary: dot products with the embedding matrix."""
        return linear(hidden, self.embedding.weight, self.output_bias)

    # What generation knows of a model: start and step here, select on the state.

    def start(self, source: Sequences) -> DecoderState:
        """Encode the source and compute keys and values of the memory once."""
        memory = self.encode(source)
        memory_mask = make_mask(Layout((1,) * len(source), source.layout.device), source.layout)
        rows = torch.arange(len(source), device=source.layout.device)
        layers = [_decoder_layer(layer) for layer in self.decoder.layers]
        return DecoderState(
            [empty_cache(layer.self_attention, len(source), memory.values) for layer in layers],
            [cache_of(layer.cross_attention, memory) for layer in layers],
            memory_mask,
            rows,
        )

    def step(
        self, tokens: Int[Tensor, "rows"], state: DecoderState
    ) -> tuple[Float[Tensor, "rows vocabulary"], DecoderState]:
        """Logits after one more token in each row; the state grows by that position."""
        return self.logits(self.advance(tokens[:, None], state)[:, 0]), state

    # What some ways of generating need besides.

    def extend(
        self, tokens: Int[Tensor, "rows count"], state: DecoderState
    ) -> tuple[Float[Tensor, "rows count vocabulary"], DecoderState]:
        """Logits after each of several more tokens in each row; `state.cut` takes back those one does not want."""
        hidden = self.advance(tokens, state)
        return self.logits(hidden.flatten(0, 1)).unflatten(0, tokens.shape), state

    def advance(self, tokens: Int[Tensor, "rows count"], state: DecoderState) -> Float[Tensor, "rows count width"]:
        """The last hidden state at each of the new tokens; the state grows by them."""
        rows, count = tokens.shape
        positions = (torch.arange(count, device=tokens.device) + state.length).repeat(rows)
        hidden, mask = self.place_target(self.lookup(tokens.flatten()), positions), self.step_mask(state, count)
        beams, seen = state.beams, state.memory_mask
        for layer, cache, memory_cache in zip(self.decoder.layers, state.caches, state.memory_caches, strict=True):
            hidden = _decoder_layer(layer).step(hidden, cache, memory_cache, beams, seen, mask, count)
        found: Tensor = self.decoder.norm(hidden).view(rows, count, -1)
        return found

    def step_mask(self, state: DecoderState, count: int = 1) -> Mask | None:
        """What the next tokens may look at among those before them: all, but not those that follow."""
        if count == 1:
            return None
        return Mask(causal_mask(count, state.length + count, state.sources.device)[None, None])

    def _initialise(self) -> None:
        """Xavier uniform for every matrix, as in the paper's own code; embeddings with deviation 1 / sqrt(d_model)."""
        for name, parameter in self.named_parameters():
            if name.endswith("projection.weight"):
                for part in parameter.chunk(3):  # three matrices that lie in one
                    nn.init.xavier_uniform_(part)
            elif parameter.dim() > 1 and parameter is not self.embedding.weight:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for embedding in (part for part in self.modules() if isinstance(part, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=self.config.d_model**-0.5)


class Encoder(nn.Module):
    """N layers of self-attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(_attention(config), _feed_forward(config), lambda: _residual(config))
            for _ in range(config.encoder_layers)
        )
        self.norm = _last_norm(config)

    def forward(self, x: Sequences) -> Sequences:
        mask = make_mask(x.layout, x.layout)
        for layer in self.layers:
            x = layer(x, mask)
        return x.with_values(self.norm(x.values))


class Decoder(nn.Module):
    """N layers of masked self-attention, cross-attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(_attention(config), _attention(config), _feed_forward(config), lambda: _residual(config))
            for _ in range(config.decoder_layers)
        )
        self.norm = _last_norm(config)

    def forward(self, x: Sequences, memory: Sequences) -> Sequences:
        mask, memory_mask = make_mask(x.layout, x.layout, causal=True), make_mask(x.layout, memory.layout)
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return x.with_values(self.norm(x.values))


@dataclass
class DecoderState:
    """What the decoder remembers between steps: one cache a layer for the target, one for the memory.

    Rows may share a source (the beams of one sentence): the memory stands once for each source.
    """

    caches: list[KeyValueCache]
    memory_caches: list[KeyValueCache]
    memory_mask: Mask | None
    sources: Int[Tensor, "rows"]
    """For each row, the row of the memory it looks at."""
    beams: int = 1
    """How many rows in a row share a source."""

    @property
    def length(self) -> int:
        """Positions decoded so far."""
        return self.caches[0].length if self.caches else 0

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` positions."""
        for cache in self.caches:
            cache.cut(length)

    def select(self, rows: Int[Tensor, "chosen"]) -> DecoderState:
        """The state of the chosen rows, in that order. Rows of the same source stay together."""
        sources, counts = self.sources[rows].unique_consecutive(return_counts=True)
        beams = int(counts[0])
        if not bool((counts == beams).all()):
            sources, beams = self.sources[rows], 1
        memory_caches, mask = self.memory_caches, self.memory_mask
        numbers = torch.arange(len(sources), device=rows.device)
        if len(sources) != len(memory_caches[0].keys) or not torch.equal(sources, numbers):
            memory_caches = [cache.select(sources) for cache in memory_caches]
            mask = None if mask is None else Mask(mask.allowed[sources])
        caches = [cache.select(rows) for cache in self.caches]
        return DecoderState(caches, memory_caches, mask, numbers.repeat_interleave(beams), beams)


def _decoder_layer(layer: nn.Module) -> DecoderLayer:
    """A ModuleList forgets what it holds; this tells the type checker."""
    assert isinstance(layer, DecoderLayer)
    return layer


def _attention(config: TransformerConfig) -> MultiHeadAttention:
    return MultiHeadAttention(config.d_model, config.attention_heads, config.attention_dropout)


def _feed_forward(config: TransformerConfig) -> FeedForward:
    return FeedForward(config.d_model, config.ffn_dim, config.activation_function)


def _residual(config: TransformerConfig) -> PostNorm:
    return (PreNorm if config.normalize_before else PostNorm)(config.d_model, config.dropout)


def _positions(config: TransformerConfig) -> SinusoidalPositions | LearnedPositions:
    if config.positions == "learned":
        first = config.first_position
        return LearnedPositions(config.max_position_embeddings + first, config.d_model, first)
    return SinusoidalPositions(config.d_model, in_turn=config.positions == "sinusoids")


def _embedding_norm(config: TransformerConfig) -> nn.Module:
    return nn.LayerNorm(config.d_model) if config.normalize_embedding else nn.Identity()


def _last_norm(config: TransformerConfig) -> nn.Module:
    return nn.LayerNorm(config.d_model) if config.normalize_before else nn.Identity()
