"""ULMFiT: Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification".

A language model of general text, fine-tuned on the target's text, becomes a classifier. The model is the AWD-LSTM
(Merity, Keskar & Socher 2018, "Regularizing and Optimizing LSTM Language Models"): three LSTM layers, an embedding that
is the output matrix too, and five dropouts, which are all that is special about it: on words of the vocabulary, on what
enters, on hidden-to-hidden weights, between layers and on what leaves; masks stay the same over a whole sequence.

What is notable in ULMFiT: the classifier sees the last hidden state beside the maximum and the mean of all of them
(concat pooling, section 3.3); long texts are read in chunks, and gradients reach those chunks only that were pooled
(BPT3C); lower layers learn more slowly and later than higher ones (`parameter_groups`; `regard.training.fine_tuning`,
`regard.training.schedules.slanted_triangular`); a second pair of models reads backward, and both vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.dropout import Dropout
from regard.layers.recurrence import LSTM, EmbeddingDropout, LockedDropout, LSTMState
from regard.models.base import Config, Model
from regard.native.products import Linear, linear
from regard.sequences import Sequences


class AwdLstmSizes(Config):
    """What language model and classifier have in common; the sizes are the papers'."""

    vocab_size: int = Field(60_000, gt=0)
    embedding_size: int = Field(400, gt=0)
    """Width of the embeddings, and of the last layer, whose hidden states are compared with them."""
    hidden_size: int = Field(1150, gt=0)
    """Width of the other layers (fastai's published weights have 1152)."""
    num_hidden_layers: int = Field(3, gt=0)
    dropout_multiplier: float = Field(1.0, ge=0)
    """Scales all dropouts at once: less for much text, more for little."""
    backward: bool = False
    """The model reads texts from their end."""
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int = Field(1, ge=0)
    eos_token_id: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _dropouts_are_probabilities(self) -> AwdLstmSizes:
        for name in type(self).model_fields:
            if name.endswith("_dropout") and not 0 <= self.dropout(name) < 1:
                raise ValueError(f"{name} times dropout_multiplier is {self.dropout(name):g}, not within [0, 1)")
        return self

    def dropout(self, name: str) -> float:
        """A dropout's probability, scaled by the multiplier."""
        return float(getattr(self, name)) * self.dropout_multiplier


class AwdLstmConfig(AwdLstmSizes):
    """A language model. The five dropouts are fastai's for one."""

    model_type: Literal["awd_lstm"] = "awd_lstm"
    embedding_dropout: float = 0.02
    input_dropout: float = 0.25
    weight_dropout: float = 0.2
    hidden_dropout: float = 0.15
    output_dropout: float = 0.1
    tie_word_embeddings: bool = True
    """The output matrix is the embedding matrix (Inan et al. 2017, Press & Wolf 2017)."""
    output_bias: bool = True


class UlmfitConfig(AwdLstmSizes):
    """A classifier. The five dropouts are the paper's (section 4.1), and fastai's; the output's is in the head."""

    model_type: Literal["ulmfit"] = "ulmfit"
    labels: tuple[str, ...] = ("0", "1")
    """Names of the classes."""
    embedding_dropout: float = 0.05
    input_dropout: float = 0.4
    weight_dropout: float = 0.5
    hidden_dropout: float = 0.3
    output_dropout: float = 0.4
    """On what was pooled."""
    classifier_size: int = Field(50, gt=0)
    """Width between the two blocks of the head."""
    classifier_dropout: float = Field(0.1, ge=0, lt=1)
    """On what enters the second block; not scaled."""
    chunk_length: int = Field(72, gt=0)
    """Tokens read at a time while learning; no gradient passes from one chunk to the one before."""
    max_length: int = Field(1440, gt=0)
    """The chunks within this many tokens from a text's end are pooled, and get gradients."""

    @model_validator(mode="after")
    def _a_chunk_is_pooled(self) -> UlmfitConfig:
        if self.max_length < self.chunk_length:
            raise ValueError(f"max_length {self.max_length} is less than chunk_length {self.chunk_length}")
        return self

    def dropout(self, name: str) -> float:
        return self.classifier_dropout if name == "classifier_dropout" else super().dropout(name)


