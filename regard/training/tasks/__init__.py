"""What there is to learn: each task brings its data, its loss and its scores; the training loop is the same for all.

A task is made from a recipe (`task_of`). It reads the data, trains the tokenizers or takes those of a run that was
begun, and builds the model; then the trainer asks it for batches, for the loss of one, and for scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.base import Model
from regard.models.catalog import load_model
from regard.training.recipe import Recipe
from regard.training.scoring import Result


@runtime_checkable
class Examples(Protocol):
    """Training examples: which of them make a batch follows from (seed, epoch) alone, so a run can go on anywhere."""

    @property
    def tokens(self) -> int: ...

    def __len__(self) -> int: ...

    def plan(self, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]: ...

    def batch(self, chosen: np.ndarray) -> Any: ...


@runtime_checkable
class Codec(Protocol):
    """The tokenizers of a model, as they go into its folder."""

    def save(self, folder: Path) -> None: ...


@runtime_checkable
class Task(Protocol):
    """One kind of learning."""

    @property
    def codec(self) -> Codec: ...

    @property
    def train(self) -> Examples: ...

    @property
    def valid(self) -> Examples: ...

    @property
    def counts(self) -> dict[str, int]:
        """Examples in each part, for the model card."""

    def make_model(self) -> Model: ...

    def loss(self, model: Any, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        """What to minimise, and the plain loss to read (nats a prediction, no gradient)."""

    def predictions(self, batch: Any) -> int:
        """Of how many predictions the loss of a batch is the mean."""

    def valid_score(self, model: Any) -> Result: ...

    def test_score(self, model: Any) -> Result: ...


def task_of(recipe: Recipe, begun: Path | None = None) -> Task:
    """The task of a recipe. `begun`: folder of a run whose tokenizers are to be used."""
    module, name = TASKS[recipe.task]
    kind: Any = getattr(import_module(f"regard.training.tasks.{module}"), name)
    task: Task = kind.prepare(recipe, begun)
    if recipe.distillation.teacher:
        from regard.training.tasks.distillation import DistillationTask

        task = DistillationTask.of(recipe, task)
    return task


TASKS = {
    "text-to-text": ("text_to_text", "TextToTextTask"),
    "language-model": ("language_model", "LanguageModelTask"),
    "masked-words": ("masked_words", "MaskedWordsTask"),
    "classification": ("classification", "ClassificationTask"),
    "token-labels": ("token_labels", "TokenLabelsTask"),
    "spans": ("spans", "SpansTask"),
    "embeddings": ("embeddings", "EmbeddingsTask"),
}
"""A recipe's task: the module here, and the class in it."""


@torch.no_grad()
def valid_loss(task: Task, model: Model, batch_tokens: int, examples: Examples | None = None) -> float:
    """Mean plain loss over the validation part, or over other examples."""
    total, count = 0.0, 0
    for batch in scoring_batches(model, task.valid if examples is None else examples, batch_tokens):
        predictions = task.predictions(batch)
        total += float(task.loss(model, batch, 0.0)[1]) * predictions
        count += predictions
    return total / max(1, count)


def scoring_batches(model: Any, examples: Examples, batch_tokens: int) -> Iterator[Any]:
    """All batches, always in the same order, where the model is; until the last one it answers and does not learn."""
    training = model.training
    model.eval()
    try:
        for chosen in examples.plan(batch_tokens, 0, 0):
            yield examples.batch(chosen).to(model.device)
    finally:
        model.train(training)


def begin_from(model: Model, start: str) -> Model:
    """Take over the weights of an earlier model, wherever a part of this one has the same name and shape.

    Heads that the earlier one lacks stay as they are. RegardError where the two have nothing in common.
    """
    if not start:
        return model
    folder = Path(start)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    earlier = load_model(folder)
    words, known = model.config.vocab_size, earlier.config.vocab_size
    if words > known:
        raise RegardError(f"the tokenizer has {words} tokens, more than the {known} of the model {start}")
    given, own = earlier.state_dict(), model.state_dict()
    taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    body = [name for name in own if name.startswith(("encoder.", "decoder.", "embedding"))]
    missing = [name for name in body if name not in taken]
    if missing:
        raise RegardError(f"{start} does not fit [model]: {missing[0]} is missing there or has another shape")
    model.load_state_dict({**own, **taken})
    return model
