"""Whisper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision".

A Transformer that hears: a log-mel spectrogram in, text out (section 2.2). What is notable in it: two convolutions over
time with GELU make the encoder's vectors, the second with a stride of two, so that each stands for 20 ms; sinusoids are
added there, learned positions in the decoder; the norm comes before each sublayer; the decoder's embedding predicts the
words too. Which language it hears and what to do with it is told by the tokens that the answer begins with (section
2.3). Of its linear maps only those to keys have no bias: here that part of the one bias is zero.

What is unusual here: spectra (10 ms) stand in pairs, one pair a position of the encoder, so that source, memory and
attention count the same positions. Recordings of any length up to 30 s can be read; the published weights were trained
on 30 s, shorter ones filled up with silence.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.attention import MultiHeadAttention, make_mask
from regard.errors import RegardError
from regard.layers.blocks import DecoderLayer, EncoderLayer, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import FeedForward
from regard.layers.positions import LearnedPositions, SinusoidalPositions
from regard.models.base import Config, Model
from regard.models.transformer import DecoderState, Transformer
from regard.native.products import linear
from regard.sequences import Sequences


class WhisperConfig(Config):
    """Sizes of a Whisper; the defaults are those of tiny.en."""

    model_type: Literal["whisper"] = "whisper"
    vocab_size: int = Field(51864, gt=0)
    num_mel_bins: int = Field(80, gt=0)
    """Bands of the spectrogram."""
    d_model: int = Field(384, gt=2)
    """D: the width of the residual stream."""
    encoder_layers: int = Field(4, gt=0)
    decoder_layers: int = Field(4, gt=0)
    attention_heads: int = Field(6, gt=0)
    """H: heads of every attention sublayer."""
    ffn_dim: int = Field(1536, gt=0)
    """F: inner width of the feed-forward network."""
    activation_function: Literal["relu", "gelu", "gelu_new", "silu"] = "gelu"
    """Of the feed-forward networks."""
    dropout: float = Field(0.0, ge=0, lt=1)
    max_source_positions: int = Field(1500, gt=0)
    """Longest recording, in positions of 20 ms."""
    max_position_embeddings: int = Field(448, gt=0)
    """Longest text, in tokens, those that it begins with included."""
    prompt: tuple[int, ...] = Field((50257, 50362), min_length=1)
    """What the decoder's input begins with: start of transcript, language and task (not in English-only models), no
    timestamps."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never produced: signs that nobody speaks, and special ones."""
    forbidden_first: tuple[int, ...] = ()
    """Tokens that no answer begins with: the blank, the end."""
    pad_token_id: int = Field(50256, ge=0)
    eos_token_id: int = Field(50256, ge=0)
    """Ends every answer."""

    @property
    def bos_token_id(self) -> int:
        """What `step` is given first: the end of the prompt. The rest of it is read by `start`."""
        return self.prompt[-1]

    @model_validator(mode="after")
    def _fits(self) -> WhisperConfig:
        if self.d_model % self.attention_heads or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} cannot be cut into {self.attention_heads} heads, or is odd")
        if max(self.prompt) >= self.vocab_size or min(self.prompt) < 0:
            raise ValueError(f"the prompt {self.prompt} is not of the {self.vocab_size} words")
        if len(self.prompt) >= self.max_position_embeddings:
            raise ValueError(f"{len(self.prompt)} tokens of prompt leave no room in {self.max_position_embeddings}")
        return self


def _sizes(width: int, layers: int, heads: int, **more: int) -> WhisperConfig:
    sizes = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "attention_heads": heads}
    prompt = (50258, 50259, 50359, 50363)  # start of transcript, English, transcribe, no timestamps
    special = {"vocab_size": 51865, "prompt": prompt, "pad_token_id": 50257, "eos_token_id": 50257}
    return WhisperConfig.model_validate(sizes | {"ffn_dim": 4 * width} | special | more)


PRESETS = {
    "whisper-tiny.en": WhisperConfig(),
    "whisper-tiny": _sizes(384, 4, 6),
    "whisper-base": _sizes(512, 6, 8),
    "whisper-small": _sizes(768, 12, 12),
    "whisper-medium": _sizes(1024, 24, 16),
    "whisper-large": _sizes(1280, 32, 20),
}


