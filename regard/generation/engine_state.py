"""The state of a search in the engine: where each row stands, and which places of the caches hold its past.

Rows may be taken more than once, leave, and be joined by rows of other texts, which take the places of those that left:
nothing is copied but a row of a table.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import Tensor

from regard.generation.memories import Memories
from regard.generation.running import Room

FIRST_ROOM = 64
"""Positions that a cache has room for at first."""


@runtime_checkable
class Keeper(Protocol):
    """What keeps the memory of a search that is over for the next one."""

    def give_back(self, room: Room) -> None: ...


@dataclass
class EngineState:
    """Where each row stands, and which places of the caches hold its past.

    Row r of family f (the rows of one source) writes into slot f * capacity + its number within the family. All rows
    of a family are at the same position, so none writes over what another one still looks at.
    """

    keeper: Keeper
    """Takes the room back."""
    room: Room
    positions: Int[np.ndarray, "rows"]
    families: Int[np.ndarray, "rows"]
    capacity: int = 1
    """Slots of a family: as many as it has ever had rows."""
    table: Int[np.ndarray, "rows length"] | None = None
    """For each row the slot of each earlier position; None while a family has one row."""
    memories: Memories | None = None
    neighbours: Int[np.ndarray, "others"] | None = None
    """Families of the search that these rows have joined, until `beside` makes one state of both."""
    slots: Int[np.ndarray, "rows"] = field(init=False)
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.slots = self.families.copy()
        self.count = int(self.families.max(initial=-1)) + 1
        self.owner = Owner(self.keeper, self.room)

    def make_room(self, length: int) -> None:
        """Caches long enough for so many positions."""
        slots, room = self.count * self.capacity, self.room
        if room.length >= length and room.slots >= slots and room.caches:
            if self.table is not None and self.table.shape[1] < room.length:
                self.table = _wider(self.table, room.length)
            return
        used, before = room.used, min(room.slots, slots)
        old = room.make_caches(max(slots, room.slots), max(FIRST_ROOM, room.length, 1 << (length - 1).bit_length()))
        if used:
            for cache, past in zip(room.caches, old, strict=True):
                cache[:before, :used] = past[:before, :used]
        if self.table is not None:
            self.table = _wider(self.table, room.length)

    @property
    def length(self) -> int:
        """Positions read so far, of the longest row."""
        return int(self.positions.max(initial=0))

    def cut(self, length: int) -> None:
        """Forget what was read after the first `length` positions."""
        self.positions = self.positions - np.int32(self.length - length)

    def select(self, rows: Int[Tensor, "chosen"]) -> EngineState:
        """The state of the chosen rows, in that order; a row may be chosen more than once."""
        chosen = rows.numpy()
        families = self.families[chosen]
        number = _number_within(families)
        capacity = int(number.max(initial=0)) + 1
        if capacity > self.capacity:
            self._widen(capacity)
        new = copy.copy(self)
        new.positions, new.families = self.positions[chosen], families
        if new.capacity > 1:
            assert self.table is not None
            new.table = self.table[chosen]
            new.slots = (families * new.capacity + number).astype(np.int32)
        else:
            new.slots = families
        return new

    def begin(self, lengths: Sequence[int]) -> EngineState:
        """A state for texts of these lengths in the places of families that have left this one, or in new ones."""
        living = np.unique(self.families)
        count = max(self.count, len(living) + len(lengths))
        free = np.setdiff1d(np.arange(count, dtype=np.int32), living)
        order = np.argsort(-np.asarray(lengths), kind="stable")
        if self.memories is not None:  # the longest text where most room is
            free = free[np.argsort(-self.memories.sizes_of(free), kind="stable")]
        new = copy.copy(self)
        new.families = np.empty(len(lengths), np.int32)
        new.families[order] = free[: len(lengths)]
        new.positions, new.slots = np.zeros(len(lengths), np.int32), new.families * np.int32(self.capacity)
        new.count, new.table, new.neighbours = count, None, living
        return new

    def beside(self, other: EngineState) -> EngineState:
        """One state of both, these rows first; the other has joined this one."""
        new = copy.copy(self)
        new.positions = np.concatenate([self.positions, other.positions])
        new.families = np.concatenate([self.families, other.families])
        new.slots, new.count = np.concatenate([self.slots, other.slots]), max(self.count, other.count)
        if self.table is not None and other.table is not None:
            length = max(self.table.shape[1], other.table.shape[1])
            new.table = np.concatenate([_wider(self.table, length), _wider(other.table, length)])
        return new

    def _widen(self, capacity: int) -> None:
        """Give every family more slots: what was read so far moves to the first of them."""
        assert self.neighbours is None, "texts that join others have no more rows than these had"
        before, used, room = self.capacity, self.room.used, self.room
        self.capacity = capacity
        length = max(room.length, FIRST_ROOM)
        if used or room.slots < self.count * capacity:
            old, had = room.make_caches(max(room.slots, self.count * capacity), length), self.count * before
            for cache, past in zip(room.caches, old, strict=True) if used else ():
                groups = cache[: self.count * capacity].view(self.count, capacity, length, -1)
                groups[:, :before, :used] = past[:had].view(self.count, before, past.shape[1], -1)[:, :, :used]
        self.slots = (self.slots // before * capacity + self.slots % before).astype(np.int32)
        if self.table is None:
            self.table = np.repeat(self.slots[:, None], length, axis=1)
        else:
            self.table = (self.table // before * capacity + self.table % before).astype(np.int32)


class Owner:
    """Gives the room back when the last state that uses it is gone."""

    def __init__(self, keeper: Keeper, room: Room) -> None:
        self.keeper, self.room = keeper, room

    def __del__(self) -> None:
        self.keeper.give_back(self.room)


def _wider(table: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([table, np.zeros((len(table), length - table.shape[1]), np.int32)], axis=1)


def _number_within(families: np.ndarray) -> np.ndarray:
    """Of each row how many rows of the same family stand before it."""
    order = np.argsort(families, kind="stable")
    ordered = families[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else ordered
    lengths = np.diff(np.append(starts, len(ordered)))
    number = np.empty_like(families)
    number[order] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    return number
