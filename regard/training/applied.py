"""What is done to a model from outside for training: its file knows nothing of it, and the weights keep their names."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from regard.layers.feed_forward import FeedForward, GatedFeedForward
from regard.training.loop_recipe import Training


def applied(model: nn.Module, training: Training) -> nn.Module:
    """The model with what the recipe asks for."""
    if training.compile:
        compile_feed_forward(model)
    if training.activation_checkpointing:
        checkpoint_layers(model)
    return model


def checkpoint_layers(model: nn.Module) -> None:
    """Each layer keeps what enters it only, and is computed anew, with the same random numbers, when gradients are.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    for name, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList) and name.split(".")[-1] == "layers":
            for layer in layers:
                layer.forward = _again_in_backward(layer.forward)


def _again_in_backward(forward: Any) -> Any:
    @wraps(forward)
    def twice(*given: Any, **named: Any) -> Any:
        return checkpoint(partial(forward, **named), *given, use_reentrant=False)

    return twice


def compile_feed_forward(model: nn.Module) -> None:
    """Compile what works on each token alone. Shapes change with every ragged batch, so they are left open.

    Not the whole model: the lengths of a batch are plain numbers to it, and every batch would be compiled anew.
    """
    for part in model.modules():
        if isinstance(part, FeedForward | GatedFeedForward):
            part.compile(dynamic=True)
