"""Dropout (Srivastava et al. 2014) whose random numbers cost little.

PyTorch's dropout on a CPU draws one float a value, on one thread: 7 ns each, as much as a feed-forward layer. Here one
64-bit draw serves four values: each keeps its value when its 16 bits are at or above the threshold, so the probability
is exact to 1/65,536. On other devices the built-in one is used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_STEPS = 1 << 16


class Dropout(nn.Module):
    """Zero each value with probability `p` while training and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), not {p}")
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped: Tensor = _CheapDropout.apply(x, self.p)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _CheapDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        threshold = round(p * _STEPS)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        quarters = draws.view(torch.int16)[: x.numel()].view(x.shape)
        # The comparison writes floats at once: a product with a boolean mask is five times as slow.
        factors = torch.ge(quarters, threshold - _STEPS // 2, out=x.new_empty(x.shape))
        factors.mul_(_STEPS / (_STEPS - threshold))
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (factors,) = ctx.saved_tensors
        return gradients[0] * factors, None
