"""T5: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

A Transformer for every task: text in, text out. What is notable in it (section 2.1): nothing is added for positions;
instead each head learns a number for every distance between two tokens, which goes to the scores, and all layers of a
stack share these. The norm comes before each sublayer, divides by the root mean square alone and adds nothing. There
are no biases anywhere, and scores are not divided by sqrt(d_k): the start of the weights makes up for it.

T5 1.1 gates the feed-forward network with GELU, and predicts with a matrix of its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from regard.attention import Mask, MultiHeadAttention, make_mask
from regard.layers.blocks import DecoderLayer, EncoderLayer, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import FeedForward, GatedFeedForward
from regard.layers.positions import RelativePositions
from regard.models.base import Config, Model
from regard.models.transformer import DecoderState, Transformer
from regard.native.products import Linear, linear
from regard.sequences import Sequences


class T5Config(Config):
    """Sizes of a T5; the defaults are those of the small model."""

    model_type: Literal["t5"] = "t5"
    vocab_size: int = Field(32128, gt=0)
    d_model: int = Field(512, gt=0)
    """D: the width of the residual stream."""
    d_kv: int = Field(64, gt=0)
    """K: the width of a head; heads x K need not be D."""
    d_ff: int = Field(2048, gt=0)
    """F: inner width of the feed-forward network."""
    encoder_layers: int = Field(6, gt=0)
    decoder_layers: int = Field(6, gt=0)
    num_heads: int = Field(8, gt=0)
    relative_attention_num_buckets: int = Field(32, gt=3)
    relative_attention_max_distance: int = Field(128, gt=0)
    """This distance and all beyond it share a number."""
    dropout_rate: float = Field(0.1, ge=0, lt=1)
    """On the output of each sublayer and on the embeddings."""
    layer_norm_epsilon: float = Field(1e-6, gt=0)
    activation_function: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    gated: bool = False
    """Whether the feed-forward network is gated (T5 1.1)."""
    tie_word_embeddings: bool = True
    """One matrix for embedding and prediction, where scores are then divided by sqrt(D)."""
    max_position_embeddings: int = Field(512, gt=0)
    """Longest text accepted, in tokens. Relative positions need no limit; memory does."""
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int = Field(0, ge=0)
    """Begins the decoder's input: T5 takes the padding token."""
    eos_token_id: int = Field(1, ge=0)


_NONE = (False, False)  # no biases, neither in the projections nor at the output
_LARGE = {"d_model": 1024, "d_ff": 4096, "encoder_layers": 24, "decoder_layers": 24, "num_heads": 16}

PRESETS = {
    "t5-small": T5Config(),
    "t5-base": T5Config(d_model=768, d_ff=3072, encoder_layers=12, decoder_layers=12, num_heads=12),
    "t5-large": T5Config(**_LARGE),
}


class T5(Transformer):
    """Source tokens in, scores of every next target token out. It generates as a Transformer does."""

    config_class = T5Config

    def __init__(self, config: T5Config) -> None:
        Model.__init__(self, config)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout_rate)
        self.encoder = Encoder(config)  # type: ignore[assignment]
        self.decoder = Decoder(config)  # type: ignore[assignment]
        tied = config.tie_word_embeddings
        self.output = None if tied else Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()

    def embed(self, source: Sequences) -> Sequences:
        """Rows of the embedding matrix: where the encoder's residual stream begins."""
        return source.with_values(self.dropout(self.lookup(source.values)))

    def place_target(
        self, embedded: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        """Nothing is added for positions."""
        return embedded

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """Rows of the embedding matrix, as they are."""
        found: Tensor = self.embedding(tokens)
        return found

    def embedding_steps(
        self, ids: Int[Tensor, "tokens"], positions: Int[Tensor, "tokens"], of_target: bool
    ) -> dict[str, Tensor]:
        return {"output": self.lookup(ids)}

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the vocabulary."""
        if self.output is not None:
            scores: Tensor = self.output(hidden)
            return scores
        return linear(hidden * self.config.d_model**-0.5, self.embedding.weight)

    def step_mask(self, state: DecoderState, count: int = 1) -> Mask | None:
        """All that came before may be seen; what is added to the scores tells how far back it is."""
        keys = torch.arange(state.length + count, device=state.sources.device)
        positions = self.decoder.positions
        assert isinstance(positions, RelativePositions)
        return _placed(super().step_mask(state, count), positions(keys[-count:], keys))

    @torch.no_grad()
    def _initialise(self) -> None:
        """As in the paper's own code: scores keep unit variance although they are not divided."""
        config = self.config
        width = config.d_model**-0.5
        for name, parameter in self.named_parameters():
            if name.endswith("projection.weight"):
                nn.init.normal_(parameter, std=width)
                parameter[: config.num_heads * config.d_kv] *= config.d_kv**-0.5
            elif name.endswith("attention.output.weight"):
                nn.init.normal_(parameter, std=(config.num_heads * config.d_kv) ** -0.5)
            elif name.endswith("feed_forward.output.weight"):
                nn.init.normal_(parameter, std=config.d_ff**-0.5)
            elif parameter is self.embedding.weight:
                nn.init.normal_(parameter)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=width)


