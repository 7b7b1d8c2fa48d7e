"""GPT: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".

A decoder without an encoder, trained to predict the next word, then fine-tuned. What is notable in it: a plain stack of
masked self-attention does for every task; positions are learned; GELU (in its tanh form) instead of ReLU; one matrix
embeds words and predicts them; a task becomes one sequence of tokens with a start, a delimiter and an extract token
(figure 1), so that only those three embeddings and one matrix are new; and while fine-tuning the language model goes on
learning (L3 = L2 + lambda L1, equation 5).

GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") is the same with the norm before each
sublayer and once at the end, and with residual projections that start smaller the deeper the stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.attention import MultiHeadAttention, make_mask
from regard.errors import RegardError
from regard.layers.blocks import EncoderLayer, PostNorm, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import FeedForward
from regard.layers.positions import LearnedPositions
from regard.models.base import Config
from regard.models.decoder import DecoderModel, language_model_loss, last_of_each
from regard.native.products import Linear
from regard.sequences import Sequences


class GPTConfig(Config):
    """Sizes of a GPT; the defaults are the paper's (section 4.1)."""

    model_type: Literal["gpt"] = "gpt"
    vocab_size: int = Field(40478, gt=0)
    """V: 40,000 merges and the characters they begin with."""
    n_positions: int = Field(512, gt=0)
    """Longest text, in tokens."""
    n_embd: int = Field(768, gt=0)
    """D: the width of the residual stream."""
    n_layer: int = Field(12, gt=0)
    n_head: int = Field(12, gt=0)
    """H: heads of every attention sublayer."""
    n_inner: int | None = Field(None, gt=0)
    """F: inner width of the feed-forward network; None is four times the width."""
    activation_function: Literal["gelu_new", "gelu", "relu", "silu"] = "gelu_new"
    resid_pdrop: float = Field(0.1, ge=0, lt=1)
    """Dropout on the output of each sublayer."""
    embd_pdrop: float = Field(0.1, ge=0, lt=1)
    """Dropout on the sum of embedding and position."""
    attn_pdrop: float = Field(0.1, ge=0, lt=1)
    """Dropout on the attention weights."""
    layer_norm_epsilon: float = Field(1e-5, gt=0)
    normalize_before: bool = False
    """Norm before each sublayer and once at the end (GPT-2) instead of after each."""
    scale_attn_weights: bool = True
    """Divide scores by the square root of the head width."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide the scores of layer n (from 1) by n as well."""
    tie_word_embeddings: bool = True
    """One matrix for embedding and prediction."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the weights at the start."""
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    """Ends a text."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a fine-tuned model; one where each choice gets one score; none without such a head."""
    classifier_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on what the classifying head reads."""
    classifier_bias: bool = True

    @model_validator(mode="after")
    def _heads_fit(self) -> GPTConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} cannot be cut into {self.n_head} heads")
        return self


_GPT2 = GPTConfig(vocab_size=50257, n_positions=1024, normalize_before=True, bos_token_id=50256, eos_token_id=50256)

PRESETS = {
    "gpt1": GPTConfig(),
    "gpt2": _GPT2,
    "gpt2-medium": _GPT2.model_copy(update={"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-large": _GPT2.model_copy(update={"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "gpt2-xl": _GPT2.model_copy(update={"n_embd": 1600, "n_layer": 48, "n_head": 25}),
}


class GPT(DecoderModel):
    """Tokens in, scores of every next token out."""

    config_class = GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = LearnedPositions(config.n_positions, config.n_embd)
        self.dropout = Dropout(config.embd_pdrop)
        self.decoder = Decoder(config)
        self.output = None if config.tie_word_embeddings else Linear(config.n_embd, config.vocab_size, bias=False)
        self.classifier = ExtractHead(config) if config.labels else None
        self._initialise()

    def place(
        self, embedded: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        """embedding + position."""
        placed: Tensor = self.positions(embedded, positions)
        return placed

    # The classifying head reads the last token of each text: the extract token (section 3.2, equation 3).

    def classify(self, tokens: Sequences) -> Float[Tensor, "rows labels"]:
        """Logits of the classes of each text."""
        return self.score(last_of_each(self.hidden(tokens)))

    def choose(self, tokens: Sequences, choices: int) -> Float[Tensor, "questions choices"]:
        """One score a text, laid out by question: a softmax over them picks the answer."""
        return self.classify(tokens).view(-1, choices)

    def compare(self, first: Sequences, second: Sequences) -> Float[Tensor, "rows labels"]:
        """Logits of pairs without an order: both orders are read, and added before the linear map."""
        return self.score(last_of_each(self.hidden(first)) + last_of_each(self.hidden(second)))

    def score(self, extracted: Float[Tensor, "rows width"]) -> Float[Tensor, "rows labels"]:
        """What the head makes of extract tokens; RegardError without a head."""
        if self.classifier is None:
            raise RegardError("this model has no classifying head: give its configuration `labels`")
        scores: Tensor = self.classifier(extracted)
        return scores

    @torch.no_grad()
    def _initialise(self) -> None:
        """Normal with deviation 0.02; the projections that end in a GPT-2's residual stream divided by sqrt(2 N)."""
        deviation = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            if self.config.normalize_before and name.endswith(("attention.output.weight", "forward.output.weight")):
                parameter.div_((2 * self.config.n_layer) ** 0.5)


