"""Answers that must contain phrases: beam search in banks (Post & Vilar 2018, "Fast Lexically Constrained Decoding
with Dynamic Beam Allocation for Neural Machine Translation").

A beam's bank is how many tokens of the phrases it still misses. The beams are shared out among the banks, so that those
that have begun a phrase, which costs probability, are not pushed out by those that have not. No answer ends, and none
comes so near to the limit that the rest would not fit, before it has all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from jaxtyping import Float
from torch import Tensor

from regard.generation.candidates import Candidates, certain, log_probabilities
from regard.generation.scores import Texts
from regard.generation.settings import Phrase, Search, contains


def best_that_must(
    logits: Float[Tensor, "rows_beams vocabulary"],
    sums: Float[Tensor, "rows beams"],
    how: Search,
    length: int,
    texts: Texts,
    written: Sequence[Sequence[list[int]]],
    lefts: Sequence[int],
) -> Candidates:
    """The best of each bank in turn, the nearest to having all first.

    `written`: the tokens of each row's beams; `lefts`: how many each row may still add after this one.
    """
    if length <= len(how.given):
        return certain(sums, how.given[length - 1])
    rows, beams = sums.shape
    totals = sums[:, :, None] + log_probabilities(logits, how, length, texts).view(rows, beams, -1)
    found = [_of_row(totals[row], written[row], how, lefts[row], 2 * beams) for row in range(rows)]
    parts = zip(*found, strict=True)
    best, parents, tokens = (torch.tensor(part, device=sums.device) for part in parts)
    broken = totals.flatten(1).amax(dim=-1).isnan()[:, None]  # not dropped: it is told
    best = best.masked_fill(broken, torch.nan)
    ranks = -torch.arange(2 * beams, device=sums.device).expand_as(best).float()
    return Candidates(best, parents, tokens, ranks.masked_fill(best == -torch.inf, -torch.inf))


def missing(text: Sequence[int], phrases: Sequence[Phrase]) -> tuple[int, list[int]]:
    """How many tokens of the phrases a text still needs, and the tokens that would bring one further.

    A phrase that the text has begun at its end counts as far as it goes: one of them, the furthest.
    """
    unmet = [phrase for phrase in phrases if not contains(text, phrase)]
    begun = [
        next(size for size in range(len(phrase) - 1, -1, -1) if not size or tuple(text[-size:]) == phrase[:size])
        for phrase in unmet
    ]
    following = [phrase[size] for phrase, size in zip(unmet, begun, strict=True)]
    return sum(map(len, unmet)) - max(begun, default=0), following


def _of_row(
    totals: Float[Tensor, "beams vocabulary"], texts: Sequence[list[int]], how: Search, left: int, count: int
) -> tuple[list[float], list[int], list[int]]:
    """`count` candidates of one row: totals, beams, tokens; -inf where there are fewer."""
    vocabulary = totals.shape[1]
    needed = [missing(text, how.must) for text in texts]
    pool: set[tuple[int, int]] = set()
    for beam, (rest, following) in enumerate(needed):
        if rest and how.eos >= 0:
            totals[beam, how.eos] = -torch.inf
        pool |= {(beam, token) for token in following}
        pool.add((beam, int(totals[beam].argmax())))
    top = totals.flatten().topk(min(count, totals.numel())).indices.tolist()
    pool |= {(place // vocabulary, place % vocabulary) for place in top}
    banks: dict[int, list[tuple[float, int, int]]] = {}
    for beam, token in sorted(pool):
        total = float(totals[beam, token])
        rest = 0 if token == how.eos else missing([*texts[beam], token], how.must)[0]
        if total > -torch.inf and rest <= left:
            banks.setdefault(rest, []).append((total, beam, token))
    ordered = [sorted(banks[rest], reverse=True) for rest in sorted(banks)]
    chosen = [one for turn in zip_longest(*ordered) for one in turn if one is not None][:count]
    chosen += [(-torch.inf, 0, 0)] * (count - len(chosen))
    return tuple(list(part) for part in zip(*chosen, strict=True))  # type: ignore[return-value]
