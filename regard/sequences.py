"""Ragged sequences: the tokens of many sequences laid end to end.

A batch of B sequences with N tokens in all is one tensor `values` of shape (tokens, ...) and the length of each
sequence. Everything position-wise (embedding, projections, feed-forward, norm, the loss) runs on `values` as it is, so
no arithmetic is spent on padding. Only attention may need rows and columns, where no kernel of ours takes it as it is;
`pad` and `unpad` change the view around that one call, and where all lengths are equal they are free.

    >>> batch = Sequences.of([torch.tensor([5, 6, 7]), torch.tensor([8])])
    >>> batch.values.tolist(), batch.lengths
    ([5, 6, 7, 8], (3, 1))
    >>> batch.pad(fill=0).tolist()
    [[5, 6, 7], [8, 0, 0]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where each sequence lies: the lengths, and the index tensors that follow from them (made once, when needed).

    One layout serves every layer of a forward pass. Lengths are Python integers: no device is asked for them.
    """

    lengths: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        if any(length < 0 for length in self.lengths):
            raise ValueError(f"lengths must not be negative: {self.lengths}")

    @cached_property
    def tokens(self) -> int:
        """N, the number of tokens in all."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Length of the longest sequence; 0 for an empty batch."""
        return max(self.lengths, default=0)

    @cached_property
    def even(self) -> bool:
        """Whether all sequences have the same length, so that padding changes nothing."""
        return all(length == self.longest for length in self.lengths)

    @cached_property
    def offsets(self) -> Int[Tensor, "rows_1"]:
        """Where each sequence begins, and the end: (B + 1,)."""
        return torch.tensor(list(accumulate(self.lengths, initial=0)), device=self.device)

    @cached_property
    def length_tensor(self) -> Int[Tensor, "rows"]:
        return torch.tensor(self.lengths, dtype=torch.long, device=self.device)

    @cached_property
    def rows(self) -> Int[Tensor, "tokens"]:
        """For each token, the sequence it belongs to."""
        numbers = torch.arange(len(self.lengths), device=self.device)
        return numbers.repeat_interleave(self.length_tensor, output_size=self.tokens)

    @cached_property
    def positions(self) -> Int[Tensor, "tokens"]:
        """For each token, its place in its own sequence, from 0."""
        return torch.arange(self.tokens, device=self.device) - self.offsets[self.rows]

    @cached_property
    def slots(self) -> Int[Tensor, "tokens"]:
        """For each token, its index in the padded batch seen as one list of B x longest places."""
        return self.rows * self.longest + self.positions

    @cached_property
    def present(self) -> Bool[Tensor, "rows longest"]:
        """Which places of the padded batch hold a token."""
        return torch.arange(self.longest, device=self.device) < self.length_tensor[:, None]

    def pad(self, values: Shaped[Tensor, "tokens *rest"]) -> Shaped[Tensor, "rows longest *rest"]:
        """Values laid out in rows, zero where no token is. Free when all lengths are equal."""
        shape = (len(self.lengths), self.longest, *values.shape[1:])
        if self.even:
            return values.reshape(shape)
        padded: Tensor = _Pad.apply(values, self.slots, shape[0] * shape[1])  # type: ignore[no-untyped-call]
        return padded.view(shape)

    def unpad(self, padded: Shaped[Tensor, "rows longest *rest"]) -> Shaped[Tensor, "tokens *rest"]:
        """The tokens of a padded batch, laid end to end: the inverse of `pad`."""
        flat = padded.reshape(len(self.lengths) * self.longest, *padded.shape[2:])
        if self.even:
            return flat
        values: Tensor = _Unpad.apply(flat, self.slots)  # type: ignore[no-untyped-call]
        return values


@dataclass(frozen=True)
class Sequences:
    """A ragged batch: `values` of shape (tokens, ...) and the layout that cuts them into sequences."""

    values: Shaped[Tensor, "tokens *rest"]
    layout: Layout

    def __post_init__(self) -> None:
        if self.values.shape[0] != self.layout.tokens:
            raise ValueError(f"{self.values.shape[0]} values, but the lengths add up to {self.layout.tokens}")

    @classmethod
    def of(cls, sequences: Sequence[Shaped[Tensor, "_ *rest"]]) -> Sequences:
        """Lay sequences end to end. They share dtype, device and the shape of one token."""
        if not sequences:
            raise ValueError("a batch needs at least one sequence")
        layout = Layout(tuple(len(sequence) for sequence in sequences), sequences[0].device)
        return cls(torch.cat(list(sequences)), layout)

    @classmethod
    def of_ids(cls, ids: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Sequences:
        """Token ids, one list a sequence."""
        layout = Layout(tuple(len(row) for row in ids), torch.device(device))
        return cls(torch.tensor([token for row in ids for token in row], dtype=torch.long, device=device), layout)

    @classmethod
    def of_padded(cls, padded: Shaped[Tensor, "rows longest *rest"], lengths: Sequence[int]) -> Sequences:
        """Drop the padding of a batch that is padded at the right."""
        kept = [padded[row, :length] for row, length in enumerate(lengths)]
        return cls.of(kept)

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.layout.lengths

    def __len__(self) -> int:
        return len(self.layout.lengths)

    def __getitem__(self, row: int) -> Shaped[Tensor, "length *rest"]:
        start = sum(self.lengths[:row])
        return self.values[start : start + self.lengths[row]]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values.split(list(self.lengths)))

    def with_values(self, values: Shaped[Tensor, "tokens *rest"]) -> Sequences:
        """The same layout over other values."""
        return Sequences(values, self.layout)

    def pad(self, fill: int | float = 0) -> Shaped[Tensor, "rows longest *rest"]:
        """Rows padded at the right with `fill`."""
        padded = self.layout.pad(self.values)
        if fill and not self.layout.even:
            present = self.layout.present.view(*padded.shape[:2], *[1] * (padded.dim() - 2))
            padded = torch.where(present, padded, torch.full_like(padded, fill))
        return padded

    def to(self, device: torch.device | str) -> Sequences:
        return Sequences(self.values.to(device), Layout(self.lengths, torch.device(device)))


class _Pad(torch.autograd.Function):
    """Scatter tokens to their slots. Its adjoint is a plain gather, which autograd would not find by itself."""

    @staticmethod
    def forward(ctx: Any, values: Shaped[Tensor, "tokens *rest"], slots: Tensor, places: int) -> Tensor:
        ctx.save_for_backward(slots)
        return values.new_zeros(places, *values.shape[1:]).index_copy_(0, slots, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (slots,) = ctx.saved_tensors
        return gradients[0].index_select(0, slots), None, None


class _Unpad(torch.autograd.Function):
    """Gather tokens from their slots; the adjoint of `_Pad`."""

    @staticmethod
    def forward(ctx: Any, padded: Shaped[Tensor, "places *rest"], slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.places = padded.shape[0]
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (slots,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient.new_zeros(ctx.places, *gradient.shape[1:]).index_copy_(0, slots, gradient), None
