"""From the scores of the next token to those that are taken: one a row, or the best ways for beams to go on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.generation.sampling import draw
from regard.generation.scores import Texts, change
from regard.generation.settings import BestGenerator, Generator, Search


class Candidates(NamedTuple):
    """Ways for the beams of each row to go on, the best first."""

    totals: Float[Tensor, "rows candidates"]
    """log P with the new token."""
    parents: Int[Tensor, "rows candidates"]
    """Which beam goes on."""
    tokens: Int[Tensor, "rows candidates"]
    ranks: Float[Tensor, "rows candidates"]
    """What they are ordered by: the totals, unless a search prefers others."""


class Top(NamedTuple):
    """The best next tokens of each row, the best first, where nobody needs the others."""

    log_probabilities: Float[Tensor, "rows count"]
    tokens: Int[Tensor, "rows count"]


def next_scores(
    model: Generator, tokens: Int[Tensor, "rows"], state: Any, how: Search, length: int
) -> tuple[Float[Tensor, "rows vocabulary"] | Top, Any]:
    """Logits of the next token; or the best tokens alone, where the model can name them (an engine) and the settings
    ask for no more: the scores of the whole vocabulary then never lie in memory.
    """
    if length <= len(how.given) or how.reads_all or not isinstance(model, BestGenerator):
        return model.step(tokens, state)
    count = 1 if how.beams == 1 else 2 * how.beams
    log_probabilities, words, state = model.best(tokens, state, count, how.banned(length))
    return Top(log_probabilities, words), state


def choose(
    logits: Float[Tensor, "rows vocabulary"] | Top,
    how: Search,
    length: int,
    texts: Texts,
    drawn: Sequence[random.Random] = (),
) -> tuple[Float[Tensor, "rows"], Int[Tensor, "rows"]]:
    """The next token of each row with its log-probability: the best, or one that is drawn.

    What is forbidden is never chosen, and penalties change what is; the log-probability stays the model's.
    """
    if isinstance(logits, Top):
        return logits.log_probabilities[:, 0], logits.tokens[:, 0]
    if length <= len(how.given):
        certain = logits.new_zeros(len(logits), dtype=torch.float32)
        return certain, torch.full((len(logits),), how.given[length - 1], device=logits.device)
    log_probabilities = logits.float().log_softmax(dim=-1)
    if not how.looks_back and not how.samples:
        change(log_probabilities, how, length, texts)
        best = log_probabilities.max(dim=-1)
        return best.values, best.indices
    scores = logits.float().clone()
    change(scores, how, length, texts)
    best = scores.max(dim=-1)
    chosen = best.indices
    if drawn and bool(best.values.isfinite().all()):
        chosen = draw(scores, how, drawn)
    own = log_probabilities.gather(1, chosen[:, None])[:, 0]
    return torch.where(best.values == -torch.inf, best.values, own), chosen


def best_of(
    logits: Float[Tensor, "rows_beams vocabulary"] | Top,
    sums: Float[Tensor, "rows beams"],
    how: Search,
    length: int,
    texts: Texts,
) -> Candidates:
    """The best of all beams' ways to go on: with 2 x beams candidates at least `beams` of them do not end here."""
    if length <= len(how.given):
        return certain(sums, how.given[length - 1])
    rows, beams = sums.shape
    named = logits.tokens if isinstance(logits, Top) else None
    found = logits.log_probabilities if isinstance(logits, Top) else log_probabilities(logits, how, length, texts)
    totals = (sums[:, :, None] + found.view(rows, beams, -1)).flatten(1)
    top, places = totals.topk(min(2 * beams, totals.shape[1]), dim=-1)
    each = totals.shape[1] // beams
    tokens = places % each if named is None else named.view(rows, -1).gather(1, places)
    return Candidates(top, places // each, tokens, top)


def certain(sums: Float[Tensor, "rows beams"], token: int) -> Candidates:
    """Every beam goes on with the token that is given."""
    parents = torch.arange(sums.shape[1], device=sums.device).expand_as(sums)
    return Candidates(sums, parents, torch.full_like(parents, token), sums)


def log_probabilities(
    logits: Float[Tensor, "rows vocabulary"], how: Search, length: int, texts: Texts
) -> Float[Tensor, "rows vocabulary"]:
    """Log-probabilities of the model, changed; what is forbidden is never chosen, the others keep their probability."""
    found = logits.float().log_softmax(dim=-1)
    change(found, how, length, texts)
    return found


def check_best(best: Float[Tensor, "rows"], told: Sequence[tuple[int, int]], empty: bool = False) -> None:
    """RegardError where a row's best score is not a number: NaN and infinity anywhere in its logits lead to that.

    Also where nothing is left to choose, unless a row may be `empty`. `told`: each row's text, from 0, and step.
    """
    if bool(best.isfinite().all()):
        return
    for (text, step), value in zip(told, best.tolist(), strict=True):
        if value != value or value == torch.inf:
            raise RegardError(f"text {text + 1}, step {step}: the model's scores are not finite numbers")
        if value == -torch.inf and not empty:
            raise RegardError(f"text {text + 1}, step {step}: the options forbid every token")