class Encoder(nn.Module):
    """N layers of self-attention and feed-forward, and a last norm."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.positions = _relative_positions(config, both_sides=True)
        self.layers = nn.ModuleList(
            EncoderLayer(_attention(config), _feed_forward(config), lambda: _residual(config))
            for _ in range(config.encoder_layers)
        )
        self.norm, self.dropout = nn.RMSNorm(config.d_model, config.layer_norm_epsilon), Dropout(config.dropout_rate)

    def forward(self, x: Sequences) -> Sequences:
        mask = self.mask(x.layout)
        for layer in self.layers:
            x = layer(x, mask)
        return x.with_values(self.dropout(self.norm(x.values)))

    def mask(self, layout: Layout) -> Mask:
        """What all layers' self-attention may look at, and what the distances add."""
        return _placed(make_mask(layout, layout), _added_to_scores(self.positions, layout.longest))


class Decoder(nn.Module):
    """N layers of masked self-attention, cross-attention and feed-forward, and a last norm."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.positions = _relative_positions(config, both_sides=False)
        self.layers = nn.ModuleList(
            DecoderLayer(_attention(config), _attention(config), _feed_forward(config), lambda: _residual(config))
            for _ in range(config.decoder_layers)
        )
        self.norm, self.dropout = nn.RMSNorm(config.d_model, config.layer_norm_epsilon), Dropout(config.dropout_rate)

    def forward(self, x: Sequences, memory: Sequences) -> Sequences:
        mask, memory_mask = self.mask(x.layout), make_mask(x.layout, memory.layout)
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return x.with_values(self.dropout(self.norm(x.values)))

    def mask(self, layout: Layout) -> Mask:
        """What all layers' self-attention may look at, and what the distances add."""
        return _placed(make_mask(layout, layout, causal=True), _added_to_scores(self.positions, layout.longest))


def _added_to_scores(positions: RelativePositions, length: int) -> Float[Tensor, "heads length length"]:
    """What the distances between the tokens of one text add to the scores of every layer."""
    places = torch.arange(length, device=positions.table.weight.device)
    added: Tensor = positions(places, places)
    return added


def _placed(mask: Mask | None, added: Float[Tensor, "heads queries keys"]) -> Mask:
    """A mask that adds the distances' numbers as well; without a mask everything may be seen."""
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=added.device)
    return Mask(everything if mask is None else mask.allowed, added[None])


def _relative_positions(config: T5Config, both_sides: bool) -> RelativePositions:
    return RelativePositions(
        config.num_heads, both_sides, config.relative_attention_num_buckets, config.relative_attention_max_distance
    )


def _attention(config: T5Config) -> MultiHeadAttention:
    return MultiHeadAttention(config.d_model, config.num_heads, scale=1.0, head_width=config.d_kv, bias=_NONE)


def _feed_forward(config: T5Config) -> FeedForward | GatedFeedForward:
    kind = GatedFeedForward if config.gated else FeedForward
    return kind(config.d_model, config.d_ff, config.activation_function, bias=False)


def _residual(config: T5Config) -> PreNorm:
    return PreNorm(config.d_model, config.dropout_rate, config.layer_norm_epsilon, nn.RMSNorm)
