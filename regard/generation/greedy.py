"""Greedy search and sampling over a batch of rows, each of which writes one answer token by token."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch

from regard.generation.candidates import check_best, choose, next_scores
from regard.generation.sampling import chances
from regard.generation.settings import Generator, Hypothesis, Search
from regard.generation.waiting import Texts


@dataclass
class _Row:
    """One answer on its way."""

    place: int
    number: int
    sample: int
    limit: int
    before: list[int]
    """What it goes on from, where a choice depends on that."""
    drawn: random.Random | None
    written: list[int] = field(default_factory=list)


class Rows:
    """The best token each time, or one that is drawn; then several rows may share a source."""

    def __init__(self, model: Generator, how: Search, texts: Texts, state: Any) -> None:
        """`state`: the model's, which has read the sources."""
        source, count = texts.source, how.answers
        self.model, self.how = model, how
        self.state, self.tokens = state, how.begin(source)
        if count > 1:
            repeated = torch.arange(len(source), device=self.tokens.device).repeat_interleave(count)
            self.state, self.tokens = state.select(repeated), self.tokens[repeated]
        before = how.before(source) if how.looks_back else [[]] * len(source)
        self.rows = [
            _Row(place, number, sample, how.longest(length), begun, self._chance(number, sample))
            for place, number, length, begun in zip(texts.places, texts.numbers, source.lengths, before, strict=True)
            for sample in range(count)
        ]
        self.sums = torch.zeros(len(self.rows), device=self.tokens.device)
        self.ended: dict[int, dict[int, Hypothesis]] = {}
        """Of texts that have not all their samples yet: those they have."""

    @property
    def texts(self) -> int:
        """How many texts are on their way."""
        return len({row.place for row in self.rows})

    @torch.inference_mode()
    def step(self, length: int) -> list[tuple[int, list[Hypothesis]]]:
        """One more token a row, by the rules for the token that makes an answer so long; answers that are complete."""
        how, rows = self.how, self.rows
        logits, self.state = next_scores(self.model, self.tokens, self.state, how, length)
        texts = [[*row.before, *row.written] for row in rows] if how.looks_back else ()
        drawn = [row.drawn for row in rows if row.drawn is not None]
        log_probabilities, self.tokens = choose(logits, how, length, texts, drawn)
        check_best(log_probabilities, [(row.number, len(row.written) + 1) for row in rows])
        self.sums = self.sums + log_probabilities
        complete: list[tuple[int, list[Hypothesis]]] = []
        kept = []
        for at, (row, token) in enumerate(zip(rows, self.tokens.tolist(), strict=True)):
            if token != how.eos:
                row.written.append(token)
                if len(row.written) < row.limit:
                    kept.append(at)
                    continue
            complete += self._end(row, float(self.sums[at]), token == how.eos)
        if len(kept) < len(rows):
            chosen = torch.tensor(kept, dtype=torch.long, device=self.tokens.device)
            self.rows, self.sums, self.tokens = [rows[at] for at in kept], self.sums[chosen], self.tokens[chosen]
            self.state = self.state.select(chosen) if kept else None
        return complete

    def _chance(self, number: int, sample: int) -> random.Random | None:
        return chances(self.how, number, sample) if self.how.samples else None

    def _end(self, row: _Row, total: float, finished: bool) -> list[tuple[int, list[Hypothesis]]]:
        found = self.ended.setdefault(row.place, {})
        found[row.sample] = self.how.hypothesis(row.written, total, finished)
        if len(found) < self.how.answers:
            return []
        return [(row.place, [found[sample] for sample in range(len(self.ended.pop(row.place)))])]

    @torch.inference_mode()
    def add(self, other: Any) -> None:
        """The rows of another such batch beside these, in one state."""
        self.state = self.state.beside(other.state)
        self.rows, self.ended = self.rows + other.rows, self.ended | other.ended
        self.sums, self.tokens = torch.cat([self.sums, other.sums]), torch.cat([self.tokens, other.tokens])
