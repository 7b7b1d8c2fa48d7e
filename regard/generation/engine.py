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
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import RegardError
from regard.generation.engine_state import FIRST_ROOM, EngineState
from regard.generation.memories import TILE, Memories
from regard.generation.program import (
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
from regard.native import OperationStruct, library
from regard.native.matrices import Precision, checked_precision
from regard.sequences import Sequences


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
        memories = None if self.reader is None else Memories(self.reader.widths, TILE if self.packs else 1)
        state = EngineState(
            self, self._room(), np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32), memories=memories
        )
        self._read(source, state)
        return state

    def join(self, source: Sequences, state: EngineState) -> EngineState:
        """The same in the memory of a search that is under way, where rows have left it; `state.beside` joins both."""
        new = state.begin(source.lengths)
        self._read(source, new)
        if new.capacity > 1:
            new.table = np.repeat(new.slots[:, None], max(new.room.length, FIRST_ROOM), axis=1)
        return new

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
        self, tokens: Int[Tensor, "rows"], state: Any, count: int, forbidden: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"], Any]:
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
        memories = None if state.memories is None else state.memories.tensors
        if state.memories is not None:
            families = 2 * families  # native code reads where the source of family f begins and ends at f and f + 1
            call["sources"] = state.memories.spans.ctypes.data
        call["families"] = families.ctypes.data
        if table is not None:
            call |= {"table": table.ctypes.data, "table_stride": table.shape[1]}
        self._call(code, state, tokens.flatten(), places, slots, memories, **call)
        state.positions = state.positions + np.int32(count)
        state.room.used = max(state.room.used, state.length)

    def _call(
        self,
        code: Code,
        state: EngineState,
        tokens: Tensor,
        positions: Int[np.ndarray, "rows"],
        slots: Int[np.ndarray, "rows"],
        memories: dict[str, Tensor] | None = None,
        **call: int,
    ) -> None:
        tokens = tokens.long().contiguous()
        call |= {"tokens": tokens.data_ptr(), "slots": slots.ctypes.data}
        run(code, state.room, positions, self.threads, memories, **call)

    def _read(self, source: Sequences, state: EngineState) -> None:
        if self.reader is not None:
            self._read_sources(source, state)
            self._read_prompt(state)
        elif min(source.lengths, default=0) < 1:
            raise RegardError("a text to go on from needs at least one token")
        else:
            self._read_texts(source, state)

    def _read_sources(self, source: Sequences, state: EngineState) -> None:
        """The encoder, and the keys and values of its memory for every layer of the decoder."""
        assert isinstance(self.model, Transformer)
        assert self.reader is not None
        assert state.memories is not None
        layout = source.layout
        found = state.memories.empty_for(layout.lengths)
        with torch.inference_mode():
            embedded = self.model.embed(source).values
        run_over_texts(self.reader, state.room, embedded, layout, self.threads, found)
        state.memories.put(state.families, layout.lengths, found, state.neighbours)

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
        state.room.used = max(state.room.used, state.length)

    def _room(self) -> Room:
        room = self._rooms.pop() if self._rooms else Room(self.best_code.caches)
        room.used = 0
        return room

    def give_back(self, room: Room) -> None:
        """Keep the memory of a search that is over for the next one: fresh memory costs more than the work in it."""
        if len(self._rooms) < 4:
            self._rooms.append(room)


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
