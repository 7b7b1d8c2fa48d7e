"""Every value of one part of a model, recomputed by the part's own `steps` from what a run left."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attention import Mask, make_mask
from regard.explain.cache import Values
from regard.explain.heads import head_places, head_steps
from regard.explain.recording import Recording, evaluating
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.layers.positions import RelativePositions
from regard.layers.recurrence import GRU, LSTM, Bidirectional
from regard.models.rnnsearch import AttentiveLayer
from regard.sequences import Layout, Sequences


@torch.no_grad()
def part_steps(
    model: Any, run: Recording, place: str, queries: slice, row: int, x: Float[Tensor, "tokens width"] | None = None
) -> Values:
    """The values of an embedding, a layer or a head for the chosen queries of one text, by name, in order.

    `x` is what enters a layer.
    """
    if place.endswith("embedding"):
        return _embedding(model, run, place, queries, row)
    if place in head_places(model):
        return head_steps(model, place, run.output[row], queries)
    assert x is not None
    layer = model.get_submodule(place)
    if isinstance(layer, LSTM | GRU):
        return layer.steps(x, queries, _row_of(run.states.get(place), row, x.device))
    if isinstance(layer, Bidirectional):
        return layer.steps(x, queries)
    if isinstance(layer, AttentiveLayer):
        return layer.steps(x, queries, _memory(run, row))
    every = torch.arange(len(x), device=x.device)
    chosen = every[queries]
    allowed = every[None] <= chosen[:, None] if place.startswith("decoder.") else None
    stack = _stack(model, place)
    added = stack.positions(chosen, every) if _relative(stack) else None
    if isinstance(layer, DecoderLayer):
        return layer.steps(x, queries, allowed, _memory(run, row), added)
    assert isinstance(layer, EncoderLayer)
    return layer.steps(x, queries, allowed, added)


@torch.no_grad()
def entering_cross_attention(model: Any, place: str, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
    """What a decoder layer's cross-attention gets: its masked self-attention is run once more, the fast way."""
    layer, stack, text = model.get_submodule(place), _stack(model, place), Sequences.of([x])
    entered = text.with_values(layer.self_attention_residual.enter(x))
    seen = layer.self_attention(entered, None, _mask(stack, place, text.layout))
    asking: Tensor = layer.cross_attention_residual.enter(layer.self_attention_residual.leave(x, seen))
    return asking


@torch.no_grad()
def run_layer(model: Any, run: Recording, place: str, x: Sequences) -> Sequences:
    """One layer of attention once more, the fast way, over all texts: what leaves it."""
    layer, mask = model.get_submodule(place), _mask(_stack(model, place), place, x.layout)
    with evaluating(layer):
        left: Sequences
        if isinstance(layer, DecoderLayer):
            assert run.memory is not None
            left = layer(x, run.memory, mask, make_mask(x.layout, run.memory.layout))
        else:
            left = layer(x, mask)
    return left


def _mask(stack: Any, place: str, layout: Layout) -> Mask | None:
    """What self-attention may look at in this stack."""
    if _relative(stack):
        found: Mask = stack.mask(layout)
        return found
    return make_mask(layout, layout, causal=place.startswith("decoder."))


def _relative(stack: Any) -> bool:
    """Whether distances are added to the scores."""
    return isinstance(getattr(stack, "positions", None), RelativePositions)


def _embedding(model: Any, run: Recording, place: str, queries: slice, row: int) -> Values:
    """Where the residual stream begins."""
    of_target = place.startswith("decoder.")
    tokens = run.target if of_target and run.target is not None else run.source
    if not of_target and hasattr(
        model, "source_steps"
    ):  # a model that hears: each vector is made of its neighbours too
        heard: Values = model.source_steps(tokens[row])
        return {name: value[queries] for name, value in heard.items()}
    ids = tokens[row][queries]
    positions = torch.arange(len(tokens[row]), device=ids.device)[queries]
    if hasattr(model, "embeddings"):
        segments = None if run.segments is None else tokens.with_values(run.segments)[row][queries]
        found: Values = model.embeddings.steps(ids, positions, segments)
        return found
    if hasattr(model.encoder if hasattr(model, "encoder") else None, "embedding"):  # ULMFiT
        return {"output": model.encoder.embedding(ids)}
    if hasattr(model, "embedding_steps"):
        steps: Values = model.embedding_steps(ids, positions, of_target)
        return steps
    lookup = model.lookup_target if of_target and hasattr(model, "lookup_target") else model.lookup
    looked_up = lookup(ids)
    if not hasattr(model, "positions"):
        return {"output": looked_up}
    return {"lookup": looked_up, **model.positions.steps(looked_up, positions)}


def _stack(model: Any, place: str) -> Any:
    return model.get_submodule(place.split(".")[0])


def _memory(run: Recording, row: int) -> Tensor:
    assert run.memory is not None
    return run.memory[row]


def _row_of(state: Any, row: int, device: torch.device) -> Any:
    """The state of one row of a recurrent layer; None where it began from zeros."""
    if state is None:
        return None
    return state[row : row + 1] if isinstance(state, Tensor) else state.select(torch.tensor([row], device=device))
