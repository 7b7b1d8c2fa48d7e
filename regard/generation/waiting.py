"""Texts that wait for a place among those that are being answered: in which order, and how many at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from regard.sequences import Sequences

_LEAST = 8
"""A batch is filled up when so many times as many rows as have become free would be all of its rows."""


@dataclass(frozen=True)
class Texts:
    """Texts that begin together."""

    source: Sequences
    places: list[int]
    """Which of all texts these are."""
    numbers: list[int]
    """What is drawn for a text depends on its number."""


class Waiting:
    """The texts that are left. Several threads may take from it: each text is given once."""

    def __init__(
        self,
        source: Callable[[list[int]], Sequences],
        order: Sequence[int],
        numbers: Sequence[int],
        room: Callable[[int], int],
    ) -> None:
        """`source` makes a batch of texts; `room` says how many may be answered at a time if the next is this one."""
        self._source, self._order, self._numbers, self._room = source, order, numbers, room
        self._taken = 0
        self._lock = threading.Lock()

    @classmethod
    def all_at_once(cls, source: Sequences, numbers: Sequence[int]) -> Waiting:
        return cls(lambda _: source, range(len(source)), numbers, lambda _: len(source))

    def take(self, going: int = 0) -> Texts | None:
        """The next texts, where `going` are on their way; None where none are left, or too few places are free."""
        with self._lock:
            if self._taken == len(self._order):
                return None
            most = max(1, self._room(self._order[self._taken]))
            free = most - going
            if free < 1 or (going and free * _LEAST < most):
                return None
            places = list(self._order[self._taken : self._taken + free])
            self._taken += len(places)
        return Texts(self._source(places), places, [self._numbers[place] for place in places])

    def close(self) -> None:
        """Nothing is left."""
        with self._lock:
            self._taken = len(self._order)
