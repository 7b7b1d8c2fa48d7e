"""What a recipe asks for, as numbers: the model's sizes, and how long the texts of a batch are.

The model is built on PyTorch's `meta` device, which knows shapes and holds no values, so one of any size costs nothing.
Lengths and vocabulary are those of the recipe's data where it is there; else lengths are given or assumed, and the
vocabulary is as large as the tokenizer may become.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.errors import RegardError
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.models.base import Model
from regard.training.flops import forward_flops, places_scored
from regard.training.planning.sizes import Sizes, sizes_of
from regard.training.recipe import Recipe
from regard.training.tasks import task_of

PAIR_LENGTH = 32  # tokens of a side, where nothing is known
TWO_SIDED = ("transformer", "t5", "seq2seq", "rnnsearch")
RECURRENT = ("seq2seq", "rnnsearch", "awd_lstm", "ulmfit")


@dataclass(frozen=True)
class Workload:
    """One training run, whatever it runs on."""

    recipe: Recipe
    config: Any
    parameters: int
    """Trained values; a shared matrix counts once."""
    embeddings: int
    """Of them, in embedding matrices."""
    matrices: int
    """Of them, in matrices that products are computed with: what bf16 keeps copies of."""
    layers: int
    """Those that FSDP gathers one by one, and tensor parallel cuts."""
    layer_parameters: int
    """In them."""
    length: float
    """Mean tokens of a text, of each side where there are two."""
    tokens: int | None
    """Of the training part; None where it was not read."""
    note: str
    """Where lengths and vocabulary come from."""

    @property
    def batch_tokens(self) -> int:
        return self.recipe.training.batch_tokens

    @property
    def rows(self) -> int:
        """Texts (or pairs) of a step: what data can be cut into."""
        return max(1, int(self.batch_tokens / (self.length * self.sides)))

    @property
    def sides(self) -> int:
        return 2 if self.config.model_type in TWO_SIDED else 1

    @property
    def steps(self) -> int:
        return self.recipe.training.max_steps

    @property
    def trained_tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def passes(self) -> float | None:
        return self.trained_tokens / self.tokens if self.tokens else None

    @cached_property
    def sizes(self) -> Sizes:
        return sizes_of(self.config)

    @property
    def vocabulary(self) -> int:
        return int(getattr(self.config, "target_vocab_size", None) or self.config.vocab_size)

    @property
    def read_words(self) -> int:
        """Values of an embedding matrix that products are computed with: where it predicts words too."""
        tied = getattr(self.config, "tie_word_embeddings", self.config.model_type == "transformer")
        return self.vocabulary * self.sizes.outer if tied and self.scored(1.0) else 0

    def scored(self, tokens: float) -> float:
        """At how many places of so many tokens words of the vocabulary are scored."""
        if self.config.model_type == "ulmfit":
            return 0.0
        texts = (max(1, round(self.length)),) * 100
        asked = places_scored(self.config, texts)
        return tokens / self.sides if asked is None else tokens * asked / sum(texts)

    @cached_property
    def flops(self) -> float:
        """Of one training step: three forward passes (see regard.training.flops)."""
        return 3 * self._forward(None)

    @cached_property
    def layer_flops(self) -> float:
        """Of one forward pass, without the scores of the vocabulary: what checkpointing computes again."""
        return self._forward(0)

    def _forward(self, predicted: int | None) -> float:
        length = max(1, round(self.length))
        texts = (length,) * self.rows
        asked = places_scored(self.config, texts) if predicted is None else predicted
        counted = forward_flops(self.config, texts, texts if self.sides == 2 else None, asked)
        return counted * self.batch_tokens / (length * self.rows * self.sides)


def workload_of(recipe: Recipe, length: float | None = None, tokens: int | None = None) -> Workload:
    """From the data, unless `length` (mean tokens of a text) is given or the data is not there."""
    if length is None and (told := _there(recipe)):
        task = task_of(recipe)
        begun: Any = getattr(task, "task", task)  # of a distillation: what is learnt beside it
        with torch.device("meta"):
            model = replace(begun, recipe=_from_nothing(recipe)).make_model()
        chosen = task.train.plan(recipe.training.batch_tokens, recipe.training.seed, 0)
        lengths = [count for part in chosen[:200] for count in _lengths(task.train.batch(part))]
        return _workload(recipe, model, sum(lengths) / len(lengths), task.train.tokens, told)
    with torch.device("meta"):
        model = _assumed_model(recipe)
    if length is not None and length <= 0:
        raise RegardError(f"--length is a number of tokens above 0, not {length:g}")
    two = model.config.model_type in TWO_SIDED
    assumed = float(min(PAIR_LENGTH, recipe.data.max_tokens) if two else recipe.data.max_tokens)
    told = f"texts of {length or assumed:g} tokens ({'given' if length else 'assumed: the data is not here'})"
    words = f"a vocabulary of {model.config.vocab_size:,}, the most that [tokenizer] allows"
    return _workload(recipe, model, length or assumed, tokens, f"{told}; {words}")


def _workload(recipe: Recipe, model: Model, length: float, tokens: int | None, note: str) -> Workload:
    embeddings = {id(part.weight): part.weight.numel() for part in model.modules() if isinstance(part, nn.Embedding)}
    words = sum(embeddings.values())
    matrices = sum(one.numel() for one in model.parameters() if one.dim() == 2 and id(one) not in embeddings)
    layers = list(attending_layers(model))
    inside = sum(one.numel() for layer in layers for one in layer.parameters())
    counts = (model.count_parameters(), words, matrices, len(layers), inside)
    return Workload(recipe, model.config, *counts, length, tokens, note)


def attending_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Those that attend, but not those that share weights with others (ALBERT)."""
    layers = [part for part in model.modules() if isinstance(part, EncoderLayer | DecoderLayer)]
    owners = Counter(id(weight) for layer in layers for weight in layer.parameters())
    return (layer for layer in layers if all(owners[id(weight)] == 1 for weight in layer.parameters()))


