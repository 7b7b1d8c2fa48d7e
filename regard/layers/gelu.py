"""GELU in its form with tanh, which GPT has, as it learns on a CPU.

In native code: PyTorch's takes two to three times as long. (docs/log.md, "Training beside peers")
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.native import GeluStruct, library
from regard.native.matrices import KINDS
from regard.native.products import are_plain

_MOST = 2**31 - 1024  # what the kernel counts to


def gelu_tanh(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks & Gimpel 2016, section 2)."""
    learns = torch.is_grad_enabled() and x.requires_grad and x.dtype in KINDS and 0 < x.numel() < _MOST
    if learns and library() is not None and are_plain((x,)):
        found: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
        return found
    return F.gelu(x, approximate="tanh")


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _run(x, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return _run(x, gradient.to(x.dtype).contiguous())


def _run(x: Tensor, gradient: Tensor | None) -> Tensor:
    native = library()
    assert native is not None
    found = torch.empty_like(x)
    call = GeluStruct(
        kind=KINDS[x.dtype],
        threads=torch.get_num_threads(),
        count=x.numel(),
        x=x.data_ptr(),
        d_y=None if gradient is None else gradient.data_ptr(),
        found=found.data_ptr(),
    )
    native.regard_gelu(ctypes.byref(call))
    return found
