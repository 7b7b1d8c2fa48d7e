"""BERT: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".

An encoder without a decoder. What is notable in it: it is trained on words that were hidden, so every position sees
both sides; a second objective asks whether one piece of text follows another; segments, added like positions, tell the
two apart; the hidden state of the first token, [CLS], stands for the whole text (`Pooler`); and one small head on top,
with all weights fine-tuned, does for every task.

Its descendants are settings of the same file: DistilBERT (Sanh et al. 2019: six layers, no segments, no pooler) and
RoBERTa (Liu et al. 2019: no second objective, positions that begin behind that of the padding). ALBERT shares the
weights of its layers: `albert.py`. What they are trained on: `regard/data/masked_words.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.attention import MultiHeadAttention, make_mask
from regard.errors import RegardError
from regard.layers.blocks import EncoderLayer, PostNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import ACTIVATIONS, FeedForward
from regard.layers.positions import LearnedPositions
from regard.models.base import Config, Model
from regard.native.products import Linear, linear
from regard.sequences import Layout, Sequences

HeadName = Literal["masked_words", "next_sentence", "classification", "token_labels", "spans"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class BertConfig(Config):
    """Sizes of a BERT; the defaults are the paper's base model with its two pretraining heads (section 3)."""

    model_type: Literal["bert"] = "bert"
    vocab_size: int = Field(30522, gt=0)
    """V: word pieces."""
    hidden_size: int = Field(768, gt=0)
    """D: the width of the residual stream."""
    num_hidden_layers: int = Field(12, gt=0)
    num_attention_heads: int = Field(12, gt=0)
    """H: heads of every attention sublayer."""
    intermediate_size: int = Field(3072, gt=0)
    """F: inner width of the feed-forward network."""
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    """Dropout on the embeddings and on the output of each sublayer."""
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1)
    """Dropout on the attention weights."""
    max_position_embeddings: int = Field(512, gt=0)
    """Rows of the table of positions."""
    first_position: int = Field(0, ge=0)
    """Row of the first token in that table; RoBERTa leaves out those up to its padding token."""
    type_vocab_size: int = Field(2, ge=0)
    """How many segments there are; 0 adds none."""
    layer_norm_eps: float = Field(1e-12, gt=0)
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the weights at the start."""
    pad_token_id: int | None = Field(0, ge=0)
    """Never seen by the model: batches are ragged. Told to programs that pad."""
    pooler: Literal["tanh", "relu"] | None = "tanh"
    """Non-linearity of the map of the first token's hidden state; None has no such map."""
    pooler_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on what the pooler reads."""
    heads: tuple[HeadName, ...] = ("masked_words", "next_sentence")
    """What the model is for; none gives hidden states alone."""
    tie_word_embeddings: bool = True
    """One matrix embeds words and predicts hidden ones."""
    labels: tuple[str, ...] = ()
    """Names of the classes, of texts or of tokens."""
    problem_type: ProblemType | None = None
    """What classes of texts mean; None is regression for one label, one class of several else."""
    classifier_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout before a classifying head; None is that of the layers."""
    qa_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the head for spans."""

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.hidden_size

    @property
    def next_sentence_dropout(self) -> float:
        """Dropout before the head for pairs of sentences."""
        return 0.0

    @model_validator(mode="after")
    def _parts_fit(self) -> BertConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be cut into {self.num_attention_heads} heads")
        if self.pooler is None and (pooled := {"next_sentence", "classification"} & set(self.heads)):
            raise ValueError(f"the head {min(pooled)!r} needs a pooler")
        if not self.labels and (labelled := {"classification", "token_labels"} & set(self.heads)):
            raise ValueError(f"the head {min(labelled)!r} needs labels")
        return self


PRESETS = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "distilbert": BertConfig(num_hidden_layers=6, type_vocab_size=0, pooler=None, heads=("masked_words",)),
    "roberta-base": BertConfig(
        vocab_size=50265, max_position_embeddings=514, first_position=2, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, pooler=None, heads=("masked_words",),
    ),
}  # fmt: skip


class Bert(Model):
    """Tokens in, hidden states out; `heads` make answers of them."""

    config_class: ClassVar[type[BertConfig]] = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = self.build_encoder(config)
        self.pooler = Pooler(config) if config.pooler else None
        self.heads = nn.ModuleDict({name: _head(config, name) for name in config.heads})
        self._initialise()

    @staticmethod
    def build_encoder(config: BertConfig) -> Encoder:
        """The stack of layers; ALBERT builds another."""
        return Encoder(config)

    def forward(self, tokens: Sequences, segments: Int[Tensor, "tokens"] | None = None) -> dict[str, Tensor]:
        """What each head says: (tokens, vocabulary or labels or 2), or (rows, ...) for those that judge whole texts."""
        hidden = self.hidden(tokens, segments)
        return {name: self.answer(name, hidden) for name in self.config.heads}

    def hidden(self, tokens: Sequences, segments: Int[Tensor, "tokens"] | None = None) -> Sequences:
        """Token ids and segments (all 0 where None) to the last hidden state, (tokens, width)."""
        hidden: Sequences = self.encoder(self.embeddings(tokens, segments))
        return hidden

    def pool(self, hidden: Sequences) -> Float[Tensor, "rows width"]:
        """One vector a text, from its first token."""
        if self.pooler is None:
            raise RegardError("this model has no pooler: give its configuration a `pooler`")
        pooled: Tensor = self.pooler(first_of_each(hidden))
        return pooled

    def answer(self, name: HeadName, hidden: Sequences) -> Tensor:
        """The scores of one head."""
        if name not in self.heads:
            raise RegardError(f"this model has no head {name!r}, only {', '.join(self.heads) or 'hidden states'}")
        if name == "masked_words":
            return self.words(hidden.values)
        scores: Tensor = self.heads[name](self.pool(hidden) if name in _POOLED else hidden.values)
        return scores

    def words(self, hidden: Float[Tensor, "places width"]) -> Float[Tensor, "places vocabulary"]:
        """Scores of every word at some places only: while training, those of the hidden words."""
        scores: Tensor = self.heads["masked_words"](hidden, self.embeddings.words.weight)
        return scores

    def _initialise(self) -> None:
        """Normal with deviation 0.02; biases 0."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class Embeddings(nn.Module):
    """norm(word + position + segment): where the residual stream begins (figure 2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = LearnedPositions(config.max_position_embeddings, width, config.first_position)
        self.segments = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Sequences, segments: Int[Tensor, "tokens"] | None = None) -> Sequences:
        placed = self.positions(self.words(tokens.values), tokens.layout.positions)
        if self.segments is not None:
            placed = placed + self.segments(torch.zeros_like(tokens.values) if segments is None else segments)
        elif segments is not None:
            raise RegardError("this model knows no segments: its type_vocab_size is 0")
        return tokens.with_values(self.dropout(self.norm(placed)))

    def steps(
        self,
        tokens: Int[Tensor, "tokens"],
        positions: Int[Tensor, "tokens"],
        segments: Int[Tensor, "tokens"] | None = None,
    ) -> dict[str, Tensor]:
        """`words`, `positions`, `segments`, their sum `added`, and `output`, its norm; all (tokens, width)."""
        found = {"words": self.words(tokens), "positions": self.positions.encoding(positions)}
        if self.segments is not None:
            found["segments"] = self.segments(torch.zeros_like(tokens) if segments is None else segments)
        added = torch.stack(list(found.values())).sum(dim=0)
        return found | {"added": added, "output": self.norm(added)}


class Encoder(nn.Module):
    """N layers of self-attention and feed-forward."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(encoder_layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Sequences) -> Sequences:
        mask = make_mask(x.layout, x.layout)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def encoder_layer(config: BertConfig) -> EncoderLayer:
    """One layer: post-norm, as in the Transformer's encoder, with dropout on the attention weights as well."""
    return EncoderLayer(
        MultiHeadAttention(config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob),
        FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act),
        lambda: PostNorm(config.hidden_size, config.hidden_dropout_prob, config.layer_norm_eps),
    )


