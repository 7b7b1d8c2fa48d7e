"""A joint model of spelling and sound: Bisani & Ney 2008, "Joint-sequence models for grapheme-to-phoneme conversion".

A word and its phonemes are cut together into graphones, pieces of one or two letters with none to two phonemes:
`ph-F o-OW n-N e-`. Expectation maximisation over all ways to cut finds how likely each graphone is (section 2.4); the
best cut of every training word is then what an n-gram model learns (`kneser_ney.py`; theirs goes over all cuts too).

It answers worse than a Transformer but errs elsewhere: it knows exact pieces and what stands before them. So the best
answers of both together are better than either's (`second_opinion.py`).

All words with as many letters and as many phonemes go through one lattice, place by place, in numpy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from regard.generation.kneser_ney import KneserNey

Word = tuple[Sequence[str], Sequence[str]]
"""Letters, phonemes."""

SHAPES = ((1, 0), (1, 1), (1, 2), (2, 1))
"""Letters and phonemes of a graphone."""
_FLOOR = 1e-12
"""The probability of a graphone that was never seen."""


class JointModel:
    """log P(letters, phonemes) of the best cut; among answers to one word it ranks as P(phonemes | letters)."""

    def __init__(self, graphones: Graphones, ngrams: KneserNey) -> None:
        self.graphones, self.ngrams = graphones, ngrams

    @classmethod
    def learn(cls, words: Sequence[Word], order: int = 7, rounds: int = 6) -> JointModel:
        """From words and how they are said; a word that is said in two ways stands there twice."""
        graphones, _ = Graphones.learn(words, rounds)
        return cls(graphones, KneserNey.learn([cut for cut in graphones.cut(words) if cut is not None], order))

    def log_probabilities(self, words: Sequence[Word]) -> list[float]:
        """Of each word with its phonemes; minus infinity where no cut is possible."""
        cuts = self.graphones.cut(words)
        found = iter(self.ngrams.log_probabilities([cut for cut in cuts if cut is not None]))
        return [-float("inf") if cut is None else next(found) for cut in cuts]


class Graphones:
    """How likely each graphone is, and the best way to cut a word by that."""

    def __init__(
        self, letters: Sequence[str], phonemes: Sequence[str], known: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """`known`: codes of the graphones that there are, sorted."""
        self.letters = {letter: number for number, letter in enumerate(letters, 1)}
        self.phonemes = {name: number for number, name in enumerate(phonemes, 1)}
        self.known, self.probabilities = known, probabilities

    @classmethod
    def learn(cls, words: Sequence[Word], rounds: int = 6) -> tuple[Graphones, list[float]]:
        """Expectation maximisation; also log P of all words after each round but the last."""
        letters, phonemes = (sorted({one for word in words for one in word[side]}) for side in (0, 1))
        found = cls(letters, phonemes, np.zeros(0, dtype=np.int64), np.zeros(0))
        lattices = list(found._lattices(words))
        found.known = np.unique(np.concatenate([edge.codes for lattice in lattices for edge in lattice.edges]))
        numbers = [[np.searchsorted(found.known, edge.codes) for edge in lattice.edges] for lattice in lattices]
        found.probabilities = np.ones(len(found.known))
        likelihoods: list[float] = []
        places = np.concatenate([one for own in numbers for one in own])
        for number in range(rounds):
            parts = [
                lattice.expected([found.probabilities[one] for one in own])
                for lattice, own in zip(lattices, numbers, strict=True)
            ]
            if number:
                likelihoods.append(sum(likelihood for _, likelihood in parts))
            expected = np.concatenate([one for counts, _ in parts for one in counts])
            counted = np.bincount(places, expected, len(found.known))
            found.probabilities = counted / counted.sum()
        return found, likelihoods

    def cut(self, words: Sequence[Word]) -> list[list[int] | None]:
        """Each word as numbers of graphones, by the most likely cut; -1 for one never seen; None if there is no cut."""
        found: list[list[int] | None] = [None] * len(words)
        for lattice in self._lattices(words):
            numbers = [self._number(edge.codes) for edge in lattice.edges]
            scores = [np.log(np.where(one < 0, _FLOOR, np.maximum(self.probabilities[one], _FLOOR))) for one in numbers]
            for row, cut in zip(lattice.rows, lattice.best(scores, numbers), strict=True):
                found[row] = cut
        return found

    def _number(self, codes: np.ndarray) -> np.ndarray:
        places = np.minimum(np.searchsorted(self.known, codes), len(self.known) - 1)
        return np.where(self.known[places] == codes, places, -1)

    def _lattices(self, words: Sequence[Word]) -> Iterator[Lattice]:
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, (spelling, sound) in enumerate(words):
            alike[len(spelling), len(sound)].append(row)
        for (letters, phonemes), rows in alike.items():
            spelt = np.array([[self.letters.get(one, -1) for one in words[row][0]] for row in rows])
            said = np.array([[self.phonemes.get(one, -1) for one in words[row][1]] for row in rows], dtype=np.int64)
            edges = list(self._edges(spelt, said.reshape(len(rows), phonemes)))
            yield Lattice(np.array(rows), letters, phonemes, edges)

    def _edges(self, spelt: np.ndarray, said: np.ndarray) -> Iterator[Edge]:
        """Every graphone at every place; its code is unique: two letters and two phonemes, 0 where there is none."""
        base = 1 + max(len(self.letters), len(self.phonemes))
        nothing = np.zeros(len(spelt), dtype=np.int64)
        for letter in range(spelt.shape[1]):
            for phoneme in range(said.shape[1] + 1):
                for letters, phonemes in SHAPES:
                    if letter + letters <= spelt.shape[1] and phoneme + phonemes <= said.shape[1]:
                        parts = [spelt[:, letter + one] if one < letters else nothing for one in range(2)]
                        parts += [said[:, phoneme + one] if one < phonemes else nothing for one in range(2)]
                        codes, unknown = nothing, nothing < 0
                        for part in parts:
                            codes, unknown = codes * base + part, unknown | (part < 0)
                        ends = (letter + letters, phoneme + phonemes)
                        yield Edge((letter, phoneme), ends, np.where(unknown, -1, codes))


@dataclass(frozen=True)
class Edge:
    """One graphone of every word of a lattice."""

    begin: tuple[int, int]
    """Letters and phonemes before it."""
    end: tuple[int, int]
    codes: np.ndarray
    """Which graphone, for each word."""


@dataclass(frozen=True)
class Lattice:
    """All cuts of the words that have so many letters and so many phonemes."""

    rows: np.ndarray
    """Numbers of the words."""
    letters: int
    phonemes: int
    edges: list[Edge]
    """Those that begin earlier first."""

    def expected(self, probabilities: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
        """How often each edge is in a cut of each word, and log P of all words (forward, backward)."""
        forward = np.zeros((self.letters + 1, self.phonemes + 1, len(self.rows)))
        backward = np.zeros_like(forward)
        forward[0, 0] = backward[-1, -1] = 1
        both = list(zip(self.edges, probabilities, strict=True))
        for edge, chance in both:
            forward[edge.end] += forward[edge.begin] * chance
        for edge, chance in reversed(both):
            backward[edge.begin] += backward[edge.end] * chance
        total = backward[0, 0]
        possible = total > 0
        share = np.where(possible, 1 / np.where(possible, total, 1), 0)
        counts = [forward[edge.begin] * chance * backward[edge.end] * share for edge, chance in both]
        return counts, float(np.log(total[possible]).sum())

    def best(self, scores: Sequence[np.ndarray], numbers: Sequence[np.ndarray]) -> list[list[int] | None]:
        """The path of the largest sum of scores, as the numbers of its edges (Viterbi)."""
        sums = np.full((self.letters + 1, self.phonemes + 1, len(self.rows)), -np.inf)
        last = np.full(sums.shape, -1, dtype=np.int64)
        sums[0, 0] = 0
        for place, (edge, score) in enumerate(zip(self.edges, scores, strict=True)):
            reached = sums[edge.begin] + score
            better = reached > sums[edge.end]
            sums[edge.end] = np.where(better, reached, sums[edge.end])
            last[edge.end] = np.where(better, place, last[edge.end])
        return [self._path(last[..., row], numbers, row) for row in range(len(self.rows))]

    def _path(self, last: np.ndarray, numbers: Sequence[np.ndarray], row: int) -> list[int] | None:
        at, path = (self.letters, self.phonemes), []
        while at != (0, 0):
            if last[at] < 0:
                return None
            path.append(int(numbers[last[at]][row]))
            at = self.edges[last[at]].begin
        return path[::-1]
