"""An encoder's parts as a CPU computes them fastest; the model they are made of stays as it is.

Linear maps whose weights are laid out once for oneDNN, in float32 or bfloat16, with GELU in the same pass; attention
over runs of sequences of one length, without padding and without a mask. For answers only: no gradients.
(`benchmarks/embed.py`)
"""

from __future__ import annotations

import copy
from itertools import groupby
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import Mask, MultiHeadAttention, scaled_dot_product
from regard.layers.feed_forward import ACTIVATIONS, FeedForward
from regard.sequences import Sequences

Precision = Literal["fp32", "bf16"]
"""What matrices are multiplied in; attention, norms and the residual stream stay in float32."""

_TOKENS = 1024  # about as many go through at a time
_FUSED = {"gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", "")}

M = TypeVar("M", bound=nn.Module)


def packed(model: M, precision: Precision = "fp32") -> M:
    """A copy of an encoder that shares its weights but for those of the linear maps, which are laid out anew.

    Only for attention of whole texts to themselves: the packed kind knows no other mask.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fast = copy.deepcopy(model, dict(shared))
    made: dict[int, nn.Module] = {}  # layers may be shared too
    _exchange(fast, precision, made)
    return fast


class PackedLinear(nn.Module):
    """x W + b, then perhaps a non-linearity. Takes any dtype, gives float32, or with `narrow` what it computed in."""

    def __init__(
        self, linear: nn.Linear, precision: Precision, activation: str | None = None, narrow: bool = False
    ) -> None:
        super().__init__()
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.narrow, self.activation = narrow, activation
        weight = linear.weight.detach().to(self.dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(self.dtype)
        self.with_onednn = _has_onednn(weight) and (activation is None or activation in _FUSED)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS) if self.with_onednn else weight

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens outputs"]:
        entered = x.to(self.dtype)
        output: Tensor
        if self.with_onednn:
            name, kind = _FUSED[self.activation] if self.activation else ("none", "")
            output = torch.ops.mkldnn._linear_pointwise(entered, self.weight, self.bias, name, [], kind)
        else:
            output = F.linear(entered, self.weight, self.bias)
            output = ACTIVATIONS[self.activation](output) if self.activation else output
        return output if self.narrow else output.float()


class PackedFeedForward(nn.Module):
    """What lies between the two maps stays in their precision."""

    def __init__(self, inner: FeedForward, precision: Precision) -> None:
        super().__init__()
        self.inner = PackedLinear(inner.inner, precision, inner.activation, narrow=True)
        self.output = PackedLinear(inner.output, precision)

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        output: Tensor = self.output(self.inner(x))
        return output


class PackedAttention(nn.Module):
    """Self-attention. Sequences of one length that lie next to each other are rows of one call."""

    def __init__(self, attention: MultiHeadAttention, precision: Precision) -> None:
        super().__init__()
        if attention.rotation is not None or attention.key_heads != attention.heads:
            raise ValueError("only plain self-attention is packed")
        self.heads, self.head_width, self.scale = attention.heads, attention.head_width, attention.scale
        self.projection = PackedLinear(attention.projection, precision)
        self.output = PackedLinear(attention.output, precision)

    def forward(self, x: Sequences, memory: None, mask: Mask | None) -> Float[Tensor, "tokens width"]:
        """The mask hides padding, of which there is none."""
        projected, start = self.projection(x.values), 0
        mixed = projected.new_empty(len(projected), self.heads * self.head_width)
        for length, same in groupby(x.lengths):
            rows = len(list(same))
            stop = start + rows * length
            parts = projected[start:stop].view(rows, length, 3, self.heads, self.head_width)
            queries, keys, values = parts.permute(2, 0, 3, 1, 4)
            found = scaled_dot_product(queries, keys, values, None, self.scale)
            mixed[start:stop].view(rows, length, self.heads, self.head_width).copy_(found.transpose(1, 2))
            start = stop
        output: Tensor = self.output(mixed)
        return output


def _exchange(module: nn.Module, precision: Precision, made: dict[int, nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, FeedForward | MultiHeadAttention | nn.Linear):
            if id(child) not in made:
                made[id(child)] = _packed_part(child, precision)
            setattr(module, name, made[id(child)])
        else:
            _exchange(child, precision, made)


def _packed_part(part: FeedForward | MultiHeadAttention | nn.Linear, precision: Precision) -> nn.Module:
    if isinstance(part, FeedForward):
        return PackedFeedForward(part, precision)
    if isinstance(part, MultiHeadAttention):
        return PackedAttention(part, precision)
    return PackedLinear(part, precision)


def _has_onednn(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
