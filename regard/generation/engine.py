"""A model prepared to answer fast: its weights packed as int8 or bfloat16, each step of all layers one native call.

    engine = prepare(model, "int8")      # has start, step and state.select, as every model; and `best`
    search(engine, source, how)

What makes it fast: weights are read once a step, in the order they lie in; the cache is allocated once and never copied
(a beam knows by a table where the beams it comes from wrote); no logit of the vocabulary is stored where only the best
are asked for. Where there are no native kernels, or a part has no operations, the model itself answers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import RegardError
from regard.generation.matrices import Precision, checked_precision
from regard.generation.native import OperationStruct, library
from regard.generation.program import (
    MEMORY,
    Program,
    UnsupportedPartError,
    write_decoder,
    write_encoder,
    write_memories,
)
from regard.generation.running import Code, Room, run, run_over_texts
from regard.layers.positions import LearnedPositions, SinusoidalPositions, sinusoids
from regard.models.base import Model
from regard.models.decoder import DecoderModel
from regard.models.transformer import Transformer
from regard.models.whisper import Whisper
from regard.sequences import Sequences

_FIRST_ROOM = 64
"""Positions that a cache has room for at first."""


def prepare(model: Model, precision: str = "int8", threads: int | None = None) -> Engine | Model:
    """An engine for the model, or the model itself where none can be made (`isinstance(answer, Engine)` tells)."""
    chosen = checked_precision(precision)
    if library() is None or model.device.type != "cpu":
        return model
    from regard.generation.recurrent import RecurrentEngine  # which is an Engine

    for kind in (Engine, RecurrentEngine):
        try:
            with torch.no_grad():
                return kind(model, chosen, threads)
        except UnsupportedPartError:
            continue
    return model


class Engine:
    """Steps of a Transformer, T5, Whisper, GPT or Llama in native code."""

    def __init__(self, model: Model, precision: Precision, threads: int | None = None) -> None:
        self.model, self.threads, self.packs = model, threads, isinstance(model, Whisper)
        self.reader: Code | None = None
        decoder: Any = getattr(model, "decoder", None)
        if not isinstance(model, Transformer | DecoderModel):
            raise UnsupportedPartError(type(model).__name__)
        positions, packs = _longest(model), self.packs
        if isinstance(model, Transformer):
            reader = Program(precision, positions, packs)
            reader.buffer("x", model.config.width)
            write_encoder(reader, model.encoder.layers, getattr(model.encoder, "positions", None))
            reader.norm(model.encoder.norm, "x", "x")
            write_memories(reader, decoder.layers)
            self.reader = Code(reader)
        program = Program(precision, positions, packs)
        program.embed(model.embedding.weight, *_places(model, positions))
        program.norm(getattr(model, "target_embedding_norm", nn.Identity()), "x", "x")
        filling = write_decoder(program, decoder.layers, getattr(decoder, "positions", None))
        program.norm(decoder.norm, "x", "x")
        program.top(*_head(model))
        self.vocabulary = model.config.vocab_size
        self.best_code = Code(program)
        self.fill_code = Code(program, program.sealed(filling))
        last = program.logits()  # from here on the program has a buffer for them, which the others do without
        self.step_code = Code(program, (OperationStruct * len(program.operations))(*program.operations[:-1], last))
        self._rooms: list[Room] = []

    # --- what search knows of a model ---

    def start(self, source: Sequences) -> EngineState:
        """Encode the sources; or read all but the last token of each text that is to be gone on from."""
        rows = len(source)
        state = EngineState(self, self._room(), np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32))
        if self.reader is not None:
            self._read_sources(source, state)
            self._read_prompt(state)
        elif min(source.lengths, default=0) < 1:
            raise RegardError("a text to go on from needs at least one token")
        else:
            self._read_texts(source, state)
        return state

    def step(
        self, tokens: Int[Tensor, "rows"], state: EngineState
    ) -> tuple[Float[Tensor, "rows vocabulary"], EngineState]:
        """Logits after one more token in each row; the state grows by that position."""
        logits, state = self.extend(tokens[:, None], state)
        return logits[:, 0], state

    def extend(
        self, tokens: Int[Tensor, "rows count"], state: EngineState
    ) -> tuple[Float[Tensor, "rows count vocabulary"], EngineState]:
        """Logits after each of several more tokens a row, read at once; `state.cut` takes back those not wanted."""
        self._run(self.step_code, tokens, state)
        logits = state.room.buffers["logits"][: tokens.numel() * self.vocabulary]
        return logits.view(*tokens.shape, self.vocabulary).clone(), state

    @property
    def config(self) -> Any:
        return self.model.config

    def best(
        self, tokens: Int[Tensor, "rows"], state: EngineState, count: int, forbidden: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"], EngineState]:
        """Log-probabilities of the `count` most probable next tokens of each row, and these tokens.

        Forbidden tokens are not among them; the others keep their probability.
        """
        rows = len(tokens)
        values, found = torch.empty(rows, count), torch.empty(rows, count, dtype=torch.long)
        normalisers = torch.empty(rows)
        banned = np.asarray(sorted(forbidden), dtype=np.int64)
        pointers = {"top_values": values, "top_tokens": found, "normalisers": normalisers}
        call = {name: tensor.data_ptr() for name, tensor in pointers.items()}
        call |= {"top": count, "forbidden": banned.ctypes.data, "forbidden_count": len(banned)}
        self._run(self.best_code, tokens[:, None], state, **call)
        return values - normalisers[:, None], found, state

    def with_threads(self, threads: int) -> Engine:
        """The same engine, with the same weights, that takes so many threads a step."""
        other = copy.copy(self)
        other.threads = threads
        return other

    # --- running ---

    def _run(self, code: Code, tokens: Int[Tensor, "rows count"], state: EngineState, **call: int) -> None:
        """Read `count` more tokens of every row."""
        count = tokens.shape[1]
        if count > 1 and state.table is not None:
            raise RegardError("beams read one token at a time")
        state.make_room(state.length + count)
        table = state.table
        places = (state.positions[:, None] + np.arange(count, dtype=np.int32)).flatten()
        slots, families = np.repeat(state.slots, count), np.repeat(state.families, count)
        if state.sources is not None:
            families = 2 * families  # native code reads where the source of family f begins and ends at f and f + 1
            call["sources"] = state.sources.ctypes.data
        call["families"] = families.ctypes.data
        if table is not None:
            call |= {"table": table.ctypes.data, "table_stride": table.shape[1]}
        self._call(code, state, tokens.flatten(), places, slots, **call)
        state.positions = state.positions + np.int32(count)

    def _call(
        self,
        code: Code,
        state: EngineState,
        tokens: Tensor,
        positions: Int[np.ndarray, "rows"],
        slots: Int[np.ndarray, "rows"],
        **call: int,
    ) -> None:
        tokens = tokens.long().contiguous()
        call |= {"tokens": tokens.data_ptr(), "slots": slots.ctypes.data}
        run(code, state.room, positions, self.threads, state.memories, **call)

    def _read_sources(self, source: Sequences, state: EngineState) -> None:
        """The encoder, and the keys and values of its memory for every layer of the decoder."""
        assert isinstance(self.model, Transformer)
        assert self.reader is not None
        layout = source.layout
        lengths = np.asarray(layout.lengths, np.int32)
        taken = -(-lengths // 32) * 32 if self.packs else lengths  # packed: filled up to whole tiles
        tokens, begins = int(taken.sum()), np.cumsum(taken) - taken
        state.sources = np.stack([begins, begins + lengths], axis=1).astype(np.int32)
        state.memories = {
            name: torch.empty(tokens * width) for name, width in self.reader.widths.items() if name.startswith(MEMORY)
        }
        with torch.inference_mode():
            embedded = self.model.embed(source).values
        run_over_texts(self.reader, state.room, embedded, layout, self.threads, state.memories)

    def _read_prompt(self, state: EngineState) -> None:
        """Fill the caches with all but the last token of what every answer begins with (Whisper)."""
        prompt = getattr(self.model.config, "prompt", ())[:-1]
        if prompt:
            self._run(self.fill_code, torch.tensor([prompt] * len(state.families)), state)

    def _read_texts(self, texts: Sequences, state: EngineState) -> None:
        """Fill the caches with all but the last token of each text."""
        lengths = np.asarray(texts.lengths, dtype=np.int32) - 1
        state.make_room(int(lengths.max()) + 1)
        state.positions = lengths
        if not lengths.any():
            return
        tokens = torch.cat([row[:-1] for row in texts])
        places = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        slots = np.repeat(state.slots, lengths)
        self._call(self.fill_code, state, tokens, places, slots)

    def _room(self) -> Room:
        return self._rooms.pop() if self._rooms else Room(self.best_code.caches)

    def give_back(self, room: Room) -> None:
        """Keep the memory of a search that is over for the next one: fresh memory costs more than the work in it."""
        if len(self._rooms) < 4:
            self._rooms.append(room)


@dataclass
class EngineState:
    """Where each row stands, and which places of the caches hold its past.

    Row r of family f (the rows of one source) writes into slot f * capacity + its number within the family. All rows
    of a family are at the same position, so none writes over what another one still looks at.
    """

    engine: Engine
    room: Room
    positions: Int[np.ndarray, "rows"]
    families: Int[np.ndarray, "rows"]
    capacity: int = 1
    """Slots of a family: as many as it has ever had rows."""
    table: Int[np.ndarray, "rows length"] | None = None
    """For each row the slot of each earlier position; None while a family has one row."""
    memories: dict[str, Tensor] = field(default_factory=dict)
    sources: Int[np.ndarray, "families 2"] | None = None
    """Where each source begins and ends in the memories."""
    slots: Int[np.ndarray, "rows"] = field(init=False)
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.slots = self.families.copy()
        self.count = int(self.families.max(initial=-1)) + 1
        self.owner = Owner(self.engine, self.room)

    def make_room(self, length: int) -> None:
        """Caches long enough for so many positions."""
        slots, room = self.count * self.capacity, self.room
        if room.length >= length and room.slots >= slots and room.caches:
            if self.table is not None and self.table.shape[1] < room.length:
                self.table = _wider(self.table, room.length)
            return
        used, before = self.length, min(room.slots, slots)
        old = room.make_caches(max(slots, room.slots), max(_FIRST_ROOM, room.length, 1 << (length - 1).bit_length()))
        if used:
            for cache, past in zip(room.caches, old, strict=True):
                cache[:before, :used] = past[:before, :used]
        if self.table is not None:
            self.table = _wider(self.table, room.length)

    @property
    def length(self) -> int:
        """Positions read so far, of the longest row."""
        return int(self.positions.max(initial=0))

    def cut(self, length: int) -> None:
        """Forget what was read after the first `length` positions."""
        self.positions = self.positions - np.int32(self.length - length)

    def select(self, rows: Int[Tensor, "chosen"]) -> EngineState:
        """The state of the chosen rows, in that order; a row may be chosen more than once."""
        chosen = rows.numpy()
        families = self.families[chosen]
        number = _number_within(families)
        capacity = int(number.max(initial=0)) + 1
        if capacity > self.capacity:
            self._widen(capacity)
        new = copy.copy(self)
        new.positions, new.families = self.positions[chosen], families
        if new.capacity > 1:
            assert self.table is not None
            new.table = self.table[chosen]
            new.slots = (families * new.capacity + number).astype(np.int32)
        else:
            new.slots = families
        return new

    def _widen(self, capacity: int) -> None:
        """Give every family more slots: what was read so far moves to the first of them."""
        before, used, room = self.capacity, self.length, self.room
        self.capacity = capacity
        length = max(room.length, _FIRST_ROOM)
        if used or room.slots < self.count * capacity:
            old, had = room.make_caches(max(room.slots, self.count * capacity), length), self.count * before
            for cache, past in zip(room.caches, old, strict=True) if used else ():
                groups = cache[: self.count * capacity].view(self.count, capacity, length, -1)
                groups[:, :before, :used] = past[:had].view(self.count, before, past.shape[1], -1)[:, :, :used]
        self.slots = (self.slots // before * capacity + self.slots % before).astype(np.int32)
        if self.table is None:
            self.table = np.repeat(self.slots[:, None], length, axis=1)
        else:
            self.table = (self.table // before * capacity + self.table % before).astype(np.int32)


class Owner:
    """Gives the room back when the last state that uses it is gone."""

    def __init__(self, engine: Engine, room: Room) -> None:
        self.engine, self.room = engine, room

    def __del__(self) -> None:
        self.engine.give_back(self.room)


def _wider(table: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([table, np.zeros((len(table), length - table.shape[1]), np.int32)], axis=1)


def _number_within(families: np.ndarray) -> np.ndarray:
    """Of each row how many rows of the same family stand before it."""
    order = np.argsort(families, kind="stable")
    ordered = families[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else ordered
    lengths = np.diff(np.append(starts, len(ordered)))
    number = np.empty_like(families)
    number[order] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return number


# --- what differs between the systems ---------------------------------------------------------------------------------


def _longest(model: Model) -> int:
    """Positions that the model's tables must have."""
    for name in ("max_position_embeddings", "n_positions"):
        if hasattr(model.config, name):
            return int(getattr(model.config, name)) + 1
    raise UnsupportedPartError(type(model).__name__)


def _places(model: Model, longest: int) -> tuple[float, Tensor | None, int]:
    """What embeddings are multiplied by, the vectors of positions, and how many of these stand before position 0."""
    factor = math.sqrt(model.config.d_model) if getattr(model.config, "scale_embedding", False) else 1.0
    part = getattr(model, "target_positions", getattr(model, "positions", None))
    if part is None:
        return factor, None, 0
    if isinstance(part, LearnedPositions):
        return factor, part.table.weight, part.first
    if isinstance(part, SinusoidalPositions):
        return factor, sinusoids(longest, part.width, part.in_turn), 0
    raise UnsupportedPartError(type(part).__name__)


def _head(model: Transformer | DecoderModel) -> tuple[Tensor, Tensor | None, float]:
    """The matrix that makes logits of the last hidden state, its bias, and a factor."""
    own = getattr(model, "output", None)
    tied = own is None and model.config.model_type == "t5"  # scores of a T5 with one matrix are divided by sqrt(D)
    weight = (own or model.embedding).weight
    return weight, getattr(model, "output_bias", None), model.config.d_model**-0.5 if tied else 1.0
