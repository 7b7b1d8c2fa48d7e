"""Positions: what tells a model that has no recurrence which token comes first.

Sinusoids as in Vaswani et al. 2017, section 3.5:
PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).
Or a learned vector for each position, as in GPT and BERT (2018). Or nothing is added, and attention itself sees places:
queries and keys are turned by their positions (RoFormer 2021, Llama), or scores know how far apart two are (T5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import RegardError


class SinusoidalPositions(nn.Module):
    """Adds the sinusoid of its position to each token. Has no weights; the table grows with the longest text seen.

    `in_turn`: sines and cosines alternate, as in the paper; else all sines come first, then all cosines (Marian).
    `to_the_end`: the slowest wave has the rate 1/10000 itself, where the paper's stays just above it (Whisper).
    """

    def __init__(self, width: int, in_turn: bool = True, to_the_end: bool = False) -> None:
        super().__init__()
        self.width, self.in_turn, self.to_the_end = width, in_turn, to_the_end
        self._table = sinusoids(0, width, in_turn, to_the_end)

    def forward(
        self, x: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        return x + self.encoding(positions).to(x.dtype)

    def steps(self, x: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]) -> dict[str, Tensor]:
        """`encoding`, what is added, and `output`, the sum; both (tokens, width)."""
        encoding = self.encoding(positions).to(x.dtype)
        return {"encoding": encoding, "output": x + encoding}

    def encoding(self, positions: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """The sinusoids of the given positions."""
        needed = int(positions.max()) + 1 if positions.numel() else 0
        if needed > len(self._table) or self._table.device != positions.device:
            length = max(needed, 2 * len(self._table))
            self._table = sinusoids(length, self.width, self.in_turn, self.to_the_end).to(positions.device)
        return self._table.index_select(0, positions)


class LearnedPositions(nn.Module):
    """Adds a trained vector for its position to each token. `first` rows of the table are unused (RoBERTa)."""

    def __init__(self, length: int, width: int, first: int = 0) -> None:
        super().__init__()
        self.first = first
        self.table = nn.Embedding(length, width)

    def forward(
        self, x: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "tokens width"]:
        return x + self.encoding(positions)

    def steps(self, x: Float[Tensor, "tokens width"], positions: Int[Tensor, "tokens"]) -> dict[str, Tensor]:
        """`encoding`, what is added, and `output`, the sum; both (tokens, width)."""
        encoding = self.encoding(positions)
        return {"encoding": encoding, "output": x + encoding}

    def encoding(self, positions: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """The vectors of the given positions; RegardError if the table ends before them."""
        longest = self.table.num_embeddings - self.first
        if positions.numel() and int(positions.max()) >= longest:
            raise RegardError(f"a text of {int(positions.max()) + 1} tokens is too long: the model takes {longest}")
        found: Tensor = self.table(positions + self.first)
        return found


class RotaryPositions(nn.Module):
    """Turns each pair of channels of queries and keys by an angle that grows with the position (Su et al. 2021).

    A dot product of two then depends on how far apart they are alone (section 3.2.1). The pairs are channels i and
    i + K/2, the angle of the i-th is position / base^(2i/K). Has no weights.
    """

    def __init__(self, head_width: int, base: float = 10000.0, scaling: RotaryScaling | None = None) -> None:
        super().__init__()
        rates = 1.0 / base ** (torch.arange(0, head_width, 2, dtype=torch.int64).float() / head_width)
        self._rates = rates if scaling is None else scaling.scale(rates)
        self._cosines = self._sines = torch.empty(0, head_width // 2)

    def forward(
        self, x: Float[Tensor, "*batch positions head_width"], positions: Int[Tensor, "*some"]
    ) -> Float[Tensor, "*batch positions head_width"]:
        cosines, sines = self._angles(positions)
        return turned(x, cosines.to(x.dtype), sines.to(x.dtype))

    def _angles(self, positions: Int[Tensor, "*some"]) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angles of each position: (*some, head_width / 2)."""
        needed = int(positions.max()) + 1 if positions.numel() else 0
        if needed > len(self._cosines) or self._cosines.device != positions.device:
            places = torch.arange(max(needed, 2 * len(self._cosines)), device=positions.device).float()
            angles = places[:, None] * self._rates.to(positions.device)
            self._cosines, self._sines = angles.cos(), angles.sin()
        return self._cosines[positions], self._sines[positions]


def turned(
    x: Float[Tensor, "*batch head_width"], cosines: Float[Tensor, "*#batch half"], sines: Float[Tensor, "*#batch half"]
) -> Float[Tensor, "*batch head_width"]:
    """Each pair of channels i and i + K/2 turned by its angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


@dataclass(frozen=True)
class RotaryScaling:
    """How the angles are made smaller, so that a model reads longer texts than it was first trained on.

    With `low_factor` and `high_factor` as in Llama 3.1: slow turns (over more than `original_length` / `low_factor`
    tokens) by `factor`, fast ones not at all, those between by something between. Without them all by `factor`.
    """

    factor: float
    low_factor: float | None = None
    high_factor: float | None = None
    original_length: int | None = None

    def scale(self, rates: Float[Tensor, "half_width"]) -> Float[Tensor, "half_width"]:
        if self.low_factor is None or self.high_factor is None or self.original_length is None:
            return rates / self.factor
        turns = self.original_length * rates / (2 * math.pi)
        kept = ((turns - self.low_factor) / (self.high_factor - self.low_factor)).clamp(0, 1)
        return (1 - kept) * rates / self.factor + kept * rates


class RelativePositions(nn.Module):
    """One learned number a head for each distance between query and key, added to the scores (Raffel et al. 2020, T5).

    Near distances have a number each, far ones share it with others of about their size (section 2.1): `buckets` in
    all, the last for `longest_distance` and more. With `both_sides` half of them are for keys that follow.
    """

    def __init__(self, heads: int, both_sides: bool, buckets: int = 32, longest_distance: int = 128) -> None:
        super().__init__()
        self.both_sides, self.buckets, self.longest_distance = both_sides, buckets, longest_distance
        self.table = nn.Embedding(buckets, heads)

    def forward(
        self, queries: Int[Tensor, "queries"], keys: Int[Tensor, "keys"]
    ) -> Float[Tensor, "heads queries keys"]:
        """What is added to the scores, from the positions of queries and keys."""
        found: Tensor = self.table(self.bucket(keys[None] - queries[:, None]))
        return found.movedim(-1, 0)

    def bucket(self, distances: Int[Tensor, "queries keys"]) -> Int[Tensor, "queries keys"]:
        """The number of each distance, key minus query."""
        buckets, offset = self.buckets, torch.zeros_like(distances)
        if self.both_sides:
            buckets //= 2
            offset, distances = (distances > 0) * buckets, distances.abs()
        else:
            distances = (-distances).clamp_min(0)
        exact = buckets // 2
        growth = (distances.float().clamp_min(1) / exact).log() / math.log(self.longest_distance / exact)
        far = (exact + (growth * (buckets - exact)).long()).clamp_max(buckets - 1)
        return offset + torch.where(distances < exact, distances, far)


def sinusoids(length: int, width: int, in_turn: bool = True, to_the_end: bool = False) -> Float[Tensor, "length width"]:
    """The table PE of section 3.5, computed in float64 and rounded once."""
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    steps = max(1, width - 2) if to_the_end else width
    rates = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / steps)
    sines, cosines = (positions * rates).sin(), (positions * rates).cos()[:, : width // 2]
    if not in_turn:
        return torch.cat([sines, cosines], dim=-1).float()
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table.float()
