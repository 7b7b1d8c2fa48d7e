"""Sequence to sequence: Sutskever, Vinyals & Le 2014, "Sequence to Sequence Learning with Neural Networks".

A deep LSTM reads the source, another writes the target; all that passes between them is the state the first one ends
with, one vector (hidden and cell) a layer. What is notable in it: the source is read in reverse, so that its first
words, which the target mostly begins with too, were read last (section 3.3); four layers (section 3.4); all weights
uniform within 0.08 (section 3.4).

What is unusual here: reversing is a property of the encoder's layers, which read from the end to the beginning; tokens
stay where they are, and so does whatever is looked up for them in a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.dropout import Dropout
from regard.layers.recurrence import LSTM, LSTMState
from regard.models.base import Config, Model
from regard.native.products import Linear
from regard.sequences import Sequences


class Seq2SeqConfig(Config):
    """Sizes of the model; the defaults are the paper's (section 3.4)."""

    model_type: Literal["seq2seq"] = "seq2seq"
    vocab_size: int = Field(160_000, gt=0)
    """Words of the source."""
    target_vocab_size: int | None = Field(None, gt=0)
    """Words of the target; None where source and target share one vocabulary and its embeddings."""
    embedding_size: int = Field(1000, gt=0)
    hidden_size: int = Field(1000, gt=0)
    """Width of the hidden state of every layer (and of its cell)."""
    num_hidden_layers: int = Field(4, gt=0)
    """Layers of the encoder, and of the decoder."""
    reverse_source: bool = True
    """Read the source from its end to its beginning (section 3.3)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On what enters and what leaves each stack and between its layers, never on the recurrence; the paper has none."""
    max_position_embeddings: int = Field(1024, gt=0)
    """Longest text accepted, in tokens. The recurrence needs no limit; memory and training lengths do."""
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int = Field(1, ge=0)
    """Begins the decoder's input."""
    eos_token_id: int = Field(2, ge=0)
    """Ends every source and every target."""


PRESETS = {"seq2seq-4x1000": Seq2SeqConfig(target_vocab_size=80_000)}


@dataclass(frozen=True)
class Memory:
    """What the encoder leaves: its last layer's hidden states, for reading, and the state of each layer in the end."""

    hidden: Sequences
    states: tuple[LSTMState, ...]


class Seq2Seq(Model):
    """Source tokens in, scores of every next target token out."""

    config_class = Seq2SeqConfig

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.target_embedding = (
            None if config.target_vocab_size is None else nn.Embedding(config.target_vocab_size, config.embedding_size)
        )
        self.dropout = Dropout(config.dropout)
        self.encoder = Stack(config, config.reverse_source)
        self.decoder = Stack(config, reverse=False)
        self.output = Linear(config.hidden_size, config.target_vocab_size or config.vocab_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.08, 0.08)

    def forward(self, source: Sequences, target: Sequences) -> Float[Tensor, "tokens vocabulary"]:
        """Logits of the token after each target token. `target` begins with bos_token_id (teacher forcing)."""
        return self.logits(self.decode(target, self.encode(source)).values)

    def encode(self, source: Sequences) -> Memory:
        """Token ids to what the decoder begins with."""
        embedded = source.with_values(self.dropout(self.lookup(source.values)))
        hidden, states = self.encoder(embedded)
        return Memory(hidden, states)

    def decode(self, target: Sequences, memory: Memory) -> Sequences:
        """Target ids and the encoder's last states to the decoder's last hidden state, (target tokens, width)."""
        embedded = target.with_values(self.dropout(self.lookup_target(target.values)))
        hidden: Sequences = self.decoder(embedded, memory.states)[0]
        return hidden

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens embedding"]:
        """Embeddings of source tokens."""
        found: Tensor = self.embedding(tokens)
        return found

    def lookup_target(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens embedding"]:
        """Embeddings of target tokens."""
        found: Tensor = (self.target_embedding or self.embedding)(tokens)
        return found

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the target vocabulary."""
        scores: Tensor = self.output(hidden)
        return scores

    # What generation knows of a model: start and step here, select on the state.

    def start(self, source: Sequences) -> Seq2SeqState:
        """Read the source; the decoder begins where the encoder ended."""
        if min(source.lengths, default=0) < 1:
            raise RegardError("a source needs at least one token")
        return Seq2SeqState(self.encode(source).states)

    def step(
        self, tokens: Int[Tensor, "rows"], state: Seq2SeqState
    ) -> tuple[Float[Tensor, "rows vocabulary"], Seq2SeqState]:
        """Logits after one more token in each row."""
        hidden, states = self.decoder.step(self.lookup_target(tokens), state.layers)
        return self.logits(hidden), Seq2SeqState(states)


class Stack(nn.Module):
    """LSTM layers one above the other: the encoder, or the decoder."""

    def __init__(self, config: Seq2SeqConfig, reverse: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LSTM(config.hidden_size if number else config.embedding_size, config.hidden_size, reverse)
            for number in range(config.num_hidden_layers)
        )
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Sequences, states: tuple[LSTMState, ...] | None = None
    ) -> tuple[Sequences, tuple[LSTMState, ...]]:
        """Hidden states of the last layer, and the state of every layer after the last token."""
        last = []
        for layer, state in zip(self.layers, states or [None] * len(self.layers), strict=True):
            x, ended = layer(x, state)
            x = x.with_values(self.dropout(x.values))
            last.append(ended)
        return x, tuple(last)

    def step(
        self, x: Float[Tensor, "rows width"], states: tuple[LSTMState, ...]
    ) -> tuple[Float[Tensor, "rows hidden"], tuple[LSTMState, ...]]:
        """One more token in each row."""
        last = []
        for layer, state in zip(self.layers, states, strict=True):
            assert isinstance(layer, LSTM)
            x, ended = layer.step(x, state)
            last.append(ended)
        return x, tuple(last)


@dataclass(frozen=True)
class Seq2SeqState:
    """What the decoder remembers between steps: the state of each layer. Of the source it knows nothing else."""

    layers: tuple[LSTMState, ...]

    def select(self, rows: Int[Tensor, "chosen"]) -> Seq2SeqState:
        """The state of the chosen rows, in that order."""
        return Seq2SeqState(tuple(layer.select(rows) for layer in self.layers))
