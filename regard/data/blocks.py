"""Batches for language models and classifiers: blocks of a stream of text, and labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from regard.data.batches import plan_by_length, ragged
from regard.data.packed import Packed
from regard.sequences import Layout, Sequences


@dataclass(frozen=True)
class Block:
    """Pieces of text to predict: `answers` holds the token after each token of `inputs`."""

    inputs: Sequences
    answers: Tensor
    """(tokens,)"""
    first: bool = True
    """Whether nothing was read before them; else each row goes on where that of the batch before ended."""

    @property
    def tokens(self) -> int:
        return self.inputs.layout.tokens

    def to(self, device: torch.device) -> Block:
        return Block(self.inputs.to(device), self.answers.to(device), self.first)


class Blocks:
    """All texts laid end to end and cut into blocks of `context` tokens (Radford et al. 2018, section 4.1).

    In random order; or, as `streams`, in several rows that are read side by side from their beginning to their end, so
    that a recurrent model can carry its state from one batch to the next (Merity et al. 2018, section 5).
    """

    def __init__(self, texts: Packed | Sequence[Sequence[int]], context: int, streams: bool = False) -> None:
        self.ids = (texts if isinstance(texts, Packed) else Packed.of(texts)).ids
        self.context, self.streams = context, streams

    def __len__(self) -> int:
        return -(-max(0, len(self.ids) - 1) // self.context)

    @property
    def tokens(self) -> int:
        return max(0, len(self.ids) - 1)

    def plan(self, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Which blocks make which batch: in random order, anew each epoch; or streams, without what is left over."""
        if self.streams:
            count = max(1, min(len(self), batch_tokens // self.context))
            return list(np.arange(len(self) // count * count).reshape(count, -1).T)
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        size = max(1, batch_tokens // self.context)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def batch(self, chosen: np.ndarray) -> Block:
        rows = [self.ids[number * self.context : (number + 1) * self.context + 1] for number in chosen]
        lengths = tuple(len(row) - 1 for row in rows)
        inputs = torch.from_numpy(np.concatenate([row[:-1] for row in rows]).astype(np.int64))
        answers = torch.from_numpy(np.concatenate([row[1:] for row in rows]).astype(np.int64))
        return Block(Sequences(inputs, Layout(lengths, torch.device("cpu"))), answers, int(chosen[0]) == 0)


@dataclass(frozen=True)
class Labelled:
    """Whole texts with numbers to learn; `segments` tells the second text of a pair from the first."""

    inputs: Sequences
    segments: Sequences
    labels: Tensor
    """Those of all rows end to end: one each (rows,), or one a token (tokens,), or as many as the task has."""

    @property
    def tokens(self) -> int:
        return self.inputs.layout.tokens

    def to(self, device: torch.device) -> Labelled:
        inputs = self.inputs.to(device)
        segments = replace(self.segments, values=self.segments.values.to(device), layout=inputs.layout)
        return Labelled(inputs, segments, self.labels.to(device))


class LabelledTexts:
    """Tokenised texts, their segments and labels (one a text, or a row of them); batches of alike length."""

    def __init__(
        self,
        ids: Packed | Sequence[Sequence[int]],
        segments: Packed | Sequence[Sequence[int]],
        labels: Packed | Sequence[int],
    ) -> None:
        self.ids = ids if isinstance(ids, Packed) else Packed.of(ids)
        self.segments = segments if isinstance(segments, Packed) else Packed.of(segments)
        self.labels = labels if isinstance(labels, Packed) else Packed.of([label] for label in labels)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return int(self.ids.lengths.sum())

    def plan(self, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
        return plan_by_length([self.ids.lengths], batch_tokens, seed, epoch)

    def batch(self, chosen: np.ndarray) -> Labelled:
        inputs = ragged(*self.ids.take(chosen))
        segments = inputs.with_values(torch.from_numpy(self.segments.take(chosen)[0]))
        return Labelled(inputs, segments, torch.from_numpy(self.labels.take(chosen)[0]))
