"""Optimisers: the paper's Adam, and Muon, which needs about half its steps on the same data (docs/log.md).

Adam: Kingma & Ba 2015, as in Vaswani et al. 2017, section 5.3; weight decay is decoupled (Loshchilov & Hutter 2019).
Muon: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks": the update of a matrix is its momentum
with all singular values made about equal; scaled to the size of Adam's updates (Liu et al. 2025, "Muon is Scalable for
LLM Training"), so that both take the same learning rates. Embeddings, norms and biases stay with Adam.
"""

from __future__ import annotations

from torch import nn, optim

from regard.training.recipe import Training


def optimizers_of(model: nn.Module, training: Training) -> list[optim.Optimizer]:
    """The optimisers that together update every parameter of the model, each exactly once."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    parameters = list(model.parameters())
    matrices = [one for one in parameters if one.dim() == 2 and id(one) not in embeddings]
    others = [one for one in parameters if one.dim() != 2 or id(one) in embeddings]
    decay = training.weight_decay
    if training.optimizer == "muon":
        muon = optim.Muon(matrices, lr=0.0, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        return [muon, _adam([{"params": others, "weight_decay": 0.0}], training)]
    return [_adam([{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}], training)]


def _adam(groups: list[dict[str, list[nn.Parameter] | float]], training: Training) -> optim.Optimizer:
    return optim.AdamW(groups, lr=0.0, betas=training.adam_betas, eps=training.adam_epsilon, fused=True)
