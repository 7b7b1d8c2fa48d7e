"""Linear maps in 8-bit floating point (e4m3: 4 bits of exponent, 3 of mantissa), by the device's own products.

Micikevicius et al. 2022, "FP8 Formats for Deep Learning". A scale for each output and for each row of the input brings
their largest value to the largest number of the format.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import RegardError

_LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
_BLOCK = 16
"""GPUs multiply matrices whose sides are multiples of this."""


class Float8Linear(nn.Module):
    """x W^T + b, the products of numbers of 8 bits, their sum in bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.outputs, inputs = linear.weight.shape
        self.padding = -inputs % _BLOCK
        weight = F.pad(linear.weight.detach().float(), (0, self.padding, 0, -self.outputs % _BLOCK))
        rounded, scales = _rounded(weight)
        self.register_buffer("weight", rounded)
        self.register_buffer("scales", scales.t().contiguous())
        self.bias = None if linear.bias is None else linear.bias.detach()

    weight: Tensor
    scales: Tensor

    def forward(self, x: Float[Tensor, "tokens inputs"]) -> Float[Tensor, "tokens outputs"]:
        entering, scales = _rounded(F.pad(x.float(), (0, self.padding)))
        found = torch._scaled_mm(entering, self.weight.t(), scales, self.scales, out_dtype=torch.bfloat16)
        found = found[:, : self.outputs].to(x.dtype)
        return found if self.bias is None else found + self.bias


def check_float8(device: torch.device) -> None:
    """RegardError where the device does not multiply such numbers."""
    try:
        Float8Linear(nn.Linear(_BLOCK, _BLOCK, device=device))(torch.ones(1, _BLOCK, device=device))
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RegardError(
            f"precision fp8 needs a device that multiplies in it; {device} does not ({reason})"
        ) from error


def _rounded(x: Float[Tensor, "rows width"]) -> tuple[Tensor, Float[Tensor, "rows 1"]]:
    """Rows of 8-bit numbers, and what each was divided by."""
    scales = (x.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(1e-12)
    return (x / scales).to(torch.float8_e4m3fn), scales
