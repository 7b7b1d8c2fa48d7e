"""What a BERT is trained on: texts with hidden words, and pairs of texts (Devlin et al. 2018, section 3.1 and A.2)."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from regard.sequences import Sequences

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1


@dataclass(frozen=True)
class MaskedWords:
    """Texts in which some words are hidden, where these stand in the whole batch, and what they were."""

    tokens: Sequences
    places: Int[Tensor, "places"]
    answers: Int[Tensor, "places"]


def mask_words(
    tokens: Sequences, vocab_size: int, mask: int, special: Collection[int], generator: torch.Generator
) -> MaskedWords:
    """Choose 15 % of the words of each text, one at least; show 80 % of them as the mask token, 10 % as any word.

    The other 10 % stay as they are, so that the model cannot rely on seeing which words are asked for. Tokens in
    `special` are never chosen. The same generator state gives the same choice.
    """
    ids, layout = tokens.values, tokens.layout
    kept = torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype, device=ids.device))
    words = torch.zeros(len(tokens), dtype=torch.long, device=ids.device).index_add_(0, layout.rows, (~kept).long())
    wanted = (words * CHOSEN).round().long().clamp_min(1).minimum(words)
    # Sorted by text and by chance, special tokens last: the first of each text are chosen.
    chance = torch.rand(len(ids), dtype=torch.float64, generator=generator, device=ids.device) / 4
    order = (layout.rows + chance + kept / 2).argsort()
    places = order[layout.positions < wanted[layout.rows]].sort().values
    draws = torch.rand(len(places), generator=generator, device=ids.device)
    any_word = torch.randint(vocab_size, (len(places),), generator=generator, device=ids.device)
    shown = torch.where(draws < MASKED, torch.full_like(any_word, mask), any_word)
    shown = torch.where(draws < MASKED + REPLACED, shown, ids[places])
    return MaskedWords(tokens.with_values(ids.index_copy(0, places, shown)), places, ids[places])


@dataclass(frozen=True)
class Pair:
    """[CLS] first [SEP] second [SEP]: tokens, the segment of each, and whether the second does not follow the first."""

    tokens: list[int]
    segments: list[int]
    unrelated: bool


def sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]], first: int, separator: int, longest: int, generator: random.Random
) -> list[Pair]:
    """Pairs of neighbouring texts; in half of them the second is taken from another document.

    A document is a list of sentences, a sentence a list of token ids. A text is as many sentences as fit: both texts
    and the three tokens `first` ([CLS]) and `separator` ([SEP]) are at most `longest` tokens; every tenth pair is made
    shorter. Sentences that were not used because another document was drawn begin the next pair.
    """
    return list(each_sentence_pair(documents, first, separator, longest, generator))


def each_sentence_pair(
    documents: Sequence[Sequence[Sequence[int]]], first: int, separator: int, longest: int, generator: random.Random
) -> Iterator[Pair]:
    """The same, one pair at a time."""
    if len(documents) < 2:
        raise ValueError("pairs of unrelated texts need two documents at least")
    room = longest - 3
    for number, document in enumerate(documents):
        begin = 0
        while begin < len(document):
            target = generator.randint(2, room) if generator.random() < 0.1 else room
            end = _filled(document, begin, target)
            cut = generator.randint(begin + 1, max(begin + 1, end - 1))
            unrelated = cut == end or generator.random() < 0.5
            left = [token for sentence in document[begin:cut] for token in sentence]
            if unrelated:
                right = _elsewhere(documents, number, max(1, target - len(left)), generator)
            else:
                right = [token for sentence in document[cut:end] for token in sentence]
            left, right = _fitted(left, right, room, generator)
            tokens = [first, *left, separator, *right, separator]
            yield Pair(tokens, [0] * (len(left) + 2) + [1] * (len(right) + 1), unrelated)
            begin = cut if unrelated else end


def _filled(document: Sequence[Sequence[int]], begin: int, target: int) -> int:
    """The end of the sentences from `begin` on that reach so many tokens; two sentences at least, where there are."""
    end, tokens = begin, 0
    while end < len(document) and (tokens < target or end < begin + 2):
        tokens += len(document[end])
        end += 1
    return end


def _elsewhere(
    documents: Sequence[Sequence[Sequence[int]]], number: int, target: int, generator: random.Random
) -> list[int]:
    """So many tokens from anywhere in another document."""
    other = generator.randrange(len(documents) - 1)
    document = documents[other + (other >= number)]
    begin = generator.randrange(len(document)) if document else 0
    return [token for sentence in document[begin : _filled(document, begin, target)] for token in sentence]


def _fitted(left: list[int], right: list[int], room: int, generator: random.Random) -> tuple[list[int], list[int]]:
    """Take tokens from the longer text, at either end by chance, until both fit."""
    while len(left) + len(right) > room:
        longer = left if len(left) > len(right) else right
        longer.pop(0 if generator.random() < 0.5 else -1)
    return left, right
