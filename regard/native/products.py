"""Matrix products that learn, in float32: native code on processors where that of PyTorch stays far below the peak.

PyTorch multiplies float32 matrices with Intel's library, which reaches the peak on Intel's processors and less than
half of it on others. There `product.h` is twice as fast. (docs/log.md, "Training beside peers")
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regard.native import ProductStruct, library, processor

_WORTH = 1 << 19  # multiplications; of fewer the call costs as much as it saves


class Linear(nn.Linear):
    """PyTorch's linear map, x W^T + b, by `linear`."""

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """x W^T + b, as `torch.nn.functional.linear`."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if not (_learns(given) and _is_faster(x.numel() * len(weight), *given)):
        return F.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return found if x.dim() == 2 else found.view(*x.shape[:-1], -1)


def product(a: Float[Tensor, "rows depth"], b: Float[Tensor, "depth columns"]) -> Float[Tensor, "rows columns"]:
    """a b, without gradient: what the derivatives of layers are computed with."""
    return multiplied(a, b) if _is_faster(a.numel() * b.shape[1], a, b) else a @ b


def multiplied(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b + bias in native code, whatever is faster: float32 on the CPU, views as they lie; there are kernels."""
    native = library()
    assert native is not None
    c = a.new_empty(len(a), b.shape[1])
    strips = a.new_empty(len(b) * -(-b.shape[1] // 32) * 32)
    bias = None if bias is None else bias.contiguous()
    call = ProductStruct(
        rows=len(a),
        columns=b.shape[1],
        depth=len(b),
        threads=torch.get_num_threads(),
        a=a.data_ptr(),
        a_row=a.stride(0),
        a_depth=a.stride(1),
        b=b.data_ptr(),
        b_depth=b.stride(0),
        b_column=b.stride(1),
        bias=None if bias is None else bias.data_ptr(),
        c=c.data_ptr(),
        strips=strips.data_ptr(),
    )
    native.regard_product(ctypes.byref(call))
    return c


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiplied(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            multiplied(gradient, weight) if to_x else None,
            multiplied(gradient.t(), x) if to_weight else None,
            gradient.sum(dim=0) if to_bias else None,
        )


def _learns(given: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in given)


def _is_faster(multiplications: int, *given: Tensor) -> bool:
    """Only for plain tensors of one kind: what wraps or traces them, or casts them, knows PyTorch's products only."""
    return (
        multiplications >= _WORTH
        and _has_kernel()
        and all(type(part) in (Tensor, nn.Parameter) for part in given)
        and all(part.device.type == "cpu" and part.dtype == torch.float32 for part in given)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _has_kernel() -> bool:
    native = library()
    return native is not None and "avx512f" in native.regard_needs().decode() and "GenuineIntel" not in processor()
