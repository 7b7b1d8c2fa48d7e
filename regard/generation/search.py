"""Greedy and beam search over any model that has `start(source)`, `step(tokens, state)` and `state.select(rows)`.

A translator answers a source and begins with `bos`; a language model (`bos` None) goes on from the source's last token.

Beam search with the length penalty of Wu et al. 2016 (equation 14), as in Vaswani et al. 2017, section 6.1:
score = log P(Y) / ((5 + |Y|) / 6)^alpha, beam 4, alpha 0.6, at most 50 tokens more than the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.sequences import Sequences


class State(Protocol):
    def select(self, rows: Int[Tensor, "chosen"]) -> Any: ...


@runtime_checkable
class Generator(Protocol):
    """What search knows of a model."""

    def start(self, source: Sequences) -> Any: ...

    def step(self, tokens: Int[Tensor, "rows"], state: Any) -> tuple[Float[Tensor, "rows vocabulary"], Any]: ...


@dataclass(frozen=True)
class Hypothesis:
    """One answer: its tokens without the end token, log P(Y), and the score it was ranked by."""

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool = True
    """False where the length limit cut it off."""


@dataclass(frozen=True)
class Search:
    """How to search: `beams` 1 is greedy."""

    bos: int | None
    """The first token of every answer; None where an answer continues its source (models without an encoder)."""
    eos: int
    beams: int = 1
    length_penalty: float = 0.6
    """alpha: 0 ranks by log P alone, larger values favour longer answers."""
    extra_length: int = 50
    """An answer has at most this many tokens more than its source."""
    limit: int = 1 << 30
    """And at most this many in all. Where it continues its source, that counts as a part of it in both."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never produced."""
    first: int | None = None
    """The first token of every answer, where it is given (BART)."""
    forbidden_first: tuple[int, ...] = ()
    """Tokens that no answer begins with (Whisper)."""

    @classmethod
    def of_translator(cls, config: Any, beams: int, length_penalty: float) -> Search:
        """How answers of an encoder-decoder are searched: its special tokens, and its limit on their length."""
        return cls(
            config.bos_token_id,
            config.eos_token_id,
            beams,
            length_penalty,
            limit=config.max_position_embeddings - 1,  # what begins the answer takes a place as well
            forbidden=tuple({config.pad_token_id, config.bos_token_id} - {config.eos_token_id}),
            first=getattr(config, "forced_bos_token_id", None),
        )

    def longest(self, source_length: int) -> int:
        """Most tokens of an answer to a source of this length, not counting the source if it goes on from there."""
        if self.bos is not None:
            return min(source_length + self.extra_length, self.limit)
        if source_length >= self.limit:
            raise RegardError(f"a text of {source_length} tokens leaves no room to go on: {self.limit} are the limit")
        return min(self.extra_length, self.limit - source_length)

    def begin(self, source: Sequences) -> Int[Tensor, "rows"]:
        """The token that each source's first step takes."""
        if self.bos is not None:
            return torch.full((len(source),), self.bos, device=source.values.device)
        return source.values[source.layout.offsets[1:] - 1]


Going = tuple[int, tuple[int, ...], float]
"""A beam on its way: the number of its source, its tokens so far, log P of them."""


