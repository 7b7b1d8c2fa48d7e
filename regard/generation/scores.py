"""What changes the scores of the next token before one is chosen: penalties, and what may not be said.

Everything here changes the scores in place and does nothing where its option is off. `texts` are what each row has
before the next token: the text it goes on from or the token that begins an answer, then what was written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard.generation.settings import Search

Texts = Sequence[Sequence[int]]


def change(scores: Float[Tensor, "rows vocabulary"], how: Search, length: int, texts: Texts) -> None:
    """All that the settings ask for, at the step that makes the answer `length` tokens long."""
    if how.looks_back:
        penalise_repetition(scores, how.repetition_penalty, texts)
        forbid(scores, [_repeating(text, how.no_repeat_ngram_size) for text in texts])
        forbid(scores, [_completing(text, how.must_not) for text in texts])
    if banned := how.banned(length):
        scores[:, list(banned)] = -torch.inf


def penalise_repetition(scores: Float[Tensor, "rows vocabulary"], penalty: float, texts: Texts) -> None:
    """Scores of tokens that were there are divided by the penalty, those below 0 multiplied (Keskar et al. 2019)."""
    if penalty == 1:
        return
    for row, text in zip(scores, texts, strict=True):
        there = torch.tensor(sorted(set(text)), device=scores.device)
        found = row[there]
        row[there] = torch.where(found < 0, found * penalty, found / penalty)


def forbid(scores: Float[Tensor, "rows vocabulary"], tokens: Sequence[Sequence[int]]) -> None:
    """These tokens of each row cannot be chosen."""
    for row, banned in zip(scores, tokens, strict=True):
        if banned:
            row[list(banned)] = -torch.inf


def _repeating(text: Sequence[int], size: int) -> list[int]:
    """Tokens that would make a run of `size` tokens occur twice."""
    if not size or len(text) < size:
        return []
    begun = tuple(text[len(text) + 1 - size :])
    return [text[end] for end in range(size - 1, len(text)) if tuple(text[end + 1 - size : end]) == begun]


def _completing(text: Sequence[int], phrases: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that would complete a phrase."""
    return [
        phrase[-1] for phrase in phrases if len(phrase) == 1 or tuple(text[1 - len(phrase) :]) == tuple(phrase[:-1])
    ]
