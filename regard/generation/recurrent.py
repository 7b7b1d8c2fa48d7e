"""Recurrent systems prepared to answer fast: the engine for LSTM and GRU (Seq2Seq, RNNSearch, AWD-LSTM).

As in engine.py each step through all layers is one native call, and weights are packed. The state of a row is one array
of numbers; rows may change places, be taken more than once and be joined by others at any time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.generation.engine import Engine
from regard.generation.engine_state import Owner
from regard.generation.program import Program, UnsupportedPartError
from regard.generation.recurrent_program import KEYS, VALUES, gru_of, write_attentive_layer, write_gru, write_lstm
from regard.generation.running import Code, Room, run
from regard.layers.recurrence import Bidirectional
from regard.layers.time_order import TimeOrder
from regard.models.base import Model
from regard.models.rnnsearch import RNNSearch
from regard.models.seq2seq import Seq2Seq
from regard.models.ulmfit import AwdLstm
from regard.native import OperationStruct
from regard.native.matrices import Precision
from regard.sequences import Sequences

_READ_AT_ONCE = 2048
"""Tokens of sources and texts read in one call: their gates have to lie in memory."""


class RecurrentEngine(Engine):
    """Steps of a Seq2Seq, RNNSearch or AWD-LSTM in native code."""

    extend: Any = None  # they read one token at a time; None says so to whom it may concern (Extendable)

    def __init__(self, model: Model, precision: Precision, threads: int | None = None) -> None:
        self.model, self.threads, self.reader = model, threads, None
        program = Program(precision, 0)
        self.readers: list[tuple[Code, bool]] = []
        """Programs that read the source, and whether from its end."""
        if isinstance(model, Seq2Seq):
            layers = model.encoder.layers
            self.readers = [
                (_reader(model, precision, lambda one: write_lstm(one, layers)), model.config.reverse_source)
            ]
            program.embed((model.target_embedding or model.embedding).weight, 1.0, None)
            write_lstm(program, model.decoder.layers)
            head: tuple[Tensor, Tensor | None] = model.output.weight, model.output.bias
        elif isinstance(model, RNNSearch):
            both = model.encoder.layers[0]
            assert isinstance(both, Bidirectional)
            ahead, back = gru_of(both.ahead), gru_of(both.back)
            self.readers = [(_reader(model, precision, lambda one: write_gru(one, ahead)), False)]
            self.readers.append((_reader(model, precision, lambda one: write_gru(one, back)), True))
            program.embed((model.target_embedding or model.embedding).weight, 1.0, None)
            write_attentive_layer(program, model.decoder.layer)
            head = model.output.weight, model.output.bias
        elif isinstance(model, AwdLstm):
            program.embed(model.encoder.embedding.weight, 1.0, None)
            write_lstm(program, model.encoder.layers)
            own = model.encoder.embedding.weight if model.output_weight is None else model.output_weight
            head = own, model.output_bias
        else:
            raise UnsupportedPartError(type(model).__name__)
        self.fill_code = Code(program)
        program.top(*head, 1.0)
        self.vocabulary = len(head[0])
        self.best_code = Code(program)
        last = program.logits()
        self.step_code = Code(program, (OperationStruct * len(program.operations))(*program.operations[:-1], last))
        self._rooms: list[Room] = []

    def start(self, source: Sequences) -> RecurrentState:  # type: ignore[override]
        """Read the sources; or all but the last token of each text that is to be gone on from."""
        texts = isinstance(self.model, AwdLstm)
        if min(source.lengths, default=0) < 1:
            raise RegardError(f"{'a text to go on from' if texts else 'a source'} needs at least one token")
        room, families = self._room(), np.arange(len(source), dtype=np.int32)
        with torch.inference_mode():
            if isinstance(self.model, RNNSearch):
                values, memories, spans = self._heard(self.model, source, room)
                return RecurrentState(self, room, values, families, families, memories, spans)
            read = Sequences.of([row[:-1] for row in source]) if texts else source
            code, reverse = (self.fill_code, False) if texts else self.readers[0]
            time = TimeOrder.of(read.layout, reverse)
            values, _ = self._read_through(code, time, read.values, room)
            return RecurrentState(self, room, values, time.ranks.numpy().astype(np.int32), families)

    def join(self, source: Sequences, state: RecurrentState) -> RecurrentState:  # type: ignore[override]
        """The same while a search is under way; `state.beside` makes one state of both."""
        return self.start(source)

    def step(  # type: ignore[override]
        self, tokens: Int[Tensor, "rows"], state: RecurrentState
    ) -> tuple[Float[Tensor, "rows vocabulary"], RecurrentState]:
        """Logits after one more token in each row."""
        self._run(self.step_code, tokens[:, None], state)
        logits = state.room.buffers["logits"][: len(tokens) * self.vocabulary]
        return logits.view(len(tokens), self.vocabulary).clone(), state

    # --- running ---

    def _run(self, code: Code, tokens: Int[Tensor, "rows 1"], state: RecurrentState, **call: int) -> None:  # type: ignore[override]
        """Read one more token of every row."""
        rows = len(tokens)
        families = 2 * state.families  # native code reads where the source of family f begins and ends at f and f + 1
        call["families"] = families.ctypes.data
        if state.sources is not None:
            call["sources"] = state.sources.ctypes.data
        new = torch.empty(rows, code.caches[0])
        self._pass(
            code, state.room, tokens.flatten(), [rows], (state.values, state.origins), new, state.memories, **call
        )
        state.values, state.origins = new, np.arange(rows, dtype=np.int32)

    def _pass(
        self,
        code: Code,
        room: Room,
        tokens: Int[Tensor, "tokens"],
        rows_at: Sequence[int],
        before: tuple[Tensor, Int[np.ndarray, "rows"]] | None,
        after: Float[Tensor, "rows size"],
        memories: dict[str, Tensor] | None = None,
        **call: int,
    ) -> None:
        """Read tokens in order of time, from the states `before` (which of them each row goes on from) to `after`."""
        tokens, times = tokens.long().contiguous(), np.asarray(rows_at, np.int32)
        room.cache_pointers[1] = after.data_ptr()
        if before is not None:
            room.cache_pointers[0] = before[0].data_ptr()
            call["slots"] = before[1].ctypes.data
        call |= {"tokens": tokens.data_ptr(), "rows_at": times.ctypes.data, "times": len(times), "states": len(after)}
        run(code, room, np.zeros(len(tokens), np.int32), self.threads, memories, **call)

    def _read_through(
        self, code: Code, time: TimeOrder, tokens: Int[Tensor, "tokens"], room: Room, kept: int = 0
    ) -> tuple[Float[Tensor, "rows size"], Float[Tensor, "tokens kept"]]:
        """States after the last token of each row, longer rows first; the last layer's hidden states, if so wide."""
        rows, ordered, begin = len(time.rows), tokens[time.order], 0
        values = torch.zeros(rows, code.caches[0])
        hidden, all_rows = torch.empty(len(tokens), kept), np.arange(rows, dtype=np.int32)
        for sizes in _portions(time.sizes):
            end, new = begin + sum(sizes), torch.empty_like(values)
            self._pass(code, room, ordered[begin:end], sizes, (values, all_rows), new)
            hidden[begin:end] = room.buffers["x"][: (end - begin) * kept].view(end - begin, kept)
            values, begin = new, end
        return values, hidden

    def _heard(
        self, model: RNNSearch, source: Sequences, room: Room
    ) -> tuple[Float[Tensor, "rows size"], dict[str, Tensor], Int[np.ndarray, "rows 2"]]:
        """The first states; what both readers know at each token and the keys made of it; where each source lies."""
        layer, sides = model.decoder.layer, []
        for code, reverse in self.readers:
            time = TimeOrder.of(source.layout, reverse)
            _, hidden = self._read_through(code, time, source.values, room, model.config.hidden_size)
            sides.append(hidden[time.places])
        offsets, values = source.layout.offsets, torch.cat(sides, dim=1)
        spans = torch.stack([offsets[:-1], offsets[1:]], dim=1).numpy().astype(np.int32)
        first = layer.initial(sides[1][offsets[:-1]]).tanh()
        return first, {KEYS: layer.attention.key(values), VALUES: values}, spans


