"""Examples to ragged batches: grouped by length, shuffled, and resumable at any batch.

The order of an epoch follows from (seed, epoch) alone, so a checkpoint only has to remember two numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard.data.packed import Packed
from regard.sequences import Layout, Sequences


@dataclass(frozen=True)
class Batch:
    """Teacher forcing: the decoder reads `target` (begins with bos) and should answer `answers` (ends with eos)."""

    source: Sequences
    target: Sequences
    answers: Tensor
    """(target tokens,) token ids."""

    @property
    def tokens(self) -> int:
        """Source and target tokens."""
        return self.source.layout.tokens + self.target.layout.tokens

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return Batch(self.source.to(device), self.target.to(device), self.answers.to(device))


class Examples:
    """Tokenised pairs, packed: all ids in two flat arrays with offsets, in memory or memory-mapped."""

    def __init__(
        self, sources: Packed | Sequence[Sequence[int]], targets: Packed | Sequence[Sequence[int]], bos: int
    ) -> None:
        self.source = sources if isinstance(sources, Packed) else Packed.of(sources)
        self.target = targets if isinstance(targets, Packed) else Packed.of(targets)
        self.bos = bos

    def __len__(self) -> int:
        return len(self.source.lengths)

    @property
    def tokens(self) -> int:
        """Source and target tokens in all."""
        return int(self.source.lengths.sum() + self.target.lengths.sum())

    def batch(self, chosen: np.ndarray) -> Batch:
        source, source_lengths = self.source.take(chosen)
        answers, target_lengths = self.target.take(chosen)
        begins = np.cumsum(target_lengths) - target_lengths
        shifted = np.empty_like(answers)
        shifted[1:] = answers[:-1]
        shifted[begins] = self.bos
        return Batch(ragged(source, source_lengths), ragged(shifted, target_lengths), torch.from_numpy(answers))

    def epoch(self, batch_tokens: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from the one numbered `skip`."""
        for chosen in self.plan(batch_tokens, seed, epoch)[skip:]:
            yield self.batch(chosen)

    def plan(self, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
        return plan_by_length([self.source.lengths, self.target.lengths], batch_tokens, seed, epoch)


def plan_by_length(lengths: Sequence[np.ndarray], batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Which examples make which batch: neighbours in length, up to `batch_tokens` tokens of all sides together."""
    random = np.random.default_rng((seed, epoch))
    # Sorted by the first side, then the second; equal ones in random order. So attention pads little or not at all.
    order = np.lexsort((random.random(len(lengths[0])), *reversed(lengths)))
    sizes = np.sum(lengths, axis=0)[order]
    cuts, filled = [], 0
    for place, size in enumerate(sizes.tolist()):
        if filled and filled + size > batch_tokens:
            cuts.append(place)
            filled = 0
        filled += size
    batches = np.split(order, cuts)
    return [batches[place] for place in random.permutation(len(batches))]


def ragged(ids: np.ndarray, lengths: np.ndarray) -> Sequences:
    """Rows laid end to end, as `Packed.take` gives them."""
    return Sequences(torch.from_numpy(ids), Layout(tuple(lengths.tolist()), torch.device("cpu")))
