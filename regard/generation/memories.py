"""What the decoder sees of the sources, keys and values of every layer: a text takes the place of one that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from regard.generation.program import MEMORY

TILE = 32
"""Tokens of a tile: sources that native code packs are filled up to whole tiles."""


class Memories:
    """An array (tokens, width) for each layer, in which each family, the rows of one source, has a span."""

    def __init__(self, widths: Mapping[str, int], block: int = 1) -> None:
        """`block`: every span begins at a multiple of so many tokens."""
        self.widths = {name: width for name, width in widths.items() if name.startswith(MEMORY)}
        self.block = block
        self.tensors: dict[str, Tensor] = self.empty_for(())
        self.spans = np.zeros((0, 2), np.int32)
        """Where the source of each family begins and ends."""
        self._sizes = np.zeros(0, np.int32)

    def empty_for(self, lengths: Sequence[int]) -> dict[str, Tensor]:
        """Arrays to write sources of these lengths into, end to end."""
        tokens = int(self._filled(np.asarray(lengths, np.int32)).sum())
        return {name: torch.empty(tokens * width) for name, width in self.widths.items()}

    def sizes_of(self, families: Int[np.ndarray, "families"]) -> Int[np.ndarray, "families"]:
        """Tokens that fit where these families are."""
        known: np.ndarray = np.append(self._sizes, np.zeros(1 + max(families, default=0), np.int32))
        found: np.ndarray = known[families]
        return found

    def put(
        self,
        families: Int[np.ndarray, "families"],
        lengths: Sequence[int],
        found: dict[str, Tensor],
        living: Int[np.ndarray, "others"] | None = None,
    ) -> None:
        """Keep what was found for the sources of these families, end to end. `living`: families that need theirs still.

        Where a text does not fit, all is laid out anew. The first arrays are kept as they are, not copied.
        """
        needed = np.asarray(lengths, np.int32)
        others = np.zeros(0, np.int32) if living is None else living
        if living is not None and bool((self.sizes_of(families) >= self._filled(needed)).all()):
            self.spans[families, 1] = self.spans[families, 0] + needed
            places = self._places(families)
            for name, width in self.widths.items():
                self.tensors[name].view(-1, width).index_copy_(0, places, found[name].view(-1, width))
            return
        if len(others):
            kept = self._places(others)
            for name, width in self.widths.items():
                found[name] = torch.cat([self.tensors[name].view(-1, width)[kept].flatten(), found[name]])
            needed = np.concatenate([self.spans[others, 1] - self.spans[others, 0], needed])
        everyone = np.concatenate([others, families])
        sizes = self._filled(needed)
        begins = np.cumsum(sizes) - sizes
        self.tensors, self._sizes = found, np.zeros(int(everyone.max(initial=-1)) + 1, np.int32)
        self.spans = np.zeros((len(self._sizes), 2), np.int32)
        self._sizes[everyone] = sizes
        self.spans[everyone] = np.stack([begins, begins + needed], axis=1)

    def _filled(self, lengths: Int[np.ndarray, "families"]) -> Int[np.ndarray, "families"]:
        """Tokens that sources of these lengths take up."""
        found: np.ndarray = -(-lengths // self.block) * self.block
        return found

    def _places(self, families: Int[np.ndarray, "families"]) -> Int[Tensor, "tokens"]:
        """The number of every token of what these families look at."""
        begins, lengths = self.spans[families, 0], self.spans[families, 1] - self.spans[families, 0]
        ends = begins + self._filled(lengths)
        pairs = zip(begins, ends, strict=True)
        return torch.from_numpy(np.concatenate([np.arange(begin, end, dtype=np.int64) for begin, end in pairs]))