# --- heads ------------------------------------------------------------------------------------------------------------


class Pooler(nn.Module):
    """tanh(W h + b) of the first token's hidden state."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.pooler_dropout)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = torch.tanh if config.pooler == "tanh" else torch.relu

    def forward(self, first: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        return self.activation(self.dense(self.dropout(first)))

    def steps(self, x: Float[Tensor, "tokens width"]) -> dict[str, Tensor]:
        """Of one text: `first`, its first token, `dense`, and `output` after the non-linearity; all (1, width)."""
        dense = self.dense(x[:1])
        return {"first": x[:1], "dense": dense, "output": self.activation(dense)}


class MaskedWordsHead(nn.Module):
    """A map, a non-linearity and a norm, then dot products with the embedding matrix."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.dense = Linear(config.hidden_size, width)
        self.activation = config.hidden_act
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.output = None if config.tie_word_embeddings else Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, hidden: Float[Tensor, "places width"], words: Float[Tensor, "vocabulary embedding_width"]
    ) -> Float[Tensor, "places vocabulary"]:
        return self.steps(hidden, words)["output"]

    def steps(
        self, hidden: Float[Tensor, "places width"], words: Float[Tensor, "vocabulary embedding_width"]
    ) -> dict[str, Tensor]:
        """`dense`, `activated`, `norm` (places, embedding width); `output` (places, vocabulary)."""
        dense = self.dense(hidden)
        activated = ACTIVATIONS[self.activation](dense)
        norm = self.norm(activated)
        output = linear(norm, words if self.output is None else self.output.weight, self.bias)
        return {"dense": dense, "activated": activated, "norm": norm, "output": output}