_MERITY = {"embedding_dropout": 0.1, "weight_dropout": 0.5, "hidden_dropout": 0.3, "output_dropout": 0.4}
PRESETS = {
    # Merity et al. 2018, Penn Treebank: "24M" in their table 1; on WikiText-2, "33M" in table 2.
    "awd-lstm": AwdLstmConfig(vocab_size=10_000, input_dropout=0.4, **_MERITY),
    "awd-lstm-wikitext-2": AwdLstmConfig(vocab_size=33_278, input_dropout=0.65, **_MERITY),
    # Howard & Ruder 2018, WikiText-103 with the 60,000 most frequent words: 44M, of which 24M are the embeddings.
    "ulmfit": AwdLstmConfig(),
}


@dataclass(frozen=True)
class AwdLstmState:
    """What the layers remember between two pieces of running text."""

    layers: tuple[LSTMState, ...]

    def select(self, rows: Int[Tensor, "chosen"]) -> AwdLstmState:
        """The state of the chosen rows, in that order."""
        return AwdLstmState(tuple(layer.select(rows) for layer in self.layers))

    def detach(self) -> AwdLstmState:
        """The same values; no gradient goes back to what they were made from."""
        return AwdLstmState(tuple(layer.detach() for layer in self.layers))


@dataclass(frozen=True)
class Reading:
    """The last layer's hidden states, and the same after the output's dropout; the state to go on with, detached."""

    hidden: Sequences
    dropped: Sequences
    state: AwdLstmState


class AwdLstm(Model):
    """The language model. A backward one is given its text, or the whole stream of texts, in reverse (`reverse`)."""

    config_class = AwdLstmConfig

    def __init__(self, config: AwdLstmConfig) -> None:
        super().__init__(config)
        self.encoder = AwdLstmEncoder(config)
        self.output_dropout = LockedDropout(config.dropout("output_dropout"))
        self.output_weight = None if config.tie_word_embeddings else nn.Parameter(_uniform(config))
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.output_bias else None

    def forward(
        self, tokens: Sequences, state: AwdLstmState | None = None
    ) -> tuple[Float[Tensor, "tokens vocabulary"], AwdLstmState]:
        """Logits of the token after each token, and the state to read the next piece of the same rows with."""
        reading = self.read(tokens, state)
        return self.logits(reading.dropped.values), reading.state

    def hidden(self, tokens: Sequences) -> Sequences:
        """Hidden states of the last layer, (tokens, width)."""
        hidden: Sequences = self.encoder(tokens)[0]
        return hidden

    def read(self, tokens: Sequences, state: AwdLstmState | None = None) -> Reading:
        """Token ids to hidden states: what `activation_regularisation` wants to see too."""
        hidden, ended = self.encoder(tokens, state)
        return Reading(hidden, self.output_dropout(hidden), ended.detach())

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Scores of every word of the vocabulary."""
        weight = self.encoder.embedding.weight if self.output_weight is None else self.output_weight
        return linear(hidden, weight, self.output_bias)

    # What generation knows of a model: start and step here, select on the state.

    def start(self, source: Sequences) -> AwdLstmState:
        """Read all but the last token of each text at once; `step` goes on from there, with the last one first."""
        if min(source.lengths, default=0) < 1:
            raise RegardError("a text to go on from needs at least one token")
        return self.read(Sequences.of([row[:-1] for row in source])).state

    def step(
        self, tokens: Int[Tensor, "rows"], state: AwdLstmState
    ) -> tuple[Float[Tensor, "rows vocabulary"], AwdLstmState]:
        """Logits after one more token in each row."""
        hidden, following = self.encoder.step(tokens, state)
        return self.logits(hidden), following

    def with_vocabulary(self, places: Sequence[int | None]) -> AwdLstm:
        """The same model over other words: word i was word places[i], or is new (None) and begins as the mean of all.

        The step between the paper's first two stages (section 3.2): the target's text has words of its own.
        """
        model = type(self)(self.config.model_copy(update={"vocab_size": len(places)}))
        known = torch.tensor([-1 if place is None else place for place in places], device=self.device)
        if known.numel() and int(known.max()) >= self.config.vocab_size:
            raise RegardError(f"there is no word {int(known.max())} in a vocabulary of {self.config.vocab_size}")
        weights = self.state_dict()
        for name in ("encoder.embedding.weight", "output_weight", "output_bias"):
            if name in weights:  # one more row, which -1 finds: the mean
                weights[name] = torch.cat([weights[name], weights[name].mean(dim=0, keepdim=True)])[known]
        model.load_state_dict(weights)
        return model.to(self.device)


class AwdLstmEncoder(nn.Module):
    """Embedding and LSTM layers with all dropouts but the output's."""

    def __init__(self, config: AwdLstmConfig | UlmfitConfig) -> None:
        super().__init__()
        depth, outer, inner = config.num_hidden_layers, config.embedding_size, config.hidden_size
        widths = [outer, *[inner] * (depth - 1), outer]
        self.embedding = nn.Embedding(config.vocab_size, outer)
        self.embedding.weight.data = _uniform(config)
        self.embedding_dropout = EmbeddingDropout(config.dropout("embedding_dropout"))
        self.input_dropout = LockedDropout(config.dropout("input_dropout"))
        self.layers = nn.ModuleList(
            LSTM(widths[number], widths[number + 1], weight_dropout=config.dropout("weight_dropout"))
            for number in range(depth)
        )
        self.hidden_dropout = LockedDropout(config.dropout("hidden_dropout"))

    def forward(self, tokens: Sequences, state: AwdLstmState | None = None) -> tuple[Sequences, AwdLstmState]:
        """Hidden states of the last layer, before any dropout, and the state of every layer."""
        x = self.input_dropout(tokens.with_values(self.embedding_dropout(self.embedding, tokens.values)))
        ended = []
        for number, layer in enumerate(self.layers):
            if number:
                x = self.hidden_dropout(x)
            x, last = layer(x, None if state is None else state.layers[number])
            ended.append(last)
        return x, AwdLstmState(tuple(ended))

    def step(
        self, tokens: Int[Tensor, "rows"], state: AwdLstmState
    ) -> tuple[Float[Tensor, "rows width"], AwdLstmState]:
        """One more token in each row, without dropout."""
        x, ended = self.embedding(tokens), []
        for layer, begun in zip(self.layers, state.layers, strict=True):
            assert isinstance(layer, LSTM)
            x, last = layer.step(x, begun)
            ended.append(last)
        return x, AwdLstmState(tuple(ended))


