"""The key-value cache: keys and values of the positions that a decoder has seen so far."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class KeyValueCache:
    """(rows, heads, positions, head_width) of each.

    Room is taken ahead and doubled when it is used up, so that a step writes one position and copies nothing.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._keys, self._values, self.length = keys, values, length

    @classmethod
    def empty(cls, rows: int, heads: int, head_width: int, like: Tensor, room: int = 32) -> KeyValueCache:
        shape = (rows, heads, room, head_width)
        return cls(like.new_empty(shape), like.new_empty(shape), 0)

    @property
    def keys(self) -> Float[Tensor, "rows heads positions head_width"]:
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Float[Tensor, "rows heads positions head_width"]:
        return self._values[:, :, : self.length]

    def append(self, keys: Tensor, values: Tensor) -> None:
        end = self.length + keys.shape[2]
        while end > self._keys.shape[2]:
            self._keys = torch.cat([self._keys, torch.empty_like(self._keys)], dim=2)
            self._values = torch.cat([self._values, torch.empty_like(self._values)], dim=2)
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end

    def cut(self, length: int) -> None:
        """Forget what came after the first `length` positions."""
        self.length = min(self.length, length)

    def select(self, rows: Int[Tensor, "chosen"]) -> KeyValueCache:
        """The cache of the chosen rows, in their order; a row may be chosen more than once."""
        return KeyValueCache(self._keys.index_select(0, rows), self._values.index_select(0, rows), self.length)
