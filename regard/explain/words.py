"""Words instead of sub-word pieces: how numbers of pieces are joined.

- A word's weight as a key is the sum of its pieces' weights: attention is a distribution, so shares add up.
- A word's score is the log-sum-exp of its pieces' scaled scores: then softmax over words gives exactly those weights.
- A word's vector, and its row as a query, is the mean over its pieces.
Tokens that belong to no word (the end token) stand for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError, unknown
from regard.modalities.text import Piece


@dataclass(frozen=True)
class Word:
    """One word of a text and the places of its pieces."""

    text: str
    places: tuple[int, ...]
    pieces: tuple[str, ...]
    number: int | None
    """Which word of the text it is; None for a token that belongs to no word."""


def words_of(pieces: Sequence[Piece], by_chunk: bool = False) -> list[Word]:
    """The words of a text in order, each with the places of its pieces; or its chunks between blanks.

    What belongs to no word stands alone; a piece of it that reads as nothing goes on with the one before (silence).
    """
    groups: list[list[int]] = []
    last: int | None = None
    for place, piece in enumerate(pieces):
        number = piece.chunk if by_chunk else piece.word
        goes_on = bool(groups) and number is None and not piece.text
        if goes_on or (number is not None and number == last):
            groups[-1].append(place)
        else:
            groups.append([place])
        last = number
    words = []
    for group in groups:
        texts = tuple(pieces[place].text for place in group)
        first = pieces[group[0]]
        words.append(Word(_joined(texts), tuple(group), texts, first.chunk if by_chunk else first.word))
    return words


def find_word(words: Sequence[Word], wanted: str) -> int:
    """Which of the words reads as wanted, the first if several; the case is ignored if nothing matches exactly."""
    for name, spelling in ((wanted, str), (wanted.casefold(), str.casefold)):
        for number, word in enumerate(words):
            if word.number is not None and spelling(word.text) == name:
                return number
    raise unknown("word", wanted, (word.text for word in words if word.number is not None))


def shared_word(texts: Sequence[Sequence[Word]], preferred: str | None = None, last: bool = False) -> str:
    """A word that all texts have: the preferred one, or the first (the last) of the first text that has a letter."""
    if preferred is not None:
        for words in texts:
            find_word(words, preferred)
        return preferred
    for word in reversed(texts[0]) if last else texts[0]:
        if word.number is None or not any(letter.isalpha() for letter in word.text):
            continue
        if all(any(other.text.casefold() == word.text.casefold() for other in words) for words in texts[1:]):
            return word.text
    raise RegardError("the texts share no word: name one for each with --query, or give one text")


def join_keys(weights: Float[Tensor, "*rest keys"], words: Sequence[Word]) -> Float[Tensor, "*rest words"]:
    """Weights over pieces to weights over words: sums."""
    return torch.stack([weights[..., list(word.places)].sum(dim=-1) for word in words], dim=-1)


def join_scores(scores: Float[Tensor, "*rest keys"], words: Sequence[Word]) -> Float[Tensor, "*rest words"]:
    """Scores over pieces to scores over words: log-sum-exp."""
    return torch.stack([scores[..., list(word.places)].logsumexp(dim=-1) for word in words], dim=-1)


def join_rows(values: Float[Tensor, "*rest tokens columns"], words: Sequence[Word]) -> Tensor:
    """Rows of pieces to rows of words: means."""
    return torch.stack([values[..., list(word.places), :].mean(dim=-2) for word in words], dim=-2)


def _joined(pieces: Sequence[str]) -> str:
    """Pieces put together; bytes of a rare letter become that letter."""
    text = b"".join(
        bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") and len(piece) == 6 else piece.encode()
        for piece in pieces
    ).decode("utf-8", errors="replace")
    return text.removeprefix("▁") or "▁"