class Ulmfit(Model):
    """The classifier: the language model's encoder, concat pooling, two blocks. A backward one turns texts itself."""

    config_class = UlmfitConfig

    def __init__(self, config: UlmfitConfig) -> None:
        super().__init__(config)
        self.encoder = AwdLstmEncoder(config)
        self.pooling = ConcatPooling()
        self.head = nn.ModuleList(
            [
                Block(3 * config.embedding_size, config.classifier_size, config.dropout("output_dropout"), relu=True),
                Block(config.classifier_size, len(config.labels), config.classifier_dropout, relu=False),
            ]
        )

    def forward(self, tokens: Sequences) -> Float[Tensor, "rows labels"]:
        """Logits of the classes of each text."""
        x: Tensor = self.pooling(self.read(tokens))
        for block in self.head:
            x = block(x)
        return x

    def hidden(self, tokens: Sequences) -> Sequences:
        """Hidden states of the last layer in the order of reading, (tokens, width)."""
        hidden: Sequences = self.encoder(reverse(tokens) if self.config.backward else tokens)[0]
        return hidden

    def read(self, tokens: Sequences) -> Sequences:
        """The hidden states that are pooled: those of the chunks within max_length tokens from each text's end.

        Where no gradient is wanted chunks change nothing, and whole texts are read at once.
        """
        if min(tokens.lengths, default=0) < 1:
            raise RegardError("a text to classify needs at least one token")
        tokens = reverse(tokens) if self.config.backward else tokens
        length = self.config.chunk_length
        first = [-(-max(0, total - self.config.max_length) // length) * length for total in tokens.lengths]
        if not torch.is_grad_enabled():
            hidden, _ = self.encoder(tokens)
            return Sequences.of([row[begin:] for row, begin in zip(hidden, first, strict=True)])
        state, kept = None, []
        for begin in range(0, tokens.layout.longest, length):
            chunk = Sequences.of([row[begin : begin + length] for row in tokens])
            with torch.set_grad_enabled(begin >= min(first)):
                hidden, ended = self.encoder(chunk, state)
            state = ended.detach()
            kept.append([row if begin >= start else row[:0] for row, start in zip(hidden, first, strict=True)])
        return Sequences.of([torch.cat(pieces) for pieces in zip(*kept, strict=True)])

    def take_encoder(self, model: AwdLstm) -> None:
        """Begin with the weights of a language model: the step to the paper's third stage (section 3.3)."""
        if self.config.backward != model.config.backward:
            raise RegardError("classifier and language model must read in the same direction: see their `backward`")
        self.encoder.load_state_dict(model.encoder.state_dict())


class ConcatPooling(nn.Module):
    """Last hidden state, maximum and mean over all, side by side (section 3.3)."""

    def forward(self, x: Sequences) -> Float[Tensor, "rows three_widths"]:
        last = x.values[x.layout.offsets[1:] - 1]
        padded, present = x.pad(), x.layout.present[:, :, None]
        largest = padded.masked_fill(~present, -torch.inf).max(dim=1).values
        mean = padded.sum(dim=1) / x.layout.length_tensor[:, None]
        return torch.cat([last, largest, mean], dim=-1)

    def steps(self, x: Float[Tensor, "tokens width"]) -> dict[str, Tensor]:
        """For one text `last`, `max`, `max_positions` (the token that gave each), `mean` (width); `output` (1, all)."""
        largest = x.max(dim=0)
        output = torch.cat([x[-1], largest.values, x.mean(dim=0)])[None]
        named = {"last": x[-1], "max": largest.values, "max_positions": largest.indices, "mean": x.mean(dim=0)}
        return named | {"output": output}


class Block(nn.Module):
    """Batch norm, dropout, a linear map and, but for the last one, a ReLU."""

    def __init__(self, input_width: int, width: int, dropout: float, relu: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(input_width)
        self.dropout = Dropout(dropout)
        self.linear = Linear(input_width, width, bias=False)
        self.activation = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Float[Tensor, "rows input_width"]) -> Float[Tensor, "rows width"]:
        output: Tensor = self.activation(self.linear(self.dropout(self.norm(x))))
        return output

    def steps(self, x: Float[Tensor, "rows input_width"]) -> dict[str, Tensor]:
        """`normed` (rows, input width), `inner` before the ReLU, `output` (rows, width)."""
        normed = self.norm(x)
        inner = self.linear(normed)
        return {"normed": normed, "inner": inner, "output": self.activation(inner)}


# --- what training and answering need ---------------------------------------------------------------------------------


def activation_regularisation(reading: Reading, alpha: float = 2.0, beta: float = 1.0) -> Float[Tensor, ""]:
    """AR and TAR (Merity et al. 2018, section 4.6), to be added to the loss: alpha * mean(dropped h_t^2) keeps
    activations small, beta * mean((h_t - h_{t+1})^2) keeps the hidden state from changing fast; the paper's 2 and 1.
    """
    hidden = reading.hidden
    penalty = alpha * reading.dropped.values.square().mean()
    pairs = sum(max(0, length - 1) for length in hidden.lengths)
    if pairs:
        changes = (hidden.values[1:] - hidden.values[:-1]).square().mean(dim=-1)
        within = hidden.layout.positions[1:] > 0  # not from the end of one row to the beginning of the next
        penalty = penalty + beta * changes.masked_fill(~within, 0.0).sum() / pairs
    return penalty


def parameter_groups(model: AwdLstm | Ulmfit) -> list[list[nn.Parameter]]:
    """The layers from the bottom up, each to have its own rate and its turn to be unfrozen.

    Classifier: embedding, each LSTM layer, head. Language model: each LSTM layer, then embedding and output together,
    for they are one matrix; it is the nearest to the loss.
    """
    layers = [list(layer.parameters()) for layer in model.encoder.layers]
    embedding = list(model.encoder.embedding.parameters())
    if isinstance(model, Ulmfit):
        return [embedding, *layers, list(model.head.parameters())]
    outputs = [one for one in (model.output_weight, model.output_bias) if one is not None]
    return [*layers, embedding + outputs]


def class_probabilities(models: Sequence[Ulmfit], tokens: Sequences) -> Float[Tensor, "rows labels"]:
    """The mean of what the models say, of a forward and a backward one for instance (section 3.3)."""
    if not models:
        raise RegardError("an ensemble needs at least one model")
    return torch.stack([model(tokens).softmax(dim=-1) for model in models]).mean(dim=0)


def reverse(tokens: Sequences) -> Sequences:
    """Each text from its end to its beginning."""
    return Sequences(torch.cat([row.flip(0) for row in tokens]), tokens.layout)


def _uniform(config: AwdLstmSizes) -> Tensor:
    return torch.empty(config.vocab_size, config.embedding_size).uniform_(-0.1, 0.1)