class Decoder(nn.Module):
    """N layers of masked self-attention and feed-forward."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        norm = PreNorm if config.normalize_before else PostNorm
        inner = config.n_inner or 4 * config.n_embd
        self.layers = nn.ModuleList(
            EncoderLayer(
                MultiHeadAttention(config.n_embd, config.n_head, config.attn_pdrop, _scale(config, number)),
                FeedForward(config.n_embd, inner, config.activation_function),
                lambda: norm(config.n_embd, config.resid_pdrop, config.layer_norm_epsilon),
            )
            for number in range(config.n_layer)
        )
        last = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.norm = last if config.normalize_before else nn.Identity()

    def forward(self, x: Sequences) -> Sequences:
        mask = make_mask(x.layout, x.layout, causal=True)
        for layer in self.layers:
            x = layer(x, mask)
        return x.with_values(self.norm(x.values))


class ExtractHead(nn.Module):
    """W_y of equation 3: class scores from the hidden state of the extract token."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.classifier_dropout)
        self.output = Linear(config.n_embd, len(config.labels), bias=config.classifier_bias)

    def forward(self, extracted: Float[Tensor, "rows width"]) -> Float[Tensor, "rows labels"]:
        scores: Tensor = self.output(self.dropout(extracted))
        return scores

    def steps(self, x: Float[Tensor, "tokens width"]) -> dict[str, Tensor]:
        """`extracted`, the last token of one text (1, width), and `output`, its scores (1, labels)."""
        return {"extracted": x[-1:], "output": self.output(x[-1:])}


# --- a task as one sequence (figure 1) --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskTokens:
    """Ids of the three tokens that fine-tuning adds to the vocabulary."""

    start: int
    delimiter: int
    extract: int

    def classification(self, text: Sequence[int]) -> list[int]:
        """Start, the text, extract."""
        return [self.start, *text, self.extract]

    def entailment(self, premise: Sequence[int], hypothesis: Sequence[int]) -> list[int]:
        """Start, premise, delimiter, hypothesis, extract."""
        return [self.start, *premise, self.delimiter, *hypothesis, self.extract]

    def similarity(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Both orders, for `GPT.compare`: neither text comes first by nature."""
        return self.entailment(first, second), self.entailment(second, first)

    def multiple_choice(self, context: Sequence[int], answers: Sequence[Sequence[int]]) -> list[list[int]]:
        """One sequence an answer, for `GPT.choose`. The context is a document and its question, one after the other."""
        return [self.entailment(context, answer) for answer in answers]


@torch.no_grad()
def with_more_tokens(model: GPT, count: int, labels: Sequence[str] = ()) -> GPT:
    """A copy whose vocabulary has `count` tokens more (new at the end), and a new head if there are `labels`."""
    changes = {"vocab_size": model.config.vocab_size + count, "labels": tuple(labels)}
    larger = GPT(model.config.model_copy(update=changes)).to(model.device)
    ours = larger.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith("classifier."):
            ours[name][: len(value)] = value
    return larger


# --- what training minimises ------------------------------------------------------------------------------------------


def fine_tuning_loss(
    model: GPT, tokens: Sequences, answers: Int[Tensor, "questions"], choices: int = 1, weight: float = 0.5
) -> Float[Tensor, ""]:
    """L3 = L2 + lambda L1 (equation 5), lambda 0.5 as in the paper.

    An answer is a class of its text or, with `choices`, the place of the right one among so many texts.
    """
    hidden = model.hidden(tokens)
    scores = model.score(last_of_each(hidden))
    if choices > 1:
        scores = scores.view(-1, choices)
    return F.cross_entropy(scores, answers) + weight * language_model_loss(model, hidden, tokens)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _scale(config: GPTConfig, number: int) -> float | None:
    """What the scores of a layer are multiplied by; None is the usual 1 / sqrt(head width)."""
    if config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx:
        return None
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return scale / (number + 1) if config.scale_attn_by_inverse_layer_idx else scale
