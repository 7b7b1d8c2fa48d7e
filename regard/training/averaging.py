"""Weights that are a mean over the steps: what is validated and kept where a recipe asks for it.

NT-ASGD: averaged SGD that begins to average by itself (Merity et al. 2018, section 3, algorithm 1). Plain SGD goes on
until validation has not become better for a while; from then on the mean of all weights since is what counts. Averaging
itself is `torch.optim.ASGD` (Polyak & Juditsky 1992).

The exponential mean: each step moves it towards the weights by 1 - decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn, optim

from regard.training.loop_recipe import Training


def averaging_of(
    parameters: Mapping[str, nn.Parameter], optimizers: list[optim.Optimizer], training: Training
) -> Averaging:
    """The recipe's, of parameters by name."""
    if training.optimizer == "asgd":
        return NonMonotonicAveraging(optimizers[0], training.averaging_patience)
    return ExponentialAveraging(parameters, training.ema_decay) if training.ema_decay else Averaging()


class Averaging:
    """None: the weights are taken as they are."""

    def after_step(self) -> None:
        """The optimiser has moved the weights."""

    def after_validation(self, loss: float) -> None:
        """The averaged weights were validated."""

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the parameters have their mean values; what they had comes back after it."""
        return nullcontext()

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, beside `tensors`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from there."""


def averaging_begins(losses: Sequence[float], patience: int = 5) -> bool:
    """Whether the last validation loss is worse than the best of those more than `patience` validations before it."""
    earlier, last = losses[:-1], losses[-1]
    return len(earlier) > patience and last > min(earlier[:-patience])


class NonMonotonicAveraging(Averaging):
    """Lets an ASGD that begins as plain SGD (`t0` infinite) average from when validation stops getting better."""

    def __init__(self, optimizer: optim.Optimizer, patience: int = 5) -> None:
        self.optimizer, self.patience = optimizer, patience
        self.losses: list[float] = []

    @property
    def begun_at(self) -> float:
        """Steps after which averaging began; infinite before."""
        return float(self.optimizer.param_groups[0]["t0"])

    def begin_at(self, step: float) -> None:
        """Average from this step on."""
        for group in self.optimizer.param_groups:
            group["t0"] = step

    @property
    def averaging(self) -> bool:
        """Whether averaging has begun."""
        return self.begun_at < math.inf

    def after_validation(self, loss: float) -> None:
        """Take down a validation loss; averaging begins with the next step if it is time."""
        self.losses.append(loss)
        if not self.averaging and averaging_begins(self.losses, self.patience):
            self.begin_at(max((float(state["step"]) for state in self.optimizer.state.values()), default=0.0))

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the parameters have their mean values; what they had comes back after it."""
        return _set_for_now([(parameter, state["ax"]) for parameter, state in self.optimizer.state.items()])

    def facts(self) -> dict[str, Any]:
        return {"losses": self.losses, "begun_at": self.begun_at}

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.losses = facts["losses"]
        self.begin_at(facts["begun_at"])


class ExponentialAveraging(Averaging):
    """mean = decay x mean + (1 - decay) x weights; the first steps, of which there is little to average, decay faster.

    The decay of step n is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.means = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def after_step(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.means.values()), list(self.parameters.values()), 1 - decay)

    def averaged(self) -> AbstractContextManager[None]:
        return _set_for_now([(parameter, self.means[name]) for name, parameter in self.parameters.items()])

    def facts(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def tensors(self) -> dict[str, Tensor]:
        return self.means

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.steps = facts["steps"]
        for name, mean in self.means.items():
            mean.copy_(tensors[name])


@contextmanager
def _set_for_now(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    last = [(parameter, parameter.detach().clone()) for parameter, _ in pairs]
    _set(pairs)
    try:
        yield
    finally:
        _set(last)


@torch.no_grad()
def _set(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for parameter, value in pairs:
        parameter.copy_(value)
