"""Greedy and beam search over any model that has `start(source)`, `step(tokens, state)` and `state.select(rows)`.

A translator answers a source and begins with `bos`; a language model (`bos` None) goes on from the source's last token.

Beam search with the length penalty of Wu et al. 2016 (equation 14), as in Vaswani et al. 2017, section 6.1:
score = log P(Y) / ((5 + |Y|) / 6)^alpha, beam 4, alpha 0.6, at most 50 tokens more than the source.

`settings` says what can be set, `scores` what changes the scores of the next token, `sampling` how one is drawn; groups
of beams, constraints, contrastive search and drafts have a file each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.generation.candidates import Candidates, Top, best_of, check_best, choose, next_scores
from regard.generation.constraints import best_that_must
from regard.generation.contrastive import contrastive_search
from regard.generation.diverse import best_of_groups
from regard.generation.engine import Engine
from regard.generation.looking import with_coverage
from regard.generation.sampling import chances
from regard.generation.settings import Generator, Hypothesis, Search, State, length_penalty
from regard.generation.speculative import Draft, speculate
from regard.generation.static import Static
from regard.sequences import Sequences

__all__ = ["Generator", "Going", "Hypothesis", "Search", "State", "length_penalty", "search"]

Going = tuple[int, tuple[int, ...], float]
"""A beam on its way: the number of its source, its tokens so far, log P of them."""


@torch.inference_mode()
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
    numbers = range(len(source)) if numbers is None else numbers
    if not isinstance(model, Generator):
        raise RegardError(f"a {type(model).__name__} cannot generate: it has no start and step")
    own = model.model if isinstance(model, Engine | Static) else model  # what looks inside needs the model itself
    if draft is not None:
        return speculate(model, source, how, draft, numbers)
    if how.contrasts:
        return contrastive_search(own, source, how, numbers)
    if how.beams == 1:
        found = _one_by_one(model, source, how, numbers)
        return [found[row : row + how.answers] for row in range(0, len(found), how.answers)]
    ended = _beam_search(model, source, how, numbers, seen)
    if how.coverage_penalty:
        ended = with_coverage(own, source, how, ended)
    return [sorted(answers, key=lambda answer: -answer.score)[: how.answers] for answers in ended]


# --- greedy and sampling ----------------------------------------------------------------------------------------------


def _one_by_one(model: Generator, source: Sequences, how: Search, numbers: Sequence[int]) -> list[Hypothesis]:
    """One answer a row: the best token each time, or one that is drawn; then several rows may share a source."""
    count = how.answers
    rows = len(source) * count
    state, tokens = model.start(source), how.begin(source)
    if count > 1:
        repeated = torch.arange(len(source), device=tokens.device).repeat_interleave(count)
        state, tokens = state.select(repeated), tokens[repeated]
    drawn = [chances(how, number, sample) for number in numbers for sample in range(count)] if how.samples else []
    before = [text for text in how.before(source) for _ in range(count)] if how.looks_back else []
    limits = torch.tensor([how.longest(length) for length in source.lengths for _ in range(count)]).to(tokens.device)
    active = torch.arange(rows, device=tokens.device)
    answers: list[list[int]] = [[] for _ in range(rows)]
    sums = torch.zeros(rows, device=tokens.device)
    finished = [False] * rows
    for length in range(1, int(limits.max()) + 1):
        logits, state = next_scores(model, tokens, state, how, length)
        going_on = active.tolist()
        texts = [[*before[row], *answers[row]] for row in going_on] if before else ()
        log_probabilities, tokens = choose(logits, how, length, texts, [drawn[row] for row in going_on if drawn])
        check_best(log_probabilities, length, [numbers[row // count] for row in going_on])
        sums[active] += log_probabilities
        for row, token in zip(going_on, tokens.tolist(), strict=True):
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
        how.hypothesis(answer, total, done)
        for answer, total, done in zip(answers, sums.tolist(), finished, strict=True)
    ]


# --- beams ------------------------------------------------------------------------------------------------------------


def _beam_search(
    model: Generator, source: Sequences, how: Search, numbers: Sequence[int], seen: list[Going] | None
) -> list[list[Hypothesis]]:
    """All sources at once; a source whose best answer cannot be beaten any more leaves the batch.

    Each group of beams is a search of its own: row r of `active` is group r % groups of source r // groups.
    """
    groups, beams, device = how.groups, how.beams // how.groups, source.values.device
    limits = [how.longest(length) for length in source.lengths]
    before = how.before(source) if how.looks_back else []
    active = list(range(len(source) * groups))
    found: list[list[Hypothesis]] = [[] for _ in active]
    repeated = torch.arange(len(source), device=device).repeat_interleave(groups * beams)
    state, tokens = model.start(source).select(repeated), how.begin(source)[repeated]
    # At the start all beams of a source are the same: only the first may go on.
    sums = torch.tensor([0.0] + [-torch.inf] * (beams - 1), device=device).repeat(len(active), 1)
    history = torch.empty(len(active), beams, 0, dtype=torch.long, device=device)
    for length in range(1, max(limits) + 1):
        logits, state = next_scores(model, tokens, state, how, length)
        lefts = [limits[row // groups] - length for row in active]
        texts = _texts(history, [before[row // groups] for row in active]) if before else ()
        best = _candidates(logits, sums, how, length, texts, history, [row // groups for row in active], lefts)
        check_best(best.totals.amax(dim=-1), length, [numbers[row // groups] for row in active], empty=True)
        ends = best.tokens == how.eos
        _collect(found, active, history, best, ends, lefts, beams, how)
        order = best.ranks.masked_fill(ends, -torch.inf).topk(beams, dim=-1).indices
        sums = best.totals.masked_fill(ends, -torch.inf).gather(1, order)
        parents, words = best.parents.gather(1, order), best.tokens.gather(1, order)
        history = torch.cat([history.gather(1, parents[:, :, None].expand(-1, -1, length - 1)), words[:, :, None]], -1)
        if seen is not None:
            seen += _going([row // groups for row in active], history, sums)
        going_on = sums.amax(dim=-1).tolist()
        kept = [
            place
            for place, row in enumerate(active)
            if not _done(found[row], going_on[place], length, limits[row // groups], beams, how)
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
    return [
        _answers(found[row : row + groups], beams, numbers[row // groups], how) for row in range(0, len(found), groups)
    ]


def _candidates(
    logits: Float[Tensor, "rows_beams vocabulary"] | Top,
    sums: Float[Tensor, "rows beams"],
    how: Search,
    length: int,
    texts: Sequence[Sequence[int]],
    history: Int[Tensor, "rows beams length"],
    owners: Sequence[int],
    lefts: Sequence[int],
) -> Candidates:
    """How the beams of each row may go on, the best first."""
    if isinstance(logits, Top):
        return best_of(logits, sums, how, length, texts)
    if how.must:
        return best_that_must(logits, sums, how, length, texts, history, lefts)
    if how.groups > 1:
        return best_of_groups(logits, sums, how, length, texts, owners)
    return best_of(logits, sums, how, length, texts)


def _collect(
    found: list[list[Hypothesis]],
    active: Sequence[int],
    history: Int[Tensor, "rows beams length"],
    best: Candidates,
    ends: Bool[Tensor, "rows candidates"],
    lefts: Sequence[int],
    beams: int,
    how: Search,
) -> None:
    """Take down the hypotheses that end at this step; one counts only if it is among the best `beams` candidates.

    Where cut off answers are ranked among the others (length_rule "power"), they end at the limit.
    """
    if how.length_rule == "power" and 0 in lefts:
        closing = ends | (torch.tensor(lefts, device=ends.device) == 0)[:, None]
    else:
        closing = ends
    for place, candidate in closing[:, :beams].nonzero().tolist():
        total = float(best.totals[place, candidate])
        if total > -torch.inf:
            ended = bool(ends[place, candidate])
            answer = history[place, best.parents[place, candidate]].tolist()
            answer += [] if ended else [int(best.tokens[place, candidate])]
            found[active[place]].append(how.hypothesis(answer, total, ended))


def _texts(history: Int[Tensor, "rows beams length"], before: Sequence[Sequence[int]]) -> list[list[int]]:
    """What stands before the next token of each beam."""
    return [[*begun, *beam] for begun, beams in zip(before, history.tolist(), strict=True) for beam in beams]


def _going(active: Sequence[int], history: Tensor, sums: Tensor) -> Iterator[Going]:
    """The beams that are followed now."""
    for row, beams, totals in zip(active, history.tolist(), sums.tolist(), strict=True):
        yield from ((row, tuple(beam), total) for beam, total in zip(beams, totals, strict=True) if total > -torch.inf)


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


def _cut_off(history: Tensor, sums: Tensor, count: int, how: Search) -> list[Hypothesis]:
    """Hypotheses that the length limit stops: taken as they are, where too few have ended."""
    pairs = zip(history.tolist(), sums.tolist(), strict=True)
    return [how.hypothesis(answer, total, False) for answer, total in pairs if total > -torch.inf][:count]


def _answers(found: Sequence[list[Hypothesis]], beams: int, number: int, how: Search) -> list[Hypothesis]:
    """The best of each group; where coverage ranks them anew, all that have ended. None twice."""
    kept = beams if not how.coverage_penalty else None
    best = [sorted(group, key=lambda answer: -answer.score)[:kept] for group in found]
    answers = list({(answer.tokens, answer.finished): answer for group in best for answer in group}.values())
    if not answers:
        raise RegardError(f"text {number + 1}: no answer within the limit keeps to the options")
    return answers
