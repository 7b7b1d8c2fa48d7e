"""Matrix products that learn, on a CPU, where PyTorch's own stay far below what is possible.

float32: PyTorch multiplies with Intel's library, which reaches the peak on Intel's processors and stays below it on
others, below half of it on some. There `product.h` multiplies.

bfloat16: PyTorch compiles a kernel for each number of rows, which takes as long as the product or longer, and keeps it;
ragged batches have a new number of tokens at each step. Where a processor multiplies bfloat16 without tiles,
`product.h` does it, from weights as they lie. Elsewhere rows of zeros make the numbers of rows few.
(docs/log.md, "Training beside peers")
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

from regard.native import ProductStruct, has_wide_vectors, is_built_for, library, processor
from regard.native.matrices import KINDS

_WORTH = 1 << 19  # multiplications; of fewer the call costs as much as it saves
_DEEP = 1024  # see `Product` of product.h


class Linear(nn.Linear):
    """PyTorch's linear map, x W^T + b, by `linear`."""

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, "outputs"] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """x W^T + b, as `torch.nn.functional.linear`, under autocast too."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if x.numel() * len(weight) < _WORTH or not are_plain(given):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if _learns(given) and _is_faster(given):
        found: Tensor = _Linear.apply(rows, weight, bias, torch.float32)  # type: ignore[no-untyped-call]
    elif not _goes_in_half(given):
        return F.linear(x, weight, bias)
    elif _has_half_kernel():
        found = _Linear.apply(rows, weight, bias, torch.bfloat16)  # type: ignore[no-untyped-call]
    else:
        found = _LinearOfFewSizes.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return found if x.dim() == 2 else found.view(*x.shape[:-1], -1)


def product(a: Float[Tensor, "rows tokens"], b: Float[Tensor, "tokens columns"]) -> Float[Tensor, "rows columns"]:
    """a b, without gradient: what the derivatives of layers are computed with."""
    if a.numel() * b.shape[1] >= _WORTH and are_plain((a, b)):
        if _is_faster((a, b)):
            return multiplied(a, b)
        if a.dtype == b.dtype == torch.bfloat16:
            return multiplied(a, b) if _has_half_kernel() else _filled(a.t()).t() @ _filled(b)
    return a @ b


def are_plain(given: tuple[Tensor, ...]) -> bool:
    """On the CPU, and nothing wraps or traces them: what does knows PyTorch's products only."""
    plain = all(type(part) in (Tensor, nn.Parameter) and part.device.type == "cpu" for part in given)
    return plain and not torch.compiler.is_compiling()


def multiplied(a: Tensor, b: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """a b + bias in native code, whatever is faster: on the CPU, views as they lie; there are kernels.

    All float32; or `a` bfloat16, and `b` and `dtype`, that of the result (None: that of `a`), either: then in bfloat16.
    """
    native = library()
    assert native is not None
    dtype = a.dtype if dtype is None else dtype
    deep = a.dtype == torch.bfloat16 and len(b) > _DEEP  # more trips than one, and sums stay float32 between them
    c = torch.empty(len(a), b.shape[1], dtype=torch.float32 if deep else dtype)
    strips = torch.empty(min(len(b), _DEEP) * -(-b.shape[1] // 32) * 32)
    bias = None if bias is None else bias.float().contiguous()
    call = ProductStruct(
        rows=len(a),
        columns=b.shape[1],
        depth=len(b),
        threads=torch.get_num_threads(),
        a_kind=KINDS[a.dtype],
        b_kind=KINDS[b.dtype],
        c_kind=KINDS[c.dtype],
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
    return c.to(dtype)


class _Linear(torch.autograd.Function):
    """In float32, or in bfloat16, as autocast has it: then weights and gradients keep the types that they have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.dtypes = [None if part is None else part.dtype for part in (x, weight, bias)]
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        return multiplied(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        of_x, of_weight, of_bias = ctx.dtypes
        gradient = gradient.to(x.dtype)
        return (
            multiplied(gradient, weight, dtype=of_x) if to_x else None,
            multiplied(gradient.t(), x, dtype=of_weight) if to_weight else None,
            gradient.sum(dim=0).to(of_bias) if to_bias else None,
            None,
        )


class _LinearOfFewSizes(torch.autograd.Function):
    """In bfloat16, as autocast has it, with rows of zeros up to one of few numbers of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.dtypes = [None if part is None else part.dtype for part in (x, weight, bias)]
        filled = _filled(x)
        ctx.save_for_backward(filled, weight)  # not its copy: of a matrix that many layers share there would be many
        with torch.autocast("cpu", enabled=False):
            found = F.linear(filled, weight.bfloat16(), None if bias is None else bias.bfloat16())
        # Shorter, not a view of it, which could not be changed in place as the output of an operation can.
        return found.resize_(len(x), found.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        of_x, of_weight, of_bias = ctx.dtypes
        filled = _filled(gradient) if to_x or to_weight else gradient
        with torch.autocast("cpu", enabled=False):
            return (
                (filled @ weight.bfloat16())[: len(gradient)].to(of_x) if to_x else None,
                (filled.t() @ x).to(of_weight) if to_weight else None,
                gradient.sum(dim=0).to(of_bias) if to_bias else None,
            )


def _filled(x: Float[Tensor, "rows width"]) -> Float[Tensor, "more width"]:
    """In bfloat16, with rows of zeros below, up to one of at most 16 numbers from one power of two to the next."""
    rows = len(x)
    unit = max(16, (1 << rows.bit_length()) // 32)
    more = -(-rows // unit) * unit
    if more == rows:
        return x.bfloat16()
    found = x.new_empty(more, x.shape[1], dtype=torch.bfloat16)
    found[:rows] = x
    found[rows:] = 0
    return found


def _learns(given: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in given)


def _is_faster(given: tuple[Tensor, ...]) -> bool:
    """Whether native code is: for float32."""
    whole = all(part.dtype == torch.float32 for part in given)
    return whole and _has_kernel() and not torch.is_autocast_enabled("cpu")


def _goes_in_half(given: tuple[Tensor, ...]) -> bool:
    """Whether autocast takes the product to bfloat16."""
    is_half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_half and all(part.dtype in KINDS for part in given)


@cache
def _has_kernel() -> bool:
    return has_wide_vectors() and "GenuineIntel" not in processor()


@cache
def _has_half_kernel() -> bool:
    """Not where there are tiles, which PyTorch's products use better."""
    return is_built_for("avx512_bf16") and "amx_bf16" not in processor()
