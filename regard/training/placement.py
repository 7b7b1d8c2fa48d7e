"""Where a model's weights are while it learns: whole in every process, or cut over them (`regard.training.cut`).

The loop asks a placement for the loss of a batch, for the gradients of the whole batch once every process has done its
share, for the parameters that an optimiser moves here, and for the whole model when it is to be scored or written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from regard.errors import RegardError
from regard.models.base import Model
from regard.training.recipe import Recipe
from regard.training.tasks import Task
from regard.training.workers import Share, Summed, Workers


class Placement:
    """Every process holds the whole model."""

    cut = False
    """Whether a process holds a part of the weights only."""

    def __init__(self, task: Task, model: Model, workers: Workers) -> None:
        self.task, self.model, self.workers = task, model, workers

    def parts(self, chosen: np.ndarray, count: int) -> list[tuple[np.ndarray, bool]]:
        """This process's share of a batch in at most `count` parts, and whether each counts."""
        share = self.workers.share(chosen)
        return [(part, True) for part in np.array_split(share, count) if len(part)]

    def loss(self, batch: Any, smoothing: float) -> tuple[Tensor, Tensor]:
        """What to minimise, and the plain loss to read."""
        return self.task.loss(self.model, batch, smoothing)

    def backward(self, loss: Tensor, predictions: int, all_predictions: int) -> None:
        """Gradients of a part of this process's share (see `Workers.backward`)."""
        self.workers.backward(loss, predictions, all_predictions)

    def sum(self, share: Share) -> Summed:
        """After the backward passes: gradients of the whole batch's mean loss."""
        return self.workers.sum(self.model, share)

    def clip(self, longest: float) -> float:
        """Shorten the gradient to at most that; what it was."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), longest))

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is to be learnt here, by name."""
        return dict(self.model.named_parameters())

    def take(self, optimizers: Sequence[optim.Optimizer]) -> None:
        """Let optimisers made for the model move what is here."""

    def finite(self) -> bool:
        """Whether every weight is a number."""
        return all_finite(self.model.parameters())

    def whole(self) -> Model | None:
        """The model with all its weights, in the first process; all of them ask for it together."""
        return self.model if self.workers.leads else None

    def bare(self) -> Model:
        """A whole model to put weights into, for the first process alone."""
        return self.model


def placement_of(task: Task, model: Model, recipe: Recipe, workers: Workers, device: torch.device) -> Placement:
    """The recipe's. RegardError where the processes cannot be laid out so."""
    wanted = recipe.processes
    if wanted.tensor_parallel == 1 and not (wanted.shard and workers.count > 1):
        return Placement(task, model.to(device), workers)
    from regard.training.cut import CutPlacement

    return CutPlacement(task, model, wanted, workers, device)


def check_layout(recipe: Recipe, workers: Workers) -> None:
    """RegardError where the recipe's groups do not fit the number of processes. Before data is read."""
    together = recipe.processes.tensor_parallel
    if workers.count % together:
        raise RegardError(
            f"processes.tensor_parallel = {together} needs {together} processes or a multiple, not {workers.count}: "
            f"torchrun --nproc-per-node {-(-workers.count // together) * together} -m regard train ..."
        )
    if recipe.training.carry_state and workers.count > 1:
        raise RegardError("training.carry_state reads streams of text in order: it is for one process")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is a number."""
    return all(math.isfinite(float(tensor.detach().sum())) for tensor in tensors)
