"""The position-wise feed-forward network: FFN(x) = max(0, x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3).

And its gated form, which most language models of today have.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.layers.gelu import gelu_tanh
from regard.native.products import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_tanh,  # as GPT computes it (Hendrycks & Gimpel 2016)
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them, the same for every position."""

    def __init__(self, width: int, inner_width: int, activation: str = "relu", bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.inner = Linear(width, inner_width, bias)
        self.output = Linear(inner_width, width, bias)

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        output: Tensor = self.output(ACTIVATIONS[self.activation](self.inner(x)))
        return output

    def steps(self, x: Float[Tensor, "*tokens width"]) -> dict[str, Tensor]:
        """`inner` before the non-linearity, `activated` after it (tokens, inner width); `output` (tokens, width)."""
        inner = self.inner(x)
        activated = ACTIVATIONS[self.activation](inner)
        return {"inner": inner, "activated": activated, "output": self.output(activated)}


class GatedFeedForward(nn.Module):
    """A linear map times a gate, then another: (f(x W) * x V) W2 (Shazeer 2020, "GLU Variants", equation 6).

    With f = silu it is SwiGLU (Llama), with f = gelu GEGLU (T5 1.1).
    """

    def __init__(self, width: int, inner_width: int, activation: str = "silu", bias: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.gate = Linear(width, inner_width, bias)
        self.inner = Linear(width, inner_width, bias)
        self.output = Linear(inner_width, width, bias)

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        output: Tensor = self.output(ACTIVATIONS[self.activation](self.gate(x)) * self.inner(x))
        return output

    def steps(self, x: Float[Tensor, "*tokens width"]) -> dict[str, Tensor]:
        """`gate` before the non-linearity, `inner`, `activated`, their product (tokens, inner width); `output`."""
        gate, inner = self.gate(x), self.inner(x)
        activated = ACTIVATIONS[self.activation](gate) * inner
        return {"gate": gate, "inner": inner, "activated": activated, "output": self.output(activated)}
