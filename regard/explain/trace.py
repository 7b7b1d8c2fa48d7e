"""A lazy trace: one fast run that keeps what enters each layer, and recomputes everything else when asked.

Tracing adds no module and changes no path: hooks note the residual stream, (tokens, width) a layer, and the state that
a recurrent layer begins with. Any intermediate value is found from there by the same modules' `steps`, for one query or
for all, and has its place as its name:

    >>> trace["encoder.layers.0.self_attention.weights"]   # (heads, queries, keys)

In every system a stack that sees both sides is called `encoder`, one that only sees what came before `decoder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attention import MultiHeadAttention, causal_mask
from regard.errors import RegardError, unknown
from regard.explain.attention_view import AttentionView
from regard.explain.heads import head_places, head_steps
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.layers.recurrence import GRU, LSTM, Bidirectional
from regard.models.base import Model
from regard.models.rnnsearch import AttentiveLayer
from regard.sequences import Sequences

EVERY = slice(None)
_LAYER = re.compile(r"(encoder|decoder)\.layers\.\d+")


class Trace:
    """What one run of a model left, and everything that follows from it.

    A translator runs over `source` and `target`, every other model over `source` alone (with `segments`, if it knows
    them). `hidden` is what the last layer gave; `memory`, of translators, what the encoder did.
    """

    def __init__(
        self,
        model: Model,
        source: Sequences,
        target: Sequences | None = None,
        segments: Int[Tensor, "tokens"] | None = None,
    ) -> None:
        self.source, self.target, self.segments = source, target, segments
        self.model: Any = model  # its parts differ from system to system
        self._entering: dict[str, Sequences] = {}
        self._leaving: dict[str, Sequences] = {}
        self._states: dict[str, Any] = {}
        self.memory: Sequences | None = None
        with torch.no_grad(), _evaluating(model), self._noting():
            self.hidden = self._run()

    def _run(self) -> Sequences:
        hidden: Sequences
        if self.target is None:
            more = () if self.segments is None else (self.segments,)
            hidden = self.model.hidden(self.source, *more)
        else:
            memory = self.model.encode(self.source)
            self.memory = memory if isinstance(memory, Sequences) else memory.hidden
            hidden = self.model.decode(self.target, memory)
        return hidden

    @property
    def layers(self) -> list[str]:
        """The layers that were run, from the first up."""
        return list(self._entering)

    @property
    def places(self) -> list[str]:
        """The parts that `steps` can compute, from the embeddings up."""
        if self.target is None:
            return ["embedding", *self.layers, *head_places(self.model)]
        encoder = [place for place in self.layers if place.startswith("encoder.")]
        decoder = [place for place in self.layers if place.startswith("decoder.")]
        return ["encoder.embedding", *encoder, "decoder.embedding", *decoder]

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
        return self._noted(self._entering, place)[row]

    def leaving(self, place: str, row: int = 0) -> Float[Tensor, "tokens width"]:
        """What the fast run had after this layer."""
        return self._noted(self._leaving, place)[row]

    @torch.no_grad()
    def steps(self, place: str, queries: slice = EVERY, row: int = 0) -> dict[str, Tensor]:
        """All intermediate values of one part for the chosen queries of one text, by name, in order."""
        if place.endswith("embedding"):
            return self._embedding(place, queries, row)
        if place in head_places(self.model):
            return head_steps(self.model, place, self.hidden[row], queries)
        x = self.entering(place, row)
        layer = self.model.get_submodule(place)
        if isinstance(layer, LSTM | GRU):
            return layer.steps(x, queries, _row_of(self._states.get(place), row, x.device))
        if isinstance(layer, Bidirectional):
            return layer.steps(x, queries)
        if isinstance(layer, AttentiveLayer):
            return layer.steps(x, queries, self._memory(row))
        seen = causal_mask(len(x), len(x), x.device) if place.startswith("decoder.") else None
        added = self._added(place, x)
        if isinstance(layer, DecoderLayer):
            return layer.steps(x, queries, seen, self._memory(row), added)
        assert isinstance(layer, EncoderLayer)
        return layer.steps(x, queries, seen, added)

    @torch.no_grad()
    def attention(self, place: str, head: int, row: int = 0) -> AttentionView:
        """One head over one text, for maps and parts of them (`decoder.layers.3.cross_attention`).

        Raises RegardError for a place that has no such attention, with those that have, and for a head out of range.
        """
        layer_place, _, name = place.rpartition(".")
        known = [
            f"{layer}.{kind}"
            for layer in self.layers
            for kind in ("self_attention", "cross_attention")
            if isinstance(getattr(self.model.get_submodule(layer), kind, None), MultiHeadAttention)
        ]
        if place not in known:
            raise unknown("attention", place, known)
        layer: Any = self.model.get_submodule(layer_place)
        x = self.entering(layer_place, row)
        entered = layer.self_attention_residual.enter(x)
        if name == "self_attention":
            stack: Any = self.model.get_submodule(place.split(".")[0])
            added = stack.positions if hasattr(stack, "added_to_scores") else None
            causal = place.startswith("decoder.")
            return AttentionView(layer.self_attention, head, entered, entered, causal, added)
        attended = layer.steps(
            x, EVERY, causal_mask(len(x), len(x), x.device), self._memory(row), self._added(place, x)
        )
        asking = layer.cross_attention_residual.enter(attended["self_attention_residual.output"])
        return AttentionView(layer.cross_attention, head, asking, self._memory(row), causal=False)

    @torch.no_grad()
    def proof(self, place: str, queries: slice = EVERY, row: int = 0) -> float:
        """Largest difference between a layer's steps and what the fast run had after it."""
        output = self.steps(place, queries, row)["output"]
        return float((output - self.leaving(place, row)[queries]).abs().max())

    def _added(self, place: str, x: Tensor) -> Tensor | None:
        """What relative positions add to the scores of a stack; None where it has none."""
        stack: Any = self.model.get_submodule(place.split(".")[0])
        found: Tensor | None = stack.added_to_scores(len(x)) if hasattr(stack, "added_to_scores") else None
        return found

    def _embedding(self, place: str, queries: slice, row: int) -> dict[str, Tensor]:
        """Where the residual stream begins."""
        of_target = place.startswith("decoder.")
        tokens = self.target if of_target and self.target is not None else self.source
        ids = tokens[row][queries]
        positions = torch.arange(len(tokens[row]), device=ids.device)[queries]
        if hasattr(self.model, "embeddings"):
            segments = None if self.segments is None else tokens.with_values(self.segments)[row][queries]
            found: dict[str, Tensor] = self.model.embeddings.steps(ids, positions, segments)
            return found
        if hasattr(self.model.encoder if hasattr(self.model, "encoder") else None, "embedding"):  # ULMFiT
            return {"output": self.model.encoder.embedding(ids)}
        if hasattr(self.model, "embedding_steps"):
            steps: dict[str, Tensor] = self.model.embedding_steps(ids, positions, of_target)
            return steps
        lookup = self.model.lookup_target if of_target and hasattr(self.model, "lookup_target") else self.model.lookup
        looked_up = lookup(ids)
        if not hasattr(self.model, "positions"):
            return {"output": looked_up}
        return {"lookup": looked_up, **self.model.positions.steps(looked_up, positions)}

    def _memory(self, row: int) -> Tensor:
        assert self.memory is not None
        return self.memory[row]

    def _noted(self, kept: dict[str, Sequences], place: str) -> Sequences:
        if place not in kept:
            raise unknown("layer", place, kept)
        return kept[place]

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note what enters and leaves each layer while the block runs: what leaves one is what enters the next."""

        def hook(place: str) -> Any:
            def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                self._entering[place] = inputs[0]
                self._leaving[place] = output if isinstance(output, Sequences) else output[0]
                if not isinstance(output, Sequences) and len(inputs) > 1:
                    self._states[place] = inputs[1]

            return note

        with ExitStack() as stack:
            for place, layer in self.model.named_modules(remove_duplicate=False):
                if _LAYER.fullmatch(place):
                    stack.callback(layer.register_forward_hook(hook(place)).remove)
            yield


def check_range(kind: str, number: int, count: int) -> None:
    """Layers and heads are counted from 0."""
    if not 0 <= number < count:
        raise RegardError(f"there is no {kind} {number}: this model has {kind}s 0 to {count - 1}")


def _row_of(state: Any, row: int, device: torch.device) -> Any:
    """The state of one row of a recurrent layer; None where it began from zeros."""
    if state is None:
        return None
    return state[row : row + 1] if isinstance(state, Tensor) else state.select(torch.tensor([row], device=device))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
