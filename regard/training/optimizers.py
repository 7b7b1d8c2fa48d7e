"""Optimisers: the paper's Adam, and Muon, which needs about half its steps on the same data (docs/log.md).

Adam: Kingma & Ba 2015, as in Vaswani et al. 2017, section 5.3; weight decay is decoupled (Loshchilov & Hutter 2019).
Muon: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks": the update of a matrix is its momentum
with all singular values made about equal; scaled to the size of Adam's updates (Liu et al. 2025, "Muon is Scalable for
LLM Training"), so that both take the same learning rates. Embeddings, norms and biases stay with Adam.
SGD: without momentum, as in Sutskever et al. 2014. ASGD: the same, and later the mean of its weights (see
regard.training.averaging). Adadelta: Zeiler 2012, with Bahdanau et al.'s rho and epsilon (2015, B.2).
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim

from regard.training.fine_tuning import discriminative_rates, layer_groups
from regard.training.recipe import Training

Group = dict[str, Any]


def optimizers_of(model: nn.Module, training: Training) -> list[optim.Optimizer]:
    """The optimisers that together update every parameter of the model, each exactly once.

    Each of their groups has a `scale`, by which the rate of the schedule is multiplied.
    """
    matrices, others = _groups(model, training)
    if training.optimizer == "muon":
        muon = [optim.Muon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw")] if matrices else []
        return [*muon, *([_adam(others, training)] if others else [])]
    if training.optimizer == "asgd":
        # lambd 0 keeps the rate as it is; with t0 infinite the mean is the last value: plain SGD.
        return [optim.ASGD([*matrices, *others], lr=0.0, lambd=0.0, t0=math.inf)]
    if training.optimizer == "sgd":
        return [optim.SGD([*matrices, *others], lr=0.0)]
    if training.optimizer == "adadelta":
        return [optim.Adadelta([*matrices, *others], lr=0.0, rho=0.95, eps=1e-6)]
    return [_adam([*matrices, *others], training)]


def _groups(model: nn.Module, training: Training) -> tuple[list[Group], list[Group]]:
    """Matrices, whose weights decay, and the rest; layer by layer where layers have rates of their own."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    apart = training.rate_factor > 1 or training.unfreeze_every
    layers = layer_groups(model) if apart else [list(model.parameters())]
    matrices: list[Group] = []
    others: list[Group] = []
    for layer, scale in zip(layers, discriminative_rates(1.0, len(layers), training.rate_factor), strict=True):
        of_layer = [one for one in layer if one.dim() == 2 and id(one) not in embeddings]
        rest = [one for one in layer if one.dim() != 2 or id(one) in embeddings]
        if of_layer:
            matrices.append({"params": of_layer, "weight_decay": training.weight_decay, "scale": scale})
        if rest:
            others.append({"params": rest, "weight_decay": 0.0, "scale": scale})
    return matrices, others


def _adam(groups: list[Group], training: Training) -> optim.Optimizer:
    return optim.AdamW(groups, lr=0.0, betas=training.adam_betas, eps=training.adam_epsilon, fused=True)
