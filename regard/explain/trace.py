"""A lazy trace: one fast run that keeps what enters each layer, and recomputes everything else when asked.

Any intermediate value is found from the residual stream by the same modules' `steps`, for one query or for all, and has
its place as its name; of attention any rows, columns and regions:

    >>> trace = regard.load("en-fr").trace(["Python executes quickly"])
    >>> trace["encoder.layers.0.self_attention.weights"]     # (heads, queries, keys)
    >>> trace.weights(layer=3, head=2, queries=slice(0, 1))  # (1, keys)
    >>> trace.weights(layer=4, head=0, kind="cross")         # a translator's look at its source
    >>> trace.embedding("Python", layer=6)                   # after six layers: (width,)

In every system a stack that sees both sides is called `encoder`, one that only sees what came before `decoder`. Layers
and heads count from 0; `hidden` and `embedding` count how many layers were passed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.attention import MultiHeadAttention
from regard.errors import RegardError, unknown
from regard.explain.attention_view import EVERY, AttentionView, Map
from regard.explain.cache import Cache, Values
from regard.explain.heads import head_places
from regard.explain.parts import entering_cross_attention, part_steps, run_layer
from regard.explain.recording import Recording, record
from regard.explain.words import Word, find_word, join_rows, words_of
from regard.modalities.text import Piece
from regard.models.base import Model
from regard.sequences import Sequences

Kind = Literal["encoder", "decoder", "cross"]
"""Which attention: the encoder's or decoder's own, or the decoder's to the memory."""
Side = Literal["source", "target", "produced"]
"""Whose tokens: those read; the decoder's input, which begins with a start token; its answer, the end included."""
MEMORY_BOUND = 256 * 2**20
"""Bytes of results that a trace keeps, unless told otherwise."""


