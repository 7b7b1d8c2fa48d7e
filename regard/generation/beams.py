"""Beam search over a batch of sources, each followed until no beam can beat the answers that have ended.

Each group of beams (one, unless the search is for diverse ones) is a search of its own, a row of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.generation.candidates import Candidates, Top, best_of, check_best, next_scores
from regard.generation.constraints import best_that_must
from regard.generation.diverse import best_of_groups
from regard.generation.looking import with_coverage
from regard.generation.settings import Generator, Hypothesis, Search, length_penalty
from regard.generation.waiting import Texts

Going = tuple[int, tuple[int, ...], float]
"""A beam on its way: the place of its source, its tokens so far, log P of them."""


@dataclass
class _Source:
    """A text that is being answered."""

    place: int
    number: int
    read: Tensor
    before: list[int]
    """What answers go on from, where a choice depends on that."""
    found: list[list[Hypothesis]]
    """The answers of each group."""
    going: int


@dataclass
class _Row:
    """A group of beams."""

    source: _Source
    limit: int
    found: list[Hypothesis]
    written: int = 0
    """Tokens that each of its beams has."""


class Beams:
    """All sources a step at once; one whose best answers cannot be beaten any more leaves the batch."""

    def __init__(
        self, model: Generator, own: Any, how: Search, texts: Texts, state: Any, seen: list[Going] | None = None
    ) -> None:
        """`state`: the model's, which has read the sources; `own`: the model itself, should `model` be its engine."""
        self.model, self.own, self.how, self.seen = model, own, how, seen
        self.beams, source, device = how.beams // how.groups, texts.source, texts.source.values.device
        before = how.before(source) if how.looks_back else [[]] * len(source)
        sources = [
            _Source(place, number, read, begun, [[] for _ in range(how.groups)], how.groups)
            for place, number, read, begun in zip(texts.places, texts.numbers, source, before, strict=True)
        ]
        self.rows = [
            _Row(one, how.longest(length), found)
            for one, length in zip(sources, source.lengths, strict=True)
            for found in one.found
        ]
        repeated = torch.arange(len(source), device=device).repeat_interleave(how.beams)
        self.state, self.tokens = state.select(repeated), how.begin(source)[repeated]
        # At the start all beams of a source are the same: only the first may go on.
        self.sums = torch.tensor([0.0] + [-torch.inf] * (self.beams - 1), device=device).repeat(len(self.rows), 1)
        self.history = torch.zeros(len(self.rows), self.beams, 0, dtype=torch.long, device=device)

    @property
    def texts(self) -> int:
        """How many texts are on their way."""
        return len({row.source.place for row in self.rows})

    @torch.inference_mode()
    def step(self, length: int) -> list[tuple[int, list[Hypothesis]]]:
        """One more token a beam, by the rules for the token that makes an answer so long; texts that are done."""
        how, rows, beams = self.how, self.rows, self.beams
        logits, self.state = next_scores(self.model, self.tokens, self.state, how, length)
        best = self._candidates(logits, length)
        told = [(row.source.number, row.written + 1) for row in rows]
        check_best(best.totals.amax(dim=-1), told, empty=True)
        ends = best.tokens == how.eos
        self._collect(best, ends)
        order = best.ranks.masked_fill(ends, -torch.inf).topk(beams, dim=-1).indices
        self.sums = best.totals.masked_fill(ends, -torch.inf).gather(1, order)
        parents, words = best.parents.gather(1, order), best.tokens.gather(1, order)
        self._write(parents, words)
        if self.seen is not None:
            self.seen += self._going()
        going_on = self.sums.amax(dim=-1).tolist()
        kept, done = [], []
        for at, row in enumerate(rows):
            if not _done(row.found, going_on[at], row.written, row.limit, beams, how):
                kept.append(at)
                continue
            if len(row.found) < beams:
                row.found += self._cut_off(at, beams - len(row.found))
            row.source.going -= 1
            done += [] if row.source.going else [row.source]
        keep = torch.tensor(kept, dtype=torch.long, device=words.device)
        chosen = (keep[:, None] * beams + parents[keep]).flatten()
        self.rows, self.sums, self.history = [rows[at] for at in kept], self.sums[keep], self.history[keep]
        self.tokens, self.state = words[keep].flatten(), self.state.select(chosen) if kept else None
        return [(source.place, self._answers(source)) for source in done]

    @torch.inference_mode()
    def add(self, other: Any) -> None:
        """The rows of another such batch beside these, in one state."""
        self.state, self.rows = self.state.beside(other.state), self.rows + other.rows
        self.sums, self.tokens = torch.cat([self.sums, other.sums]), torch.cat([self.tokens, other.tokens])
        width = max(self.history.shape[-1], other.history.shape[-1])
        self.history = torch.cat([_widened(self.history, width), _widened(other.history, width)])

    def _candidates(self, logits: Float[Tensor, "rows_beams vocabulary"] | Top, length: int) -> Candidates:
        """How the beams of each row may go on, the best first."""
        how, sums, rows = self.how, self.sums, self.rows
        written = self._written() if how.looks_back or how.must else []
        texts = [
            [*row.source.before, *beam] for row, beams in zip(rows, written, strict=True) for beam in beams
        ] if how.looks_back else ()  # fmt: skip
        if isinstance(logits, Top):
            return best_of(logits, sums, how, length, texts)
        if how.must:
            lefts = [row.limit - row.written - 1 for row in rows]
            return best_that_must(logits, sums, how, length, texts, written, lefts)
        if how.groups > 1:
            return best_of_groups(logits, sums, how, length, texts, [row.source.place for row in rows])
        return best_of(logits, sums, how, length, texts)

    def _collect(self, best: Candidates, ends: Bool[Tensor, "rows candidates"]) -> None:
        """Take down the hypotheses that end at this step; one counts only if it is among the best `beams` candidates.

        Where cut off answers are ranked among the others (length_rule "power"), they end at the limit.
        """
        closing = ends
        if self.how.length_rule == "power":
            last = [row.written + 1 == row.limit for row in self.rows]
            closing = ends | torch.tensor(last, device=ends.device)[:, None]
        for at, candidate in closing[:, : self.beams].nonzero().tolist():
            row, total = self.rows[at], float(best.totals[at, candidate])
            if total > -torch.inf:
                ended = bool(ends[at, candidate])
                answer = self.history[at, best.parents[at, candidate], : row.written].tolist()
                answer += [] if ended else [int(best.tokens[at, candidate])]
                row.found.append(self.how.hypothesis(answer, total, ended))

    def _write(self, parents: Int[Tensor, "rows beams"], words: Int[Tensor, "rows beams"]) -> None:
        """The history of the beams that go on."""
        width = max(row.written for row in self.rows) + 1
        if width > self.history.shape[-1]:
            self.history = _widened(self.history, 2 * width)
        history = self.history[:, :, :width].gather(1, parents[:, :, None].expand(-1, -1, width))
        ends = torch.tensor([row.written for row in self.rows], device=words.device)
        self.history = history.scatter(2, ends[:, None, None].expand(-1, self.beams, 1), words[:, :, None])
        for row in self.rows:
            row.written += 1

    def _written(self) -> list[list[list[int]]]:
        """What each beam of each row has written."""
        return [
            [beam[: row.written] for beam in beams]
            for row, beams in zip(self.rows, self.history.tolist(), strict=True)
        ]  # fmt: skip

    def _going(self) -> Iterator[Going]:
        """The beams that are followed now."""
        for row, beams, totals in zip(self.rows, self._written(), self.sums.tolist(), strict=True):
            pairs = zip(beams, totals, strict=True)
            yield from ((row.source.place, tuple(beam), total) for beam, total in pairs if total > -torch.inf)

    def _cut_off(self, at: int, count: int) -> list[Hypothesis]:
        """Hypotheses that the length limit stops: taken as they are, where too few have ended."""
        beams, totals = self.history[at, :, : self.rows[at].written].tolist(), self.sums[at].tolist()
        pairs = zip(beams, totals, strict=True)
        return [self.how.hypothesis(beam, total, False) for beam, total in pairs if total > -torch.inf][:count]

    def _answers(self, source: _Source) -> list[Hypothesis]:
        """The best of each group; where coverage ranks them anew, of all that have ended. None twice."""
        covers = bool(self.how.coverage_penalty)
        best = [_ranked(group)[: None if covers else self.beams] for group in source.found]
        answers = list({(answer.tokens, answer.finished): answer for group in best for answer in group}.values())
        if not answers:
            raise RegardError(f"text {source.number + 1}: no answer within the limit keeps to the options")
        if covers:
            answers = with_coverage(self.own, source.read, self.how, answers)
        return _ranked(answers)[: self.how.answers]


def _ranked(answers: Sequence[Hypothesis]) -> list[Hypothesis]:
    return sorted(answers, key=lambda answer: -answer.score)


def _done(answers: list[Hypothesis], best_going: float, length: int, limit: int, beams: int, how: Search) -> bool:
    """Whether no hypothesis that still goes on can beat the worst of the `beams` best answers (or early stopping)."""
    if length >= limit or best_going == -torch.inf:
        return True
    if len(answers) < beams:
        return False
    if how.early_stopping is True:
        return True
    worst = sorted((answer.score for answer in answers), reverse=True)[beams - 1]
    longest = limit if how.length_penalty > 0 and how.early_stopping == "never" else length
    return best_going / length_penalty(longest, how.length_penalty, how.length_rule) <= worst


def _widened(history: Int[Tensor, "rows beams width"], width: int) -> Int[Tensor, "rows beams wider"]:
    return torch.nn.functional.pad(history, (0, width - history.shape[-1]))
