"""A lazy trace: one fast run that keeps what enters each layer, and recomputes everything else when asked.

Tracing adds no module and changes no path: hooks note the residual stream, (tokens, width) a layer. Any intermediate
value is found from there by the same modules' `steps`, for one query or for all, and has its place as its name:

    >>> trace["encoder.layers.0.self_attention.weights"]   # (heads, queries, keys)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import causal_mask
from regard.errors import RegardError, unknown
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.models.transformer import Transformer
from regard.sequences import Sequences

EVERY = slice(None)


class Trace:
    """What one run of a Transformer left, and everything that follows from it."""

    def __init__(self, model: Transformer, source: Sequences, target: Sequences) -> None:
        self.model, self.source, self.target = model, source, target
        self._entering: dict[str, Sequences] = {}
        self.memory = source  # replaced by the run
        self.hidden = target
        with torch.no_grad(), _evaluating(model), self._noting():
            self.memory = model.encode(source)
            self.hidden = model.decode(target, self.memory)

    @property
    def places(self) -> list[str]:
        """The parts that `steps` can compute, from the embeddings up."""
        return ["encoder.embedding", *_layers(self.model.encoder), "decoder.embedding", *_layers(self.model.decoder)]

    @property
    def names(self) -> list[str]:
        """Every value that can be asked for by `trace[name]`."""
        return [f"{place}.{name}" for place in self.places for name in self.steps(place, slice(0, 1))]

    def __getitem__(self, name: str) -> Tensor:
        """The value of that name for the first text, all queries."""
        place = next((place for place in self.places if name.startswith(f"{place}.")), None)
        found = self.steps(place) if place else {}
        value = name.removeprefix(f"{place}.")
        if value not in found:
            raise unknown("value", name, self.names)
        return found[value]

    def entering(self, place: str, row: int = 0) -> Float[Tensor, "tokens width"]:
        """The residual stream of one text as it enters a layer."""
        if place not in self._entering:
            raise unknown("layer", place, self._entering)
        return self._entering[place][row]

    def leaving(self, place: str, row: int = 0) -> Float[Tensor, "tokens width"]:
        """What the fast run had after this layer: what the next one got, or what the stack gave in the end."""
        side, _, number = place.rpartition(".layers.")
        following = f"{side}.layers.{int(number) + 1}"
        if following in self._entering:
            return self._entering[following][row]
        stack, last = (self.model.encoder, self.memory) if side == "encoder" else (self.model.decoder, self.hidden)
        if not isinstance(stack.norm, nn.Identity):
            raise RegardError(f"{place} is followed by a last norm: compare its steps through that norm")
        return last[row]

    @torch.no_grad()
    def steps(self, place: str, queries: slice = EVERY, row: int = 0) -> dict[str, Tensor]:
        """All intermediate values of one part for the chosen queries of one text, by name, in order."""
        side, _, part = place.partition(".")
        tokens = self.source if side == "encoder" else self.target
        if part == "embedding":
            ids = tokens[row][queries]
            positions = torch.arange(len(tokens[row]), device=ids.device)[queries]
            looked_up = self.model.lookup(ids)
            return {"lookup": looked_up, **self.model.positions.steps(looked_up, positions)}
        x = self.entering(place, row)
        layer = self.model.get_submodule(place)
        if isinstance(layer, EncoderLayer):
            return layer.steps(x, queries)
        assert isinstance(layer, DecoderLayer)
        return layer.steps(x, queries, causal_mask(len(x), len(x), x.device), self.memory[row])

    @torch.no_grad()
    def proof(self, place: str, queries: slice = EVERY, row: int = 0) -> float:
        """Largest difference between a layer's steps and what the fast run had after it."""
        output = self.steps(place, queries, row)["output"]
        side, _, number = place.rpartition(".layers.")
        stack = self.model.encoder if side == "encoder" else self.model.decoder
        last = int(number) == len(stack.layers) - 1
        if last and not isinstance(stack.norm, nn.Identity):
            fast = (self.memory if side == "encoder" else self.hidden)[row]
            output = stack.norm(output)
        else:
            fast = self.leaving(place, row)
        return float((output - fast[queries]).abs().max())

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note what enters each layer while the block runs."""

        def note(place: str) -> object:
            return lambda _, inputs: self._entering.__setitem__(place, inputs[0])

        handles = [
            self.model.get_submodule(place).register_forward_pre_hook(note(place))  # type: ignore[arg-type]
            for stack in (self.model.encoder, self.model.decoder)
            for place in _layers(stack)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def check_range(kind: str, number: int, count: int) -> None:
    """Layers and heads are counted from 0."""
    if not 0 <= number < count:
        raise RegardError(f"there is no {kind} {number}: this model has {kind}s 0 to {count - 1}")


def _layers(stack: nn.Module) -> list[str]:
    side = type(stack).__name__.lower()
    return [f"{side}.layers.{number}" for number in range(len(stack.layers))]  # type: ignore[arg-type]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
