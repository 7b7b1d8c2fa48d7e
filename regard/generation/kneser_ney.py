"""n-grams with modified Kneser-Ney smoothing, interpolated: Chen & Goodman 1998, section 3 (equations 23 to 26).

P(w | h) = (c(h w) - D(c)) / c(h) + what the discounts leave x P(w | h without its first token). Below the highest order
c counts in how many different places, not how often; except where h reaches the beginning, before which nothing stands.

In numpy: an n-gram is known by its number, found in a sorted table of (number of its first n - 1 tokens, last token).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_START, _END, _FIRST = 0, 1, 2
"""Tokens of our own; those of the sequences come after them."""


class KneserNey:
    """Learnt from sequences of whole numbers; -1 in what is asked about is a token that was never seen."""

    def __init__(
        self, tokens: np.ndarray, tables: Sequence[np.ndarray], counts: Sequence[np.ndarray], unknown: float = -12.0
    ) -> None:
        """`tables`: for each order the n-grams, sorted; `counts`: how often each counts."""
        self.tokens, self.tables, self.counts, self.unknown = tokens, list(tables), list(counts), unknown
        self.order, self.size = len(tables), len(tokens) + _FIRST
        sizes = [1, *map(len, tables)]
        self.levels = [
            _discounted(table // self.size, count, begun)
            for table, count, begun in zip(tables, counts, sizes, strict=False)
        ]

    @classmethod
    def learn(cls, sequences: Sequence[Sequence[int]], order: int, unknown: float = -12.0) -> KneserNey:
        """Count the n-grams of up to so many tokens; `unknown`: log P of a token that was never seen."""
        tokens = np.unique(np.concatenate([np.asarray(one, dtype=np.int64) for one in sequences]))
        text = _laid_out(sequences, tokens, order)
        tables, numbers = _tables(text, len(tokens) + _FIRST, order)
        return cls(tokens, tables, [_counts(text, tables, numbers, place) for place in range(order)], unknown)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that was learnt, small: of each n-gram its last token, its count, and how many begin with it."""
        found = {"tokens": self.tokens}
        for place, (table, counts) in enumerate(zip(self.tables, self.counts, strict=True)):
            begun = self.tables[place - 1] if place else np.zeros(1)
            found[f"{place}.last"] = table % self.size
            found[f"{place}.counts"] = counts
            found[f"{place}.following"] = np.bincount(table // self.size, minlength=len(begun))
        return {name: value.astype(np.min_scalar_type(int(value.max()))) for name, value in found.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KneserNey:
        """What `to_arrays` gave."""
        wide = {name: value.astype(np.int64) for name, value in arrays.items()}
        tokens = wide["tokens"]
        places = range(sum(name.endswith(".last") for name in wide))
        size = len(tokens) + _FIRST
        tables = [
            np.repeat(np.arange(len(wide[f"{place}.following"])), wide[f"{place}.following"]) * size
            + wide[f"{place}.last"]
            for place in places
        ]
        return cls(tokens, tables, [wide[f"{place}.counts"] for place in places])

    def log_probabilities(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Of each sequence, its end included; a token never seen counts as `unknown`."""
        if not sequences:
            return []
        text = _laid_out(sequences, self.tokens, self.order)
        scores = self._scores(text)
        begins = np.cumsum([0] + [len(one) + self.order for one in sequences[:-1]])
        return [float(total) for total in np.add.reduceat(scores, begins)]

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


def _laid_out(sequences: Sequence[Sequence[int]], tokens: np.ndarray, order: int) -> np.ndarray:
    """End to end, each with order - 1 start tokens before it and an end after it."""
    parts = []
    for one in sequences:
        asked = np.asarray(one, dtype=np.int64)
        places = np.minimum(np.searchsorted(tokens, asked), len(tokens) - 1)
        parts += [
            np.full(order - 1, _START),
            np.where(tokens[places] == asked, places + _FIRST, -1),
            np.array([_END]),
        ]
    return np.concatenate(parts)


def _tables(text: np.ndarray, size: int, order: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The n-grams of every order, and the number of the one that ends at each place."""
    tables, numbers = [], []
    before = np.zeros(len(text), dtype=np.int64)
    for _ in range(order):
        table, before = np.unique(before * size + text, return_inverse=True)
        tables.append(table)
        numbers.append(before)
        before = np.concatenate([[0], before[:-1]])
    return tables, numbers


def _counts(text: np.ndarray, tables: list[np.ndarray], numbers: list[np.ndarray], place: int) -> np.ndarray:
    """How often each n-gram is seen; below the highest order, not at the beginning, after how many tokens it is."""
    said = text != _START
    own, table = numbers[place][said], tables[place]
    counts = np.bincount(own, minlength=len(table))
    if place + 1 == len(tables):
        return counts
    _, first = np.unique(numbers[place + 1][said], return_index=True)
    at_start = np.zeros(len(table), dtype=bool)
    at_start[own] = np.roll(text, place)[said] == _START
    return np.where(at_start, counts, np.bincount(own[first], minlength=len(table)))


def _discounted(beginnings: np.ndarray, counts: np.ndarray, begun: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discounted counts of the n-grams; of their beginnings, what was counted, and what the discounts leave."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    total, left = (np.bincount(beginnings, one, begun) for one in (counts, discounts))
    return np.maximum(counts - discounts, 0), total, left


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D of counts 0, 1, 2, and 3 or more, from how many n-grams have the counts 1 to 4."""
    ones, twos, threes, fours = (max(1, int((counts == number).sum())) for number in (1, 2, 3, 4))
    share = ones / (ones + 2 * twos)
    found = [0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes]
    return np.clip(found, [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])
