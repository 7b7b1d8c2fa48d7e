"""The position-wise feed-forward network: FFN(x) = max(0, x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3)."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # as GPT computes it (Hendrycks & Gimpel 2016)
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them, the same for every position."""

    def __init__(self, width: int, inner_width: int, activation: str = "relu") -> None:
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(width, inner_width)
        self.output = nn.Linear(inner_width, width)

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        output: Tensor = self.output(ACTIVATIONS[self.activation](self.inner(x)))
        return output

    def steps(self, x: Float[Tensor, "*tokens width"]) -> dict[str, Tensor]:
        """`inner` before the non-linearity, `activated` after it (tokens, inner width); `output` (tokens, width)."""
        inner = self.inner(x)
        activated = ACTIVATIONS[self.activation](inner)
        return {"inner": inner, "activated": activated, "output": self.output(activated)}
