"""n-grams with modified Kneser-Ney smoothing, interpolated: Chen & Goodman 1998, section 3 (equations 23 to 26).

P(w | h) = (c(h w) - D(c)) / c(h) + what the discounts leave x P(w | h without its first token). Below the highest order
c counts in how many different places, not how often; except where h reaches the beginning, before which nothing stands.

In numpy: an n-gram is known by its number, found in a sorted table of (number of its first n - 1 tokens, last token).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_START, _END, _FIRST = 0, 1, 2
"""Tokens of our own; those of the sequences come after them."""


class KneserNey:
    """Learnt from sequences of whole numbers; -1 in what is asked about is a token that was never seen."""

    def __init__(self, sequences: Sequence[Sequence[int]], order: int, unknown: float = -12.0) -> None:
        self.order, self.unknown = order, unknown
        self.tokens = np.unique(np.concatenate([np.asarray(one, dtype=np.int64) for one in sequences]))
        self.size = len(self.tokens) + _FIRST
        text = self._laid_out(sequences)
        numbers = self._learn_tables(text)
        self.levels = [self._level(text, numbers, place) for place in range(order)]

    def log_probabilities(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Of each sequence, its end included; a token never seen counts as `unknown`."""
        if not sequences:
            return []
        text = self._laid_out(sequences)
        scores = self._scores(text)
        begins = np.cumsum([0] + [len(one) + self.order for one in sequences[:-1]])
        return [float(total) for total in np.add.reduceat(scores, begins)]

    def _laid_out(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """End to end, each with order - 1 start tokens before it and an end after it."""
        parts = []
        for one in sequences:
            asked = np.asarray(one, dtype=np.int64)
            places = np.minimum(np.searchsorted(self.tokens, asked), len(self.tokens) - 1)
            parts += [
                np.full(self.order - 1, _START),
                np.where(self.tokens[places] == asked, places + _FIRST, -1),
                np.array([_END]),
            ]
        return np.concatenate(parts)

    def _learn_tables(self, text: np.ndarray) -> list[np.ndarray]:
        """The n-grams of every order, and the number of the one that ends at each place."""
        self.tables, numbers = [], []
        before = np.zeros(len(text), dtype=np.int64)
        for _ in range(self.order):
            table, before = np.unique(before * self.size + text, return_inverse=True)
            self.tables.append(table)
            numbers.append(before)
            before = np.concatenate([[0], before[:-1]])
        return numbers

    def _level(
        self, text: np.ndarray, numbers: list[np.ndarray], place: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Discounted counts of the n-grams; of their beginnings, what was counted, and what the discounts leave."""
        said = text != _START
        own, table = numbers[place][said], self.tables[place]
        counts = np.bincount(own, minlength=len(table))
        if place + 1 < self.order:
            _, first = np.unique(numbers[place + 1][said], return_index=True)
            at_start = np.zeros(len(table), dtype=bool)
            at_start[own] = np.roll(text, place)[said] == _START
            counts = np.where(at_start, counts, np.bincount(own[first], minlength=len(table)))
        discounts = _discounts(counts)[np.minimum(counts, 3)]
        beginnings = table // self.size
        size = len(self.tables[place - 1]) if place else 1
        total, left = (np.bincount(beginnings, one, size) for one in (counts, discounts))
        return np.maximum(counts - discounts, 0), total, left

    def _scores(self, text: np.ndarray) -> np.ndarray:
        """log P of the token at each place; 0 for start tokens."""
        seen = text >= 0
        tokens = np.where(seen, text, _END)
        probabilities = np.full(len(text), 1 / (self.size - 1))
        before, known = np.zeros(len(text), dtype=np.int64), np.ones(len(text), dtype=bool)
        for table, (counts, total, left) in zip(self.tables, self.levels, strict=True):
            wanted = before * self.size + tokens
            places = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
            found = known & seen & (table[places] == wanted)
            sums = np.where(known, total[before], 0)
            mixed = (np.where(found, counts[places], 0) + left[before] * probabilities) / np.maximum(sums, 1)
            probabilities = np.where(sums > 0, mixed, probabilities)
            before = np.concatenate([[0], np.where(found, places, 0)[:-1]])
            known = np.concatenate([[False], found[:-1]])
        scores = np.where(seen, np.log(probabilities), self.unknown)
        return np.where(text == _START, 0.0, scores)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D of counts 0, 1, 2, and 3 or more, from how many n-grams have the counts 1 to 4."""
    ones, twos, threes, fours = (max(1, int((counts == number).sum())) for number in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    found = [0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
    return np.clip(found, [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])
