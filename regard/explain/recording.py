"""What one fast run leaves: the residual stream, (tokens, width), and what the stacks gave in the end.

Recording adds no module and changes no path: hooks note tensors that the run makes anyway, and of attention nothing. Of
a stack of attention layers the stream is kept where every few layers begin (about the square root of their number, as
in Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"); what enters a layer between is found from there
by running the layers again, the same fast way on the same tokens, which gives the same numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from regard.layers.blocks import DecoderLayer, EncoderLayer
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
    layers: list[str] = field(default_factory=list)
    """The layers in the order in which they ran."""
    entering: dict[str, Sequences] = field(default_factory=dict)
    """By layer: of those that are kept."""
    leaving: dict[str, Sequences] = field(default_factory=dict)
    """Of recurrent layers, which are not run again."""
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
    def hook(place: str, kept: bool, again: bool) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found.layers.append(place)
            if kept:
                found.entering[place] = inputs[0]
            if again:
                return
            found.leaving[place] = output if isinstance(output, Sequences) else output[0]
            if not isinstance(output, Sequences) and len(inputs) > 1:
                found.states[place] = inputs[1]

        return note

    layers = {place: layer for place, layer in model.named_modules(remove_duplicate=False) if LAYER.fullmatch(place)}
    counts = Counter(place.split(".")[0] for place in layers)
    with ExitStack() as stack:
        for place, layer in layers.items():
            side, _, number = place.split(".")
            again = isinstance(layer, EncoderLayer | DecoderLayer)
            kept = not again or int(number) % (isqrt(counts[side]) + 1) == 0
            stack.callback(layer.register_forward_hook(hook(place, kept, again)).remove)
        yield
