"""NT-ASGD: averaged SGD that begins to average by itself (Merity et al. 2018, section 3, algorithm 1).

Plain SGD goes on until validation has not become better for a while; from then on the mean of all weights since is what
counts. Averaging itself is `torch.optim.ASGD` (Polyak & Juditsky 1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, optim


def averaging_begins(losses: Sequence[float], patience: int = 5) -> bool:
    """Whether the last validation loss is worse than the best of those more than `patience` validations before it."""
    earlier, last = losses[:-1], losses[-1]
    return len(earlier) > patience and last > min(earlier[:-patience])


class NonMonotonicAveraging:
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

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters have their mean values; what they had comes back after it."""
        pairs = [(parameter, state["ax"]) for parameter, state in self.optimizer.state.items()]
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