class Trace:
    """What one run of a model left, and everything that follows from it.

    A translator runs over `source` and `target`, every other model over `source` alone (with `segments`, if it knows
    them). `pieces` tell how tokens read, by side and row, so that words can be asked for. `memory_bound`: how many
    bytes of results are kept for the next question, and how many a question may work on at once.
    """

    def __init__(
        self,
        model: Model | None,
        source: Sequences,
        target: Sequences | None = None,
        segments: Int[Tensor, "tokens"] | None = None,
        pieces: dict[Side, list[list[Piece]]] | None = None,
        memory_bound: int = MEMORY_BOUND,
        recording: Recording | None = None,
    ) -> None:
        self._model = model
        self.run = record(self.model, source, target, segments) if recording is None else recording
        self.pieces: dict[Side, list[list[Piece]]] = pieces or {}
        self.cache = Cache(memory_bound)
        self.spell: Callable[[int], str] = str
        """How a token that the model answers reads, where a tokenizer is at hand."""
        self.spell_source: Callable[[int], str] = str
        """The same of the tokens that it reads."""
        self.texts: list[str] | None = None
        """The texts as they were given."""
        self.prompts: list[int] | None = None
        """Of texts that a language model went on from: how many tokens were given."""

    # What was run.

    @property
    def model(self) -> Any:
        """The model; RegardError in a trace that was loaded without one."""
        if self._model is None:
            raise RegardError("this was not computed before the trace was saved: load the trace with its model")
        return self._model

    @property
    def source(self) -> Sequences:
        return self.run.source

    @property
    def target(self) -> Sequences | None:
        return self.run.target

    @property
    def memory(self) -> Sequences | None:
        """Of translators, what the encoder gave."""
        return self.run.memory

    @property
    def output(self) -> Sequences:
        """What the last layer gave, through the last norm where there is one."""
        return self.run.output

    @property
    def layers(self) -> list[str]:
        """The layers that were run, from the first up."""
        return self.run.layers

    def stack(self, side: Literal["encoder", "decoder"] | None = None) -> list[str]:
        """The layers of one stack; by default of the one that reads the source."""
        found = [place for place in self.layers if place.startswith(side or self.layers[0].split(".")[0])]
        if not found:
            raise RegardError(f"this model has no {side}: it has {' and '.join(self.stacks)}")
        return found

    def asking(self, kind: Kind | None = None) -> list[str]:
        """The layers whose tokens ask in a kind of attention; RegardError where the model has none of it."""
        if kind == "cross" and self.target is None:
            raise RegardError("this model has no cross-attention: translators' decoders do")
        return self.stack(None if kind is None else "encoder" if kind == "encoder" else "decoder")

    @property
    def stacks(self) -> list[str]:
        return list(dict.fromkeys(place.split(".")[0] for place in self.layers))

    def text(self, row: int = 0) -> str:
        """A text as it was given, or its words in a row."""
        self._checked(row)
        if self.texts is not None:
            return self.texts[row]
        return " ".join(word.text for word in self.words(row) if word.number is not None)

    def words(self, row: int = 0, side: Side = "source", by_chunk: bool = False) -> list[Word]:
        """The words of one text, or what stands between blanks; tokens by number where there are no pieces."""
        self._checked(row)
        if side in self.pieces:
            return words_of(self.pieces[side][row], by_chunk)
        tokens = self.source if side == "source" else self.target
        if tokens is None:
            raise RegardError("this model reads a source only: it has no target")
        return [Word(str(token), (place,), (str(token),), place) for place, token in enumerate(tokens[row].tolist())]

    # What the fast run had.

    def entering(self, place: str, row: int = 0) -> Float[Tensor, "tokens width"]:
        """The residual stream of one text as it enters a layer."""
        return self.entering_all(place)[self._checked(row)]

    def leaving(self, place: str, row: int = 0) -> Float[Tensor, "tokens width"]:
        """What the fast run had after this layer."""
        return self.leaving_all(place)[self._checked(row)]

    def hidden(
        self, layer: int, row: int = 0, side: Literal["encoder", "decoder"] | None = None
    ) -> Float[Tensor, "tokens width"]:
        """The residual stream after so many layers of a stack; 0: the embeddings. A last norm comes after it."""
        places = self.stack(side)
        check_range("layer", layer, len(places) + 1)
        return self.entering(places[0], row) if layer == 0 else self.leaving(places[layer - 1], row)

    def embedding(self, word: str | int, layer: int, row: int = 0, side: Side = "source") -> Float[Tensor, "width"]:
        """A word's contextual embedding after so many layers: the mean over its pieces. A number is a position."""
        hidden = self.hidden(layer, row, "decoder" if side == "target" else None)
        if isinstance(word, int):
            check_range("token", word, len(hidden))
            return hidden[word]
        words = self.words(row, side)
        return join_rows(hidden, [words[find_word(words, word)]])[0]

    @torch.no_grad()
    def logits(self, queries: slice = EVERY, row: int = 0) -> Float[Tensor, "queries vocabulary"]:
        """Scores of every word of the vocabulary at the chosen positions.

        Raises RegardError where the model scores no words (encoders without such a head).
        """
        self._checked(row)
        return self.cache.value(
            f"logits/{row}/{_span(queries)}", lambda: scores_of_words(self.model)(self.output[row][queries])
        )

    # Attention, piece by piece.

    def weights(
        self,
        layer: int | str,
        head: int,
        queries: slice = EVERY,
        keys: slice = EVERY,
        kind: Kind | None = None,
        row: int = 0,
    ) -> Float[Tensor, "queries keys"]:
        """Attention weights of one head; `layer` a number, with `kind`, or the place of an attention."""
        name = f"weights/{self.attention_place(layer, kind)}/{head}/{row}/{_span(queries)}/{_span(keys)}"
        return self.cache.value(name, lambda: self.attention(layer, head, row, kind).weights(queries, keys))

    def scores(
        self,
        layer: int | str,
        head: int,
        queries: slice = EVERY,
        keys: slice = EVERY,
        kind: Kind | None = None,
        row: int = 0,
    ) -> Float[Tensor, "queries keys"]:
        """What goes into the softmax: scaled, positions added; -inf where a query may not look."""
        return self.attention(layer, head, row, kind).scores(queries, keys)

    def queries(
        self, layer: int | str, head: int, kind: Kind | None = None, row: int = 0
    ) -> Float[Tensor, "queries head_width"]:
        """What each token asks, turned by its position where the model has rotations."""
        return self.attention(layer, head, row, kind).queries

    def keys(
        self, layer: int | str, head: int, kind: Kind | None = None, row: int = 0
    ) -> Float[Tensor, "keys head_width"]:
        """What each token can be found by."""
        return self.attention(layer, head, row, kind).keys

    def values(
        self, layer: int | str, head: int, kind: Kind | None = None, row: int = 0
    ) -> Float[Tensor, "keys head_width"]:
        """What each token hands on."""
        return self.attention(layer, head, row, kind).values

    def mixed(
        self, layer: int | str, head: int, queries: slice = EVERY, kind: Kind | None = None, row: int = 0
    ) -> Float[Tensor, "queries head_width"]:
        """The weighted sums of the values."""
        return self.attention(layer, head, row, kind).mixed(queries)

    def map(
        self,
        layer: int | str,
        head: int,
        region: tuple[slice, slice] = (EVERY, EVERY),
        resolution: tuple[int, int] = (256, 256),
        kind: Kind | None = None,
        row: int = 0,
        sampled: bool = False,
    ) -> Map:
        """A region (queries, keys) of a head's map in at most so many cells; `sampled`: see `AttentionView.map`."""
        return self.attention(layer, head, row, kind).map(*region, resolution, sampled)

    @property
    def attention_places(self) -> list[str]:
        """The attentions that have heads (`decoder.layers.3.cross_attention`)."""
        return [
            f"{layer}.{name}"
            for layer in self.layers
            for name in ("self_attention", "cross_attention")
            if isinstance(getattr(self.model.get_submodule(layer), name, None), MultiHeadAttention)
        ]

    def attention_place(self, layer: int | str, kind: Kind | None = None) -> str:
        """The place of an attention by the number of its layer; `kind` by default that of the source's stack."""
        if isinstance(layer, str):
            return layer
        places = self.asking(kind)
        check_range("layer", layer, len(places))
        return f"{places[layer]}.{'cross' if kind == 'cross' else 'self'}_attention"

    @torch.no_grad()
    def attention(self, layer: int | str, head: int, row: int = 0, kind: Kind | None = None) -> AttentionView:
        """One head over one text, for maps and parts of them.

        Raises RegardError for a place that has no such attention, with those that have, and for a head out of range.
        """
        place = self.attention_place(layer, kind)
        if place not in self.attention_places:
            raise unknown("attention", place, self.attention_places)
        of_layer, _, name = place.rpartition(".")
        part: Any = self.model.get_submodule(of_layer)
        x, kept = self.entering(of_layer, row), f"attention/{place}/{head}/{row}"
        if name == "self_attention":
            stack: Any = self.model.get_submodule(place.split(".")[0])
            added = getattr(stack, "positions", None)
            causal, shape = place.startswith("decoder."), (len(x), len(x))

            def enter() -> Tensor:
                entered: Tensor = part.self_attention_residual.enter(x)
                return entered

            return AttentionView(part.self_attention, head, enter, enter, shape, causal, added, self.cache, kept)
        assert self.memory is not None
        memory = self.memory[row]
        shape = (len(x), len(memory))

        def ask() -> Tensor:
            return self.cache.value(f"asking/{place}/{row}", lambda: entering_cross_attention(self.model, of_layer, x))

        return AttentionView(part.cross_attention, head, ask, lambda: memory, shape, False, None, self.cache, kept)

    # Every other value.

    @property
    def places(self) -> list[str]:
        """The parts that `steps` can compute, from the embeddings up."""
        if self.target is None:
            return ["embedding", *self.layers, *head_places(self.model)]
        return ["encoder.embedding", *self.stack("encoder"), "decoder.embedding", *self.stack("decoder")]

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

    def steps(self, place: str, queries: slice = EVERY, row: int = 0) -> dict[str, Tensor]:
        """All intermediate values of one part for the chosen queries of one text, by name, in order."""
        self._checked(row)
        name = f"steps/{place}/{row}/{_span(queries)}"
        return self.cache.values(name, lambda: self._steps(place, queries, row))

    def proof(self, place: str, queries: slice = EVERY, row: int = 0) -> float:
        """Largest difference between a layer's steps and what the fast run had after it."""
        output = self.steps(place, queries, row)["output"]
        return float((output - self.leaving(place, row)[queries]).abs().max())

    def _steps(self, place: str, queries: slice, row: int) -> Values:
        x = self.entering(place, row) if place in self.layers else None
        return part_steps(self.model, self.run, place, queries, row, x)

    def entering_all(self, place: str) -> Sequences:
        """What enters a layer, of all texts: kept, or what leaves the layer before."""
        if place not in self.layers:
            raise unknown("layer", place, self.layers)
        if place in self.run.entering:
            return self.run.entering[place]
        stack, _, number = place.rpartition(".")
        return self.leaving_all(f"{stack}.{int(number) - 1}")

    def leaving_all(self, place: str) -> Sequences:
        """What leaves a layer, of all texts: kept, or found by running the layer once more."""
        if place not in self.layers:
            raise unknown("layer", place, self.layers)
        if place in self.run.leaving:
            return self.run.leaving[place]
        stack, _, number = place.rpartition(".")
        after = f"{stack}.{int(number) + 1}"
        if after in self.run.entering:
            return self.run.entering[after]
        x = self.entering_all(place)
        return x.with_values(
            self.cache.value(f"leaving/{place}", lambda: run_layer(self.model, self.run, place, x).values)
        )

    def _checked(self, row: int) -> int:
        check_range("text", row, len(self.source))
        return row

    # A file.

    def save(self, path: Path | str) -> None:
        """Write what was run and everything that is kept to one safetensors file."""
        from regard.explain.trace_file import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: Path | str, model: Any = None) -> Trace:
        """Read a trace back. Without its model it gives what was computed before; with it, everything.

        `model`: what made the trace, or what `regard.load` gives. Raises RegardError for a file that is no trace, or
        one of another model.
        """
        from regard.explain.trace_file import load

        return load(Path(path), getattr(model, "model", model))


def scores_of_words(model: Any) -> Any:
    """The map from what a stack gives to scores of the vocabulary; RegardError where a model has none."""
    if hasattr(model, "logits"):
        return model.logits
    if "masked_words" in getattr(model.config, "heads", ()):
        return model.words
    raise RegardError(
        f"a {model.config.model_type} without a head for words scores none: translators and language models do"
    )


def check_range(kind: str, number: int, count: int) -> None:
    """Layers, heads and positions are counted from 0."""
    if not 0 <= number < count:
        raise RegardError(f"there is no {kind} {number}: there are {kind}s 0 to {count - 1}")


def _span(chosen: slice) -> str:
    """A slice as a name."""
    return ":".join("" if end is None else str(end) for end in (chosen.start, chosen.stop, chosen.step))