@torch.inference_mode()
def search(model: Generator, source: Sequences, how: Search, seen: list[Going] | None = None) -> list[list[Hypothesis]]:
    """For each source its answers, the best first: one if greedy, up to `beams` else.

    Into `seen`, if given, goes every beam that was followed, step by step.
    """
    if how.beams == 1:
        return [[answer] for answer in _greedy(model, source, how)]
    return _beam_search(model, source, how, seen)


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha; the end token counts."""
    return float(((5 + length) / 6) ** alpha)


def _greedy(model: Generator, source: Sequences, how: Search) -> list[Hypothesis]:
    rows = len(source)
    state = model.start(source)
    tokens = how.begin(source)
    limits = torch.tensor([how.longest(length) for length in source.lengths], device=tokens.device)
    active = torch.arange(rows, device=tokens.device)
    answers: list[list[int]] = [[] for _ in range(rows)]
    sums = torch.zeros(rows, device=tokens.device)
    finished = [False] * rows
    for length in range(1, int(limits.max()) + 1):
        logits, state = model.step(tokens, state)
        log_probabilities, tokens = _log_softmax(logits, how, length).max(dim=-1)
        sums[active] += log_probabilities
        for row, token in zip(active.tolist(), tokens.tolist(), strict=True):
            if token == how.eos:
                finished[row] = True
            else:
                answers[row].append(token)
        going = (tokens != how.eos) & (limits[active] > length)
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            if not len(kept):
                break
            active, tokens, state = active[kept], tokens[kept], state.select(kept)
    return [
        _hypothesis(answer, total, done, how)
        for answer, total, done in zip(answers, sums.tolist(), finished, strict=True)
    ]


def _beam_search(
    model: Generator, source: Sequences, how: Search, seen: list[Going] | None = None
) -> list[list[Hypothesis]]:
    """All sources at once; a source whose best answer cannot be beaten any more leaves the batch."""
    beams, device = how.beams, source.values.device
    found: list[list[Hypothesis]] = [[] for _ in source.lengths]
    limits = [how.longest(length) for length in source.lengths]
    active = list(range(len(source)))
    state = model.start(source).select(torch.arange(len(source), device=device).repeat_interleave(beams))
    tokens = how.begin(source).repeat_interleave(beams)
    # At the start all beams of a source are the same: only the first may go on.
    sums = torch.tensor([0.0] + [-torch.inf] * (beams - 1), device=device).repeat(len(source), 1)
    history = torch.empty(len(source), beams, 0, dtype=torch.long, device=device)
    for length in range(1, max(limits) + 1):
        logits, state = model.step(tokens, state)
        candidates = sums[:, :, None] + _log_softmax(logits, how, length).view(len(active), beams, -1)
        vocabulary = candidates.shape[-1]
        # With 2 x beams candidates at least `beams` of them do not end here.
        top, places = candidates.flatten(1).topk(min(2 * beams, beams * vocabulary), dim=-1)
        parents, words = places // vocabulary, places % vocabulary
        ends = words == how.eos
        _collect(found, active, history, top, parents, ends, beams, length, how)
        order = (top.masked_fill(ends, -torch.inf)).topk(beams, dim=-1).indices
        sums = top.masked_fill(ends, -torch.inf).gather(1, order)
        parents, words = parents.gather(1, order), words.gather(1, order)
        history = torch.cat([history.gather(1, parents[:, :, None].expand(-1, -1, length - 1)), words[:, :, None]], -1)
        if seen is not None:
            seen += _going(active, history, sums)
        kept = [
            place
            for place, row in enumerate(active)
            if not _done(found[row], float(sums[place, 0]), length, limits[row], how)
        ]
        for place, row in enumerate(active):
            if place not in kept and len(found[row]) < beams:
                found[row] += _cut_off(history[place], sums[place], beams - len(found[row]), how)
        if not kept:
            break
        keep = torch.tensor(kept, device=device)
        rows = (keep[:, None] * beams + parents[keep]).flatten()
        active = [active[place] for place in kept]
        sums, history, tokens, state = sums[keep], history[keep], words[keep].flatten(), state.select(rows)
    return [sorted(answers, key=lambda answer: -answer.score)[:beams] for answers in found]


def _collect(
    found: list[list[Hypothesis]],
    active: Sequence[int],
    history: Tensor,
    top: Tensor,
    parents: Tensor,
    ends: Tensor,
    beams: int,
    length: int,
    how: Search,
) -> None:
    """Take down the hypotheses that end at this step; one counts only if it is among the best `beams` candidates."""
    for place, candidate in ends[:, :beams].nonzero().tolist():
        if top[place, candidate] > -torch.inf:
            answer = history[place, parents[place, candidate]].tolist()
            found[active[place]].append(_hypothesis(answer, float(top[place, candidate]), True, how))


def _going(active: Sequence[int], history: Tensor, sums: Tensor) -> Iterator[Going]:
    """The beams that are followed now."""
    for row, beams, totals in zip(active, history.tolist(), sums.tolist(), strict=True):
        yield from ((row, tuple(beam), total) for beam, total in zip(beams, totals, strict=True) if total > -torch.inf)


def _done(answers: list[Hypothesis], best_going: float, length: int, limit: int, how: Search) -> bool:
    """Whether no hypothesis that still goes on can beat the worst of the `beams` best answers."""
    if length >= limit or best_going == -torch.inf:
        return True
    if len(answers) < how.beams:
        return False
    worst = sorted((answer.score for answer in answers), reverse=True)[how.beams - 1]
    longest = limit if how.length_penalty > 0 else length
    return best_going / length_penalty(longest, how.length_penalty) <= worst


def _cut_off(history: Tensor, sums: Tensor, count: int, how: Search) -> list[Hypothesis]:
    """Hypotheses that the length limit stops: taken as they are, where too few have ended."""
    pairs = zip(history.tolist(), sums.tolist(), strict=True)
    return [_hypothesis(answer, total, False, how) for answer, total in pairs if total > -torch.inf][:count]


def _hypothesis(tokens: list[int], log_probability: float, finished: bool, how: Search) -> Hypothesis:
    score = log_probability / length_penalty(len(tokens) + finished, how.length_penalty)
    return Hypothesis(tuple(tokens), log_probability, score, finished)


def _log_softmax(logits: Tensor, how: Search, length: int) -> Tensor:
    """Log-probabilities of the model; what is forbidden is never chosen, the others keep their probability.

    A first token that is given is certain.
    """
    if length == 1 and how.first is not None:
        return torch.full_like(logits, -torch.inf, dtype=torch.float32).index_fill_(
            1, torch.tensor([how.first], device=logits.device), 0.0
        )
    log_probabilities = logits.float().log_softmax(dim=-1)
    if forbidden := how.forbidden + (how.forbidden_first if length == 1 else ()):
        log_probabilities[:, list(forbidden)] = -torch.inf
    return log_probabilities
