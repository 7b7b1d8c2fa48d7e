"""Weights prepared for products: laid out in blocks, as int8, bfloat16 or float32 (see matrix.h)."""

from __future__ import annotations

from ctypes import addressof
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.native import MatrixStruct, library

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
KINDS = {torch.float32: 0, torch.bfloat16: 1}
"""Of the tensors that kernels read and write, as `matrix.h` numbers them."""
_BLOCK = {"fp32": 1, "bf16": 32, "int8": 64}


def checked_precision(name: str) -> Precision:
    """RegardError where it is none."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise RegardError(f"precision is one of {', '.join(PRECISIONS)}, not {name!r}")


class Matrix:
    """A linear map, prepared: y = x W^T * factor + bias.

    int8: each output's weights are divided by their largest over 127 and rounded; inputs are rounded as they come, row
    by row, in the same way.
    """

    def __init__(
        self,
        weight: Float[Tensor, "outputs inputs"],
        bias: Float[Tensor, "outputs"] | None = None,
        precision: Precision = "int8",
        factor: float = 1.0,
        finite: bool = True,
    ) -> None:
        """`finite`: RegardError where a number is none; else products with it are none either."""
        native = library()
        assert native is not None
        outputs, inputs = weight.shape
        block = _BLOCK[precision]
        padded, rows = -(-inputs // block) * block, -(-outputs // 32) * 32
        weight = weight.detach().float() * factor
        if finite and not bool(weight.isfinite().all()):
            raise RegardError("a weight of the model is not finite: it cannot be prepared for generation")
        self.scales = self.sums = None
        self.bias = None if bias is None else bias.detach().float().contiguous()
        if precision == "int8":
            scales = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
            whole = (weight / scales[:, None]).round().to(torch.int8).contiguous()
            self.scales, self.sums = torch.zeros(rows), torch.zeros(rows)
            self.scales[:outputs] = scales
            self.blocks = torch.zeros(rows * padded, dtype=torch.int8)
            pointers = (self.blocks.data_ptr(), self.sums.data_ptr())
            native.regard_pack_int8(whole.data_ptr(), outputs, inputs, padded, *pointers)
        else:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            self.blocks = torch.zeros(rows * padded, dtype=dtype)
        self.bytes_per_row = padded * self.blocks.element_size()
        self.struct = MatrixStruct(
            PRECISIONS.index(precision), inputs, outputs, padded, self.blocks.data_ptr(), *map(_address, self._parts)
        )
        if precision != "int8":
            native.regard_pack(weight.data_ptr(), *weight.stride(), self.address)

    @property
    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.scales, self.sums, self.bias

    @property
    def address(self) -> int:
        return addressof(self.struct)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
