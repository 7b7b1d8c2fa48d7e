"""Greedy and beam search over any model that has `start(source)`, `step(tokens, state)` and `state.select(rows)`.

A translator answers a source and begins with `bos`; a language model (`bos` None) goes on from the source's last token.

Beam search with the length penalty of Wu et al. 2016 (equation 14), as in Vaswani et al. 2017, section 6.1:
score = log P(Y) / ((5 + |Y|) / 6)^alpha, beam 4, alpha 0.6, at most 50 tokens more than the source.

`settings` says what can be set, `scores` what changes the scores of the next token, `sampling` how one is drawn; greedy
search, beams, groups of beams, constraints, contrastive search and drafts have a file each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from regard.errors import RegardError
from regard.generation.beams import Beams, Going
from regard.generation.contrastive import contrastive_search
from regard.generation.engine import Engine
from regard.generation.greedy import Rows
from regard.generation.settings import Generator, Hypothesis, Joinable, Search, State, length_penalty
from regard.generation.speculative import Draft, speculate
from regard.generation.static import Static
from regard.generation.waiting import Texts, Waiting
from regard.sequences import Sequences

__all__ = ["Generator", "Going", "Hypothesis", "Search", "State", "length_penalty", "search", "search_waiting"]


def search(
    model: Any,
    source: Sequences,
    how: Search,
    seen: list[Going] | None = None,
    numbers: Sequence[int] | None = None,
    draft: Draft | None = None,
) -> list[list[Hypothesis]]:
    """For each source the answers of a `Generator`, the best first: one if greedy, up to `n_best` else.

    Into `seen`, if given, goes every beam that was followed, step by step. `numbers` are those of the texts, 0, 1, ...
    by default: what is drawn depends on them. With a `draft` several tokens are read at once (speculative decoding).
    """
    waiting = Waiting.all_at_once(source, range(len(source)) if numbers is None else numbers)
    found = dict(search_waiting(model, waiting, how, seen, draft))
    return [found[place] for place in range(len(source))]


def search_waiting(
    model: Any, waiting: Waiting, how: Search, seen: list[Going] | None = None, draft: Draft | None = None
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The same for texts that wait: the place of each text, and its answers, as soon as it has them.

    Where the model lets texts join others that are on their way (an engine), the rows of those that leave are taken by
    the next; else these begin when all have left.
    """
    if not isinstance(model, Generator):
        raise RegardError(f"a {type(model).__name__} cannot generate: it has no start and step")
    if draft is not None or how.contrasts:
        while texts := waiting.take():
            yield from zip(texts.places, _by_themselves(model, texts, how, draft), strict=True)
        return
    going: Rows | Beams | None = None
    while True:
        joins = going is None or isinstance(model, Joinable)
        if joins and (texts := waiting.take(going.texts if going else 0)):
            new = _begun(model, texts, how, seen, going)
            yield from _settled(new, how)
            going = _together(going, new)
        if going is None:
            return
        yield from going.step(how.settled + 1)
        going = _together(None, going)


@torch.inference_mode()
def _begun(model: Any, texts: Texts, how: Search, seen: list[Going] | None, going: Rows | Beams | None) -> Rows | Beams:
    """Texts that have been read, in the memory of those that are on their way."""
    state = model.start(texts.source) if going is None else model.join(texts.source, going.state)
    if how.beams == 1:
        return Rows(model, how, texts, state)
    return Beams(model, _within(model), how, texts, state, seen)


def _settled(new: Rows | Beams, how: Search) -> Iterator[tuple[int, list[Hypothesis]]]:
    """As long as the rules depend on the length, texts that begin make their steps without the others."""
    for length in range(1, how.settled + 1):
        if new.rows:
            yield from new.step(length)


def _together(going: Rows | Beams | None, new: Rows | Beams) -> Rows | Beams | None:
    """One batch; None, so that its memory is free for those who begin, where all have left."""
    if going is not None and new.rows:
        going.add(new)
        return going
    return going or (new if new.rows else None)


@torch.inference_mode()
def _by_themselves(model: Any, texts: Texts, how: Search, draft: Draft | None) -> list[list[Hypothesis]]:
    if draft is not None:
        return speculate(model, texts.source, how, draft, texts.numbers)
    return contrastive_search(_within(model), texts.source, how, texts.numbers)


def _within(model: Any) -> Any:
    """What looks inside needs the model itself."""
    return model.model if isinstance(model, Engine | Static) else model