class Whisper(Transformer):
    """Spectra in pairs, (positions, 2, bands), in; scores of every next token out. It decodes as a Transformer does."""

    config_class = WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        Model.__init__(self, config)
        self.hearing = Hearing(config.num_mel_bins, config.d_model)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = SinusoidalPositions(config.d_model, in_turn=False, to_the_end=True)
        self.target_positions = LearnedPositions(config.max_position_embeddings, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config)  # type: ignore[assignment]
        self.decoder = Decoder(config)  # type: ignore[assignment]
        self._initialise()

    def embed(self, source: Sequences) -> Sequences:
        """What the convolutions make of the spectra, and position: where the encoder's residual stream begins."""
        if source.layout.longest > self.config.max_source_positions:
            longest = self.config.max_source_positions
            raise RegardError(f"{source.layout.longest} positions of sound are too long: the model takes {longest}")
        placed = self.positions(self.hearing(source), source.layout.positions)
        return source.with_values(self.dropout(placed))

    def place_target(
        self, embedded: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        """Embeddings of target tokens with their learned positions."""
        placed: Tensor = self.target_positions(embedded, positions)
        return placed

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """Rows of the embedding matrix, as they are."""
        found: Tensor = self.embedding(tokens)
        return found

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the vocabulary: dot products with the embedding matrix."""
        return linear(hidden, self.embedding.weight)

    def source_steps(self, sound: Float[Tensor, "positions 2 bands"]) -> dict[str, Tensor]:
        """What `embed` does to one recording, by name; each vector is made of its neighbours' spectra too."""
        found = self.hearing.steps(sound)
        heard = found.pop("output")
        places = torch.arange(len(sound), device=sound.device)
        return found | {"heard": heard} | self.positions.steps(heard, places)

    def embedding_steps(
        self, ids: Int[Tensor, "tokens"], positions: Int[Tensor, "tokens"], of_target: bool
    ) -> dict[str, Tensor]:
        """Of the decoder: `lookup`, `encoding` (the positions), their sum. Of the encoder see `source_steps`."""
        looked_up = self.lookup(ids)
        return {"lookup": looked_up, **self.target_positions.steps(looked_up, positions)}

    def start(self, source: Sequences) -> DecoderState:
        """Hear the source, and read all of the prompt but its last token, which the first step takes."""
        state = super().start(source)
        for token in self.config.prompt[:-1]:
            _, state = self.step(torch.full((len(source),), token, device=self.device), state)
        return state


class Hearing(nn.Module):
    """Two convolutions over time, three spectra wide, with GELU; the second takes every other step (section 2.2)."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(bands, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, sound: Sequences) -> Float[Tensor, "positions width"]:
        """A recording that ends before others of its batch is followed by zeros, as its own end is."""
        spectra = sound.pad().flatten(1, 2).transpose(1, 2)  # (rows, bands, 2 * positions)
        found = F.gelu(self.second(F.gelu(self.first(spectra))))
        heard: Tensor = sound.layout.unpad(found.transpose(1, 2))
        return heard

    def steps(self, sound: Float[Tensor, "positions 2 bands"]) -> dict[str, Tensor]:
        """`spectra`, a pair side by side; `first`, what the first convolution makes of each; `output`, one vector."""
        spectra = sound.flatten(0, 1).T[None]
        first = F.gelu(self.first(spectra))
        pairs = first[0].T.reshape(len(sound), -1)
        second: Tensor = F.gelu(self.second(first))[0].T
        return {"spectra": sound.flatten(1), "first": pairs, "output": second}


class Encoder(nn.Module):
    """N layers of self-attention and feed-forward, and a last norm."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(_attention(config), _feed_forward(config), lambda: PreNorm(config.d_model, config.dropout))
            for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Sequences) -> Sequences:
        mask = make_mask(x.layout, x.layout)
        for layer in self.layers:
            x = layer(x, mask)
        return x.with_values(self.norm(x.values))


class Decoder(nn.Module):
    """N layers of masked self-attention, cross-attention to what was heard and feed-forward, and a last norm."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(
                _attention(config),
                _attention(config),
                _feed_forward(config),
                lambda: PreNorm(config.d_model, config.dropout),
            )
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Sequences, memory: Sequences) -> Sequences:
        mask, memory_mask = make_mask(x.layout, x.layout, causal=True), make_mask(x.layout, memory.layout)
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return x.with_values(self.norm(x.values))


def _attention(config: WhisperConfig) -> MultiHeadAttention:
    return MultiHeadAttention(config.d_model, config.attention_heads)


def _feed_forward(config: WhisperConfig) -> FeedForward:
    return FeedForward(config.d_model, config.ffn_dim, config.activation_function)