@dataclass
class RecurrentState:
    """What was read so far: for each row one of the states in `values`, and the source that it looks at."""

    engine: RecurrentEngine
    room: Room
    values: Float[Tensor, "states size"]
    origins: Int[np.ndarray, "rows"]
    families: Int[np.ndarray, "rows"]
    memories: dict[str, Tensor] = field(default_factory=dict)
    sources: Int[np.ndarray, "families 2"] | None = None
    """Where each source begins and ends in the memories."""
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self.engine, self.room)

    def select(self, rows: Int[Tensor, "chosen"]) -> RecurrentState:
        """The state of the chosen rows, in that order; a row may be chosen more than once."""
        new, chosen = copy.copy(self), rows.numpy()
        new.origins, new.families = self.origins[chosen], self.families[chosen]
        return new

    def beside(self, other: RecurrentState) -> RecurrentState:
        """One state of both, these rows first. Sources that nobody looks at any more are forgotten."""
        new, both = copy.copy(self), (self, other)
        new.values = torch.cat([one.values[torch.from_numpy(one.origins).long()] for one in both])
        new.origins = np.arange(len(new.values), dtype=np.int32)
        living = [np.unique(one.families, return_inverse=True) for one in both]
        count = len(living[0][0])
        new.families = np.concatenate([living[0][1], living[1][1] + count]).astype(np.int32)
        spans = [
            (one, *one.sources[family])
            for one, (kept, _) in zip(both, living, strict=True)
            if one.sources is not None
            for family in kept
        ]
        if not spans:
            return new
        for name in self.memories:
            new.memories = {**new.memories, name: torch.cat([one.memories[name][a:b] for one, a, b in spans])}
        ends = np.cumsum([b - a for _, a, b in spans])
        new.sources = np.stack([np.append(0, ends[:-1]), ends], axis=1).astype(np.int32)
        return new


def _reader(model: Seq2Seq | RNNSearch, precision: Precision, write: Any) -> Code:
    """A program that reads sources."""
    program = Program(precision, 0)
    program.embed(model.embedding.weight, 1.0, None)
    write(program)
    return Code(program)


def _portions(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Times one after the other, so many that their tokens can be read at once."""
    portion: list[int] = []
    for size in sizes:
        if portion and sum(portion) + size > _READ_AT_ONCE:
            yield portion
            portion = []
        portion.append(size)
    if portion:
        yield portion
