"""Distillation: a smaller model learns its task, and beside it what a larger one says and does inside.

- soft targets: the teacher's probabilities at a temperature (Hinton et al. 2015, section 2),
- hidden states: of the student's layers and of as many of the teacher's, evenly spaced (Jiao et al. 2020, "TinyBERT",
  equation 8); a narrower student learns beside it one linear map to the teacher's width, W_h there, for all layers,
- attention relations: softmax(Q Q^T / sqrt(d)), of keys and values alike, of both last layers (Wang et al. 2021,
  "MiniLMv2", section 3). Queries, keys and values are the models' own projections of what enters the layer.

Both models read the same batch; the fast run stays as it is. Scores and validation are the task's own.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models.base import LEARNING, Model
from regard.models.bert import Bert
from regard.models.catalog import load_model
from regard.models.gpt import GPT
from regard.sequences import Sequences
from regard.training.recipe import Recipe
from regard.training.recipe_parts import Distillation
from regard.training.scoring import Result
from regard.training.tasks import Codec, Examples, Task

_LAYER = re.compile(r"(encoder|decoder)\.layers\.\d+")


@dataclass
class DistillationTask:
    """Another task, and a teacher."""

    recipe: Recipe
    task: Task
    teacher: Model
    density: float = 0.0
    """Tokens a prediction in all parts of the step's batch."""

    @classmethod
    def of(cls, recipe: Recipe, task: Task) -> DistillationTask:
        folder = Path(recipe.distillation.teacher)
        teacher = load_model(folder / "model" if (folder / "model").is_dir() else folder)
        return cls(recipe, task, teacher.requires_grad_(False))

    @property
    def codec(self) -> Codec:
        return self.task.codec

    @property
    def train(self) -> Examples:
        return self.task.train

    @property
    def valid(self) -> Examples:
        return self.task.valid

    @property
    def counts(self) -> dict[str, int]:
        return self.task.counts

    def make_model(self) -> Model:
        student = self.task.make_model()
        wanted, name = self.recipe.distillation, self.recipe.distillation.teacher
        for field in ("vocab_size", "labels"):
            own, theirs = (getattr(model.config, field, None) for model in (student, self.teacher))
            if own != theirs:
                raise RegardError(f"the teacher {name} has another {field} than the student: {_short(theirs, own)}")
        widths = student.config.width, self.teacher.config.width
        if wanted.hidden_states and widths[0] != widths[1]:
            student.add_module(LEARNING, nn.Linear(*widths, bias=False))
        if wanted.attention_relations:
            for model in (student, self.teacher):
                if not all(hasattr(layer, "self_attention") for layer in _layers(model)):
                    raise RegardError(f"distillation.attention_relations: a {model.config.model_type} has no attention")
        return student

    def loss(self, model: Any, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        """The task's loss and, while training, what the teacher adds; the plain loss is the task's."""
        if not model.training:
            return self.task.loss(model, batch, smoothing)
        share = self._share(batch)
        if hasattr(self.task, "prepared"):  # chance is the same for both
            batch = self.task.prepared(batch, model)
        wanted, teacher = self.recipe.distillation, self.teacher.to(model.device).eval()
        with _Noted(model) as student:
            loss, plain = self.task.loss(model, batch, smoothing)
        with torch.no_grad(), _Noted(teacher) as taught:
            self.task.loss(teacher, batch, 0.0)
        soft = soft_targets(student, taught, wanted)
        inner = distilled(student, taught, wanted, getattr(model, LEARNING, None))
        return wanted.task * loss + soft + share * inner, plain

    def weigh(self, predictions: float, tokens: float) -> None:
        """What all parts of the next step's batch have, in all processes."""
        self.density = tokens / predictions

    def _share(self, batch: Any) -> float:
        """The loop weighs parts of a batch by their predictions; means over tokens are to be weighed by tokens."""
        return batch.tokens / max(1, self.task.predictions(batch)) / self.density if self.density else 1.0

    def predictions(self, batch: Any) -> int:
        return self.task.predictions(batch)

    def valid_score(self, model: Any) -> Result:
        return self.task.valid_score(model)

    def test_score(self, model: Any) -> Result:
        return self.task.test_score(model)


class _Noted:
    """What a model answers and what passes its layers while the block runs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = _layers(model)
        self.logits: list[Tensor] = []
        self.hidden: list[Tensor] = []
        self.entering: list[Sequences] = []
        """Into the self-attention of each layer."""

    def __enter__(self) -> _Noted:
        self.hooks = ExitStack()
        for part in _answering(self.model):
            self.hooks.callback(part.register_forward_hook(self._answered).remove)
        for layer in self.layers:
            self.hooks.callback(layer.register_forward_hook(self._passed).remove)
            if attention := getattr(layer, "self_attention", None):
                self.hooks.callback(attention.register_forward_pre_hook(self._entered).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()

    def _answered(self, _: nn.Module, __: Any, output: Any) -> None:
        self.logits.append(output[0] if isinstance(output, tuple) else output)

    def _passed(self, _: nn.Module, __: Any, output: Any) -> None:
        self.hidden.append((output[0] if isinstance(output, tuple) else output).values)

    def _entered(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.entering.append(inputs[0])


def soft_targets(student: _Noted, teacher: _Noted, wanted: Distillation) -> Tensor:
    """What the teacher's answers add to the loss: a mean over predictions."""
    total: Tensor = student.hidden[-1].new_zeros(())
    if wanted.soft_targets:
        for own, theirs in zip(student.logits, teacher.logits, strict=True):
            total = total + wanted.soft_targets * soft_target_loss(own, theirs, wanted.temperature)
    return total


def distilled(student: _Noted, teacher: _Noted, wanted: Distillation, to_width: nn.Linear | None = None) -> Tensor:
    """What the teacher's inside adds to the loss: a mean over tokens. `to_width`: the student's hidden states in the
    teacher's width.
    """
    total: Tensor = student.hidden[-1].new_zeros(())
    if wanted.hidden_states:
        count, all_layers = len(student.hidden), len(teacher.hidden)
        for number, own in enumerate(student.hidden, start=1):
            theirs = teacher.hidden[math.ceil(number * all_layers / count) - 1]
            own = own if to_width is None else to_width(own)
            total = total + wanted.hidden_states * F.mse_loss(own.float(), theirs.float()) / count
    if wanted.attention_relations:
        heads = wanted.relation_heads or teacher.layers[-1].self_attention.heads
        relations = [relations_of(one.layers[-1].self_attention, one.entering[-1], heads) for one in (student, teacher)]
        total = total + wanted.attention_relations * relation_loss(*relations)
    return total


def soft_target_loss(
    student: Float[Tensor, "rows answers"], teacher: Float[Tensor, "rows answers"], temperature: float
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, times the squared temperature."""
    own = (student.float() / temperature).log_softmax(dim=-1)
    theirs = (teacher.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(own, theirs, reduction="batchmean", log_target=True)


def relations_of(attention: Any, x: Sequences, heads: int) -> list[Tensor]:
    """log softmax(A A^T / sqrt(d)) of queries, keys and values: rows x heads x tokens x tokens where tokens are."""
    queries = attention.project_queries(x.values)
    keys, values = attention.project_memory(x.values).chunk(2, dim=-1)
    found = []
    for part in (queries, keys, values):
        if part.shape[1] % heads:
            raise RegardError(f"a width of {part.shape[1]} cannot be cut into {heads} relation heads")
        split = x.layout.pad(part.float()).unflatten(2, (heads, -1)).transpose(1, 2)
        scores = split @ split.transpose(2, 3) / split.shape[3] ** 0.5
        absent = ~x.layout.present[:, None, None, :]
        found.append(
            scores.masked_fill(absent, -1e9).log_softmax(dim=-1)[x.layout.present[:, None].expand_as(scores[..., 0])]
        )
    return found


def relation_loss(student: list[Tensor], teacher: list[Tensor]) -> Float[Tensor, ""]:
    """Mean over tokens and heads of the divergence of each relation; queries, keys and values added."""
    parts = [
        F.kl_div(own, theirs, reduction="batchmean", log_target=True)
        for own, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).sum()


def _layers(model: Any) -> list[Any]:
    return [part for name, part in model.named_modules(remove_duplicate=False) if _LAYER.fullmatch(name)]


def _answering(model: Any) -> list[nn.Module]:
    """The parts whose outputs are what the model answers."""
    if isinstance(model, Bert):
        return list(model.heads.values())
    return [model.get_submodule("classifier")] if isinstance(model, GPT) and model.config.labels else [model]


def _short(theirs: Any, own: Any) -> str:
    shown = f"{theirs}, not {own}"
    return shown if len(shown) < 60 else f"{shown[:57]}..."
