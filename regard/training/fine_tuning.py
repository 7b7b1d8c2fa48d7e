"""Fine-tuning layer by layer: Howard & Ruder 2018, sections 3.2 and 3.3.

Groups are the parameters of a model's layers from the bottom up (for example `regard.models.ulmfit.parameter_groups`).
Lower layers hold what is general: they learn more slowly (discriminative rates), and begin later (gradual unfreezing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def discriminative_rates(rate: float, groups: int, factor: float = 2.6) -> list[float]:
    """The rate of each group: the last one's, and below it each a 2.6th of the one above it."""
    return [rate / factor ** (groups - 1 - number) for number in range(groups)]


def optimizer_groups(
    groups: Sequence[Sequence[nn.Parameter]], rate: float, factor: float = 2.6
) -> list[dict[str, Any]]:
    """The groups with their rates, as any optimiser of PyTorch takes them."""
    rates = discriminative_rates(rate, len(groups), factor)
    return [{"params": list(group), "lr": one} for group, one in zip(groups, rates, strict=True)]


def unfrozen_groups(groups: int, stage: int) -> range:
    """Which groups learn at stage 1, 2, ...: the last one, then one more below it at each stage, in the end all."""
    if stage < 1:
        raise ValueError(f"stages are counted from 1, this is {stage}")
    return range(max(0, groups - stage), groups)


def unfreeze(groups: Sequence[Sequence[nn.Parameter]], stage: int) -> None:
    """Let the parameters of that stage learn, and no others."""
    learning = unfrozen_groups(len(groups), stage)
    for number, group in enumerate(groups):
        for parameter in group:
            parameter.requires_grad_(number in learning)
