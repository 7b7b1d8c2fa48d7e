"""Fine-tuning layer by layer: Howard & Ruder 2018, sections 3.2 and 3.3.

Groups are the parameters of a model's layers from the bottom up (`layer_groups`).
Lower layers hold what is general: they learn more slowly (discriminative rates), and begin later (gradual unfreezing).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import nn

from regard.models.ulmfit import AwdLstm, Ulmfit, parameter_groups

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")


def layer_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a model of one stack: embeddings, each layer, and what stands above the last one.

    Those of the recurrent models are said where they are (`regard.models.ulmfit.parameter_groups`).
    """
    if isinstance(model, AwdLstm | Ulmfit):
        return parameter_groups(model)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = _LAYER.match(name)
        below = name.startswith(("embedding", "positions", "encoder.widen"))
        place = float(layer[2]) if layer else -1.0 if below else math.inf
        groups.setdefault(place, []).append(parameter)
    return [groups[place] for place in sorted(groups)]


def discriminative_rates(rate: float, groups: int, factor: float = 2.6) -> list[float]:
    """The rate of each group: the last one's, and below it each a 2.6th of the one above it."""
    return [rate / factor ** (groups - 1 - number) for number in range(groups)]


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
