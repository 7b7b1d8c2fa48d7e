"""Steps of fixed shapes, which can be recorded once and replayed: how a model generates on a GPU.

    static = prepare_static(model, "bf16", "graph")  # has start, step and extend, as every model; select on its state
    search(static, source, how)

A model's own step asks for each operation from Python, and its caches grow: on a GPU the asking takes longer than the
work. Here keys and values lie in caches that are allocated once, each row stands at a position of its own, and a step
reads and writes tensors that never move (`room.py`). Sources and prompts are read by the model itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attention import MultiHeadAttention
from regard.errors import RegardError
from regard.generation.float8 import Float8Linear, check_float8
from regard.generation.room import Capture, Parts, Room, Shape
from regard.key_value_cache import KeyValueCache
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.layers.positions import LearnedPositions
from regard.models.base import Model
from regard.models.decoder import DecoderModel, TextState
from regard.models.transformer import Transformer
from regard.sequences import Sequences

StaticPrecision = Literal["fp32", "bf16", "fp8"]

_IDLE_ROOMS = 8
"""Rooms kept for later searches: each holds caches, and a captured step."""


def prepare_static(model: Model, precision: str = "fp32", capture: str | None = None) -> Static | Model:
    """Steps of fixed shapes, by default recorded where there is a GPU; the model itself where it has no attention."""
    check_static(model, precision, capture)
    if not isinstance(model, Transformer | DecoderModel):
        return model
    return Static(model, precision, capture or ("graph" if model.device.type == "cuda" else "none"))


def check_static(model: Model, precision: str = "fp32", capture: str | None = None) -> None:
    """RegardError for a precision or a way to capture that is none, or not for this model or its device."""
    for name, given, known in (("precision", precision, StaticPrecision), ("capture", capture, Capture)):
        if given is not None and given not in get_args(known):
            raise RegardError(f"{name} of captured steps is one of {', '.join(get_args(known))}, not {given!r}")
    if capture == "graph" and model.device.type != "cuda":
        raise RegardError(f"capture graph is for a model on a CUDA device, not on {model.device}: leave it out")
    if precision == "fp8":
        check_float8(model.device)
    if capture is not None and not isinstance(model, Transformer | DecoderModel):
        raise RegardError(f"capture is for Transformers, T5, GPT and Llama: a {type(model).__name__} has no such steps")


class Static:
    """What search knows of a model, over rooms: buffers of one shape with the step that works in them."""

    def __init__(self, model: Model, precision: str, capture: str) -> None:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        reader: Any = model if precision == "fp32" else _copied(model, dtype)
        decoder = _stepping(reader.decoder, dtype, precision == "fp8")
        self.model, self.parts = model, Parts(reader, decoder, dtype, capture)
        self._idle: list[Room] = []

    @property
    def config(self) -> Any:
        return self.model.config

    @torch.inference_mode()
    def start(self, source: Sequences) -> StaticState:
        """Encode the sources; or read all but the last token of each text that is to be gone on from."""
        own = self.parts.model.start(source)
        texts, rows = isinstance(own, TextState), len(source)
        lengths = [length - 1 for length in source.lengths] if texts else [0] * rows
        memory = 0 if texts else max(1, own.memory_caches[0].length)
        room = self.room((_rounded(rows), 1, _rounded(max(lengths) + 1, 64), _rounded(memory, 16)))
        room.positions[:rows] = torch.tensor(lengths, device=room.device)
        if texts and own.length:
            for kept, cache in zip(room.past, own.caches, strict=True):
                kept[:, :rows, :, 0, : own.length] = _from_the_left(cache, own.missing)
        elif not texts:
            for kept, cache in zip(room.memories, own.memory_caches, strict=True):
                kept[:, :rows, :, :memory] = torch.stack([cache.keys, cache.values])
            hidden = own.memory_mask
            room.memory_bias[:rows, :, :, :memory] = 0.0 if hidden is None else hidden.bias(self.parts.dtype)
        return StaticState(self, room, list(range(rows)), lengths)

    def step(
        self, tokens: Int[Tensor, "rows"], state: StaticState
    ) -> tuple[Float[Tensor, "rows vocabulary"], StaticState]:
        """Logits after one more token in each row; the state grows by that position."""
        logits, state = self.extend(tokens[:, None], state)
        return logits[:, 0], state

    @torch.inference_mode()
    def extend(
        self, tokens: Int[Tensor, "rows count"], state: StaticState
    ) -> tuple[Float[Tensor, "rows count vocabulary"], StaticState]:
        """Logits after each of several more tokens a row, read at once; `state.cut` takes back those not wanted."""
        count = tokens.shape[1]
        state.make_room(count)
        room, rows = state.room, state.rows()
        logits = room.run(rows, tokens).index_select(0, rows).float()
        state.move_on(count)
        return logits, state

    def room(self, shape: Shape) -> Room:
        """A room of this shape, all zero: one that was used before, with its captured step, where there is one."""
        for place, room in enumerate(self._idle):
            if room.shape == shape:
                return self._idle.pop(place).cleared()
        return Room(self.parts, shape)

    def give_back(self, room: Room) -> None:
        """Keep a room that nobody works in any more for a later search."""
        self._idle = [*self._idle[1 - _IDLE_ROOMS :], room]


@dataclass
class StaticState:
    """Where each row stands. A state that others were selected from is over."""

    static: Static
    room: Room
    slots: list[int]
    """For each row, its place in the room."""
    lengths: list[int]
    """Of each source in the room, how many positions were read."""
    _lease: _Lease = field(init=False)
    _rows: Tensor | None = None

    def __post_init__(self) -> None:
        self._lease = _Lease(self.static, self.room)

    @property
    def length(self) -> int:
        """Positions read so far, of the longest row."""
        return max((self.lengths[slot // self.room.shape[1]] for slot in self.slots), default=0)

    def rows(self) -> Int[Tensor, "rows"]:
        """The slots, on the device."""
        if self._rows is None:
            self._rows = torch.tensor(self.slots, dtype=torch.long, device=self.room.device)
        return self._rows

    def move_on(self, count: int) -> None:
        self.lengths = [length + count for length in self.lengths]
        self.room.positions += count

    @torch.inference_mode()
    def cut(self, length: int) -> None:
        """Forget what was read after the first `length` positions."""
        self.move_on(length - self.length)

    def make_room(self, count: int) -> None:
        """Caches long enough for so many positions more."""
        needed, (_, beams, length, _) = self.length + count, self.room.shape
        part = self.static.parts.positions
        longest = part.table.num_embeddings - part.first if isinstance(part, LearnedPositions) else needed
        if needed > longest:
            raise RegardError(f"a text of {needed} tokens is too long: the model takes {longest}")
        if needed > length:
            self._move(list(dict.fromkeys(slot // beams for slot in self.slots)), beams, _rounded(needed))

    @torch.inference_mode()
    def select(self, rows: Int[Tensor, "chosen"]) -> StaticState:
        """The state of the chosen rows, in that order; a row may be chosen more than once."""
        new, beams = copy.copy(self), self.room.shape[1]
        new.slots, new._rows = [self.slots[row] for row in rows.tolist()], None
        counts = Counter(slot // beams for slot in new.slots)
        if max(counts.values()) > beams or 2 * len(counts) <= self.room.shape[0]:
            beams = max(beams, *counts.values())
            new._move(list(counts), beams, self.room.shape[2])
        chosen, seen = new.slots, Counter[int]()
        new.slots = []
        for slot in chosen:
            source = slot // beams
            new.slots.append(source * beams + seen[source])
            seen[source] += 1
        if new.slots != chosen:
            table = new.room.table.flatten(0, 1)
            table[new.rows()] = table[torch.tensor(chosen, device=table.device)]
        return new

    def _move(self, sources: list[int], beams: int, length: int) -> None:
        """To a room of another shape, with these sources alone."""
        old, count = self.room, len(sources)
        _, before, room, memory = old.shape
        new = self.static.room((_rounded(count), beams, length, memory))
        used, chosen = min(max(self.lengths), room), torch.tensor(sources, device=old.device)
        for ours, theirs in zip(new.past, old.past, strict=True):
            ours[:, :count, :, :before, :used] = theirs[:, chosen, :, :, :used]
        for ours, theirs in zip(new.memories, old.memories, strict=True):
            ours[:, :count] = theirs[:, chosen]
        new.memory_bias[:count] = old.memory_bias[chosen]
        new.table[:count, :before, :used] = old.table[chosen, :, :used]
        new.positions[:count] = old.positions[chosen]
        place = {source: number for number, source in enumerate(sources)}
        self.slots = [place[slot // before] * beams + slot % before for slot in self.slots]
        self.lengths, self._rows = [self.lengths[source] for source in sources], None
        self.room, self._lease = new, _Lease(self.static, new)


class _Lease:
    """Gives the room back when the last state that works in it is gone."""

    def __init__(self, static: Static, room: Room) -> None:
        self.static, self.room = static, room

    def __del__(self) -> None:
        self.static.give_back(self.room)


# --- preparing --------------------------------------------------------------------------------------------------------


def _copied(part: nn.Module, dtype: torch.dtype) -> Any:
    """A copy with weights in this dtype; those that are so already are shared."""
    weights = {id(one): one for one in (*part.parameters(), *part.buffers()) if one.is_floating_point()}
    memo: dict[int, Any] = {
        key: one if one.dtype == dtype else nn.Parameter(one.detach().to(dtype), requires_grad=False)
        for key, one in weights.items()
    }
    return copy.deepcopy(part, memo)


def _stepping(decoder: nn.Module, dtype: torch.dtype, in_float8: bool) -> Any:
    """The decoder as its steps need it: cross-attention asks alone, its keys and values being there."""
    found = _copied(decoder, dtype)
    for layer in found.layers:
        assert isinstance(layer, EncoderLayer | DecoderLayer)
        if isinstance(layer, DecoderLayer):
            layer.cross_attention.projection = _asking(layer.cross_attention)
        for part in list(layer.modules()) if in_float8 else ():
            for name, leaf in part.named_children():
                if isinstance(leaf, nn.Linear):
                    setattr(part, name, Float8Linear(leaf))
    return found


def _asking(part: MultiHeadAttention) -> nn.Linear:
    """The rows of the projection that make queries."""
    weight, bias, width = part.projection.weight, part.projection.bias, part.query_width
    found = nn.Linear(weight.shape[1], width, bias is not None, device="meta")
    found.weight = nn.Parameter(weight[:width].detach(), requires_grad=False)
    if bias is not None:
        found.bias = nn.Parameter(bias[:width].detach(), requires_grad=False)
    return found


def _from_the_left(cache: KeyValueCache, missing: Int[Tensor, "rows"] | None) -> Float[Tensor, "2 rows heads length k"]:
    """Keys and values of texts that a model's own cache has at its right end."""
    pairs = torch.stack([cache.keys, cache.values])
    if missing is None:
        return pairs
    places = (torch.arange(cache.length, device=missing.device) + missing[:, None]).clamp_max(cache.length - 1)
    return pairs.gather(3, places[None, :, None, :, None].expand_as(pairs))


def _rounded(count: int, least: int = 1) -> int:
    """Up to a power of two, so that few shapes serve all; nothing stays nothing."""
    return max(least, 1 << (count - 1).bit_length()) if count else 0