class LinearHead(nn.Module):
    """Dropout and one linear map: of the pooled text, or of every token."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.output = Linear(width, outputs)

    def forward(self, x: Float[Tensor, "places width"]) -> Float[Tensor, "places outputs"]:
        scores: Tensor = self.output(self.dropout(x))
        return scores

    def steps(self, x: Float[Tensor, "places width"]) -> dict[str, Tensor]:
        """`output`, the scores."""
        return {"output": self.output(x)}


_POOLED = ("next_sentence", "classification")


def _head(config: BertConfig, name: HeadName) -> nn.Module:
    width, labels = config.hidden_size, len(config.labels)
    dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    match name:
        case "masked_words":
            return MaskedWordsHead(config)
        case "next_sentence":  # scores of "it follows" and of "it does not"
            return LinearHead(width, 2, config.next_sentence_dropout)
        case "spans":  # scores of the first and of the last token of the answer
            return LinearHead(width, 2, config.qa_dropout)
        case _:
            return LinearHead(width, labels, dropout)


def first_of_each(hidden: Sequences) -> Float[Tensor, "rows width"]:
    """The hidden state of the first token of every text."""
    if 0 in hidden.lengths:
        raise RegardError("a text to judge needs at least one token")
    return hidden.values[hidden.layout.offsets[:-1]]


def sentence_embeddings(
    hidden: Sequences, pooling: Literal["mean", "first"] = "mean", normalise: bool = True
) -> Float[Tensor, "rows width"]:
    """One vector a text: the mean over its tokens or its first token; of length 1, so that products are cosines."""
    if pooling == "first":
        vectors = first_of_each(hidden)
    else:
        layout = hidden.layout
        sums = hidden.values.new_zeros(len(hidden), hidden.values.shape[1]).index_add(0, layout.rows, hidden.values)
        vectors = sums / layout.length_tensor[:, None]
    return F.normalize(vectors, dim=-1) if normalise else vectors


# --- what training minimises ------------------------------------------------------------------------------------------


def masked_word_loss(
    model: Bert, hidden: Sequences, places: Int[Tensor, "places"], answers: Int[Tensor, "places"]
) -> Float[Tensor, ""]:
    """Mean negative log-probability of the hidden words. `places` count through the whole batch."""
    return F.cross_entropy(model.words(hidden.values[places]), answers)


def pretraining_loss(
    model: Bert,
    tokens: Sequences,
    segments: Int[Tensor, "tokens"],
    places: Int[Tensor, "places"],
    answers: Int[Tensor, "places"],
    unrelated: Int[Tensor, "rows"],
) -> Float[Tensor, ""]:
    """The sum of both objectives (section A.2); `unrelated` is 0 where the second text follows the first, 1 else."""
    hidden = model.hidden(tokens, segments)
    pairs = F.cross_entropy(model.answer("next_sentence", hidden), unrelated)
    return masked_word_loss(model, hidden, places, answers) + pairs


def classification_loss(
    scores: Float[Tensor, "rows labels"], answers: Tensor, problem_type: ProblemType | None = None
) -> Float[Tensor, ""]:
    """Of whole texts: one class of several (rows,), any number of classes (rows, labels), or numbers (regression)."""
    if problem_type is None:
        problem_type = "multi_label_classification" if answers.is_floating_point() else "single_label_classification"
        if scores.shape[1] == 1:
            problem_type = "regression"
    if problem_type == "single_label_classification":
        return F.cross_entropy(scores, answers)
    wanted = answers.view(scores.shape).to(scores.dtype)
    if problem_type == "regression":
        return F.mse_loss(scores, wanted)
    return F.binary_cross_entropy_with_logits(scores, wanted)


def token_label_loss(scores: Float[Tensor, "tokens labels"], answers: Int[Tensor, "tokens"]) -> Float[Tensor, ""]:
    """Mean over the tokens that have a label; -100 has none."""
    return F.cross_entropy(scores, answers)


def span_loss(
    scores: Float[Tensor, "tokens 2"], layout: Layout, first: Int[Tensor, "rows"], last: Int[Tensor, "rows"]
) -> Float[Tensor, ""]:
    """Mean of the losses of an answer's first and last token, each a choice among the tokens of its own text."""
    padded = layout.pad(scores).masked_fill(~layout.present[:, :, None], -torch.inf)
    return (F.cross_entropy(padded[:, :, 0], first) + F.cross_entropy(padded[:, :, 1], last)) / 2


def best_spans(scores: Float[Tensor, "tokens 2"], layout: Layout, longest: int = 30) -> list[tuple[int, int]]:
    """For each text the first and last token of its most probable answer (section 4.2), of so many tokens at most."""
    found = []
    for row in scores.split(list(layout.lengths)):
        sums = row[:, 0, None] + row[:, 1]
        allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(longest - 1)
        best = int(sums.masked_fill(~allowed, -torch.inf).argmax())
        found.append((best // len(row), best % len(row)))
    return found
