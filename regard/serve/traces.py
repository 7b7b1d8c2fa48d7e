"""Traces that were asked for, kept for the next question under a bound on memory; the oldest leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regard.errors import RegardError
from regard.explain.trace import Trace
from regard.generation.search import Search
from regard.generation.stream import stream
from regard.modalities.text import Piece
from regard.sequences import Sequences
from regard.serve.shelf import Volume

_A_TRACE = 4
"""One trace's results take at most this part of the memory."""


@dataclass(frozen=True)
class Subject:
    """What a trace is taken of."""

    model: str
    texts: tuple[str, ...]
    begin: tuple[int, ...] = ()
    """Tokens that the answer to the first text begins with."""
    tokens: int = 0
    """Of language models, how far to go on."""


class Traces:
    """Traces by what they were taken of."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._kept: OrderedDict[Subject, Trace] = OrderedDict()

    def get(self, subject: Subject, volume: Volume) -> Trace:
        """The trace: kept, or taken now."""
        if subject in self._kept:
            self._kept.move_to_end(subject)
        else:
            trace = take(volume, subject)
            trace.cache.bound = max(1, self.bound // _A_TRACE)
            if size_of(trace) > self.bound:
                raise RegardError(f"a trace of this text takes {size_of(trace):,} bytes, more than the {self.bound:,}")
            self._kept[subject] = trace
        while self.size > self.bound and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return self._kept[subject]

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(size_of(trace) for trace in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)


def size_of(trace: Trace) -> int:
    """Bytes of what a trace keeps, its cached results included."""
    run = trace.run
    streams = [*run.entering.values(), *run.leaving.values(), run.output, *([run.memory] if run.memory else [])]
    return sum(one.values.numel() * one.values.element_size() for one in streams) + trace.cache.size


def take(volume: Volume, subject: Subject) -> Trace:
    """A trace of the texts and of what the model answers to them."""
    pipeline: Any = volume.pipeline
    texts = list(subject.texts)
    if volume.kind == "translator":
        if not subject.begin:
            return pipeline.trace(texts)  # type: ignore[no-any-return]
        first = continued(volume, texts[0], subject.begin)
        rest = [found[0].tokens for found in pipeline.hypotheses(texts[1:])] if texts[1:] else []
        return pipeline.trace(texts, [first, *rest])  # type: ignore[no-any-return]
    if volume.kind == "reader":
        if subject.begin or subject.tokens:
            raise RegardError(f"{volume.name} writes no answer that could be begun: it can {volume.abilities[0]}")
        return pipeline.trace(texts)  # type: ignore[no-any-return]
    if not subject.begin:
        return pipeline.trace(texts, subject.tokens)  # type: ignore[no-any-return]
    return _gone_on(volume, texts[0], subject)


def continued(volume: Volume, text: str, begin: Sequence[int], tokens: int = 0) -> list[int]:
    """The answer's tokens when its first ones are given; the model goes on from there."""
    pipeline: Any = volume.pipeline
    check_tokens(volume, begin)
    if volume.kind == "translator":
        source = Sequences.of_ids([pipeline.check(text)], pipeline.model.device)
        return list(stream(pipeline.model, source, pipeline.search(1, 0.6), begin))
    source = Sequences.of_ids([pipeline.prompt(text)], pipeline.model.device)
    return list(stream(pipeline.model, source, going_on(pipeline, max(tokens, len(begin))), begin))


def going_on(pipeline: Any, tokens: int, **options: Any) -> Search:
    """How a language model goes on by at most so many tokens."""
    end = pipeline.tokenizer.special.eos
    end, limit = -1 if end is None else end, pipeline.limit or 1 << 30
    return Search(None, end, 1, 0.0, extra_length=tokens, limit=limit, **options)


def check_tokens(volume: Volume, tokens: Sequence[int]) -> None:
    """RegardError for a token that the vocabulary does not have, or one that ends the answer."""
    config = volume.pipeline.model.config
    for token in tokens:
        if not 0 <= token < config.vocab_size:
            raise RegardError(f"there is no token {token}: there are 0 to {config.vocab_size - 1}")
        if token == getattr(config, "eos_token_id", None):
            raise RegardError(f"token {token} ends an answer: it cannot begin one")


def _gone_on(volume: Volume, text: str, subject: Subject) -> Trace:
    """A language model's trace over a text and a continuation that begins as it was told to."""
    pipeline: Any = volume.pipeline
    begun = pipeline.prompt(text)
    ids = [*begun, *continued(volume, text, subject.begin, subject.tokens)]
    pieces: dict[Any, list[list[Piece]]] = {"source": [pipeline.tokenizer.pieces_of(ids)]}
    trace = Trace(pipeline.model, Sequences.of_ids([ids], pipeline.model.device), pieces=pieces)
    trace.texts, trace.prompts = [text], [len(begun)]
    trace.spell = trace.spell_source = pipeline.tokenizer.spell
    return trace
