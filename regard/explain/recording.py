"""What one fast run leaves: the residual stream, (tokens, width) a layer, and what the stacks gave in the end.

Recording adds no module and changes no path: hooks note tensors that the run makes anyway. What leaves one layer enters
the next, so nothing is kept twice; of attention nothing is kept at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from regard.sequences import Sequences

LAYER = re.compile(r"(encoder|decoder)\.layers\.\d+")


@dataclass
class Recording:
    """One run over `source`, of translators also over `target`; `segments` where a model knows them."""

    source: Sequences
    target: Sequences | None
    segments: Int[Tensor, "tokens"] | None
    output: Sequences
    """What the last layer gave, through the last norm where there is one."""
    memory: Sequences | None = None
    """Of translators, what the encoder gave."""
    entering: dict[str, Sequences] = field(default_factory=dict)
    """By layer, from the first up."""
    leaving: dict[str, Sequences] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    """What recurrent layers began with, where that was not zeros."""


@torch.no_grad()
def record(
    model: Any, source: Sequences, target: Sequences | None = None, segments: Int[Tensor, "tokens"] | None = None
) -> Recording:
    """Run the model once, the fast way, and note what enters and leaves each layer."""
    found = Recording(source, target, segments, source)
    with evaluating(model), _noting(model, found):
        if target is None:
            found.output = model.hidden(source, *(() if segments is None else (segments,)))
        else:
            memory = model.encode(source)
            found.memory = memory if isinstance(memory, Sequences) else memory.hidden
            found.output = model.decode(target, memory)
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout while the block runs."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _noting(model: nn.Module, found: Recording) -> Iterator[None]:
    def hook(place: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found.entering[place] = inputs[0]
            found.leaving[place] = output if isinstance(output, Sequences) else output[0]
            if not isinstance(output, Sequences) and len(inputs) > 1:
                found.states[place] = inputs[1]

        return note

    with ExitStack() as stack:
        for place, layer in model.named_modules(remove_duplicate=False):
            if LAYER.fullmatch(place):
                stack.callback(layer.register_forward_hook(hook(place)).remove)
        yield