def _lengths(batch: Any) -> list[int]:
    """Of all texts of a batch, both sides."""
    sides = [getattr(batch, name, None) for name in ("source", "target", "inputs")]
    return [length for side in sides if side is not None for length in side.lengths]


def _there(recipe: Recipe) -> str:
    """Where the data that can be read now comes from; empty where a file is missing."""
    data = recipe.data
    if data.source == "cmudict":
        return "lengths and vocabulary of the data (cmudict)"
    names = [part for name in (data.train, data.valid, data.test) for part in name.split(",")]
    start = recipe.start or recipe.distillation.teacher
    if any(name.startswith("hub:") or not Path(name.partition("[")[0]).exists() for name in names):
        return ""
    return f"lengths and vocabulary of the data ({data.train})" if not start or Path(start).exists() else ""


def _from_nothing(recipe: Recipe) -> Recipe:
    """The recipe without the weights that it begins from: only their shapes are asked for."""
    return recipe.model_copy(
        update={"start": "", "tokenizer": recipe.tokenizer.model_copy(update={"renew": False})},
    )


def _assumed_model(recipe: Recipe) -> Model:
    """As the task would make it."""
    kind, words = recipe.model.type, {"vocab_size": recipe.tokenizer.vocab_size}
    two = ("0", "1")
    if kind in ("bert", "albert"):
        heads = {
            "masked-words": ("masked_words", "next_sentence"),
            "token-labels": ("token_labels",),
            "classification": ("classification",),
            "spans": ("spans",),
        }.get(recipe.task, ())
        labels = {"labels": two} if recipe.task in ("classification", "token-labels") else {}
        return recipe.model.make(**words, heads=heads, **labels)
    if recipe.task == "classification":
        return recipe.model.make(**words, labels=two)
    return recipe.model.make(**words)
