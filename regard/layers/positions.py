"""Positions: what tells a model that has no recurrence which token comes first.

Sinusoids as in Vaswani et al. 2017, section 3.5:
PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).
Or a learned vector for each position, as in GPT and BERT (2018).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.errors import RegardError


class SinusoidalPositions(nn.Module):
    """Adds the sinusoid of its position to each token. Has no weights; the table grows with the longest text seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self._table = sinusoids(0, width)

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
            self._table = sinusoids(max(needed, 2 * len(self._table)), self.width).to(positions.device)
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


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """The table PE of section 3.5, computed in float64 and rounded once."""
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    rates = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2] = (positions * rates).sin()
    table[:, 1::2] = (positions * rates).cos()[:, : width // 2]
    return table.float()
