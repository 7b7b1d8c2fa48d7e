"""The LSTM over rows of different lengths, as a CPU learns it fastest: a lean loop over time, its derivative by hand.

PyTorch's kernel for such batches keeps a dozen tensors a step and adds up a gradient of the whole matrix at each. Here
a step is one product and one pass over its rows, in native code where that is at hand (`regard/native/lstm.h`), and the
gradient of the weights is one product over all tokens at the end. (`benchmarks/train_systems.py`)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from regard.layers.time_order import TimeOrder
from regard.native import LstmStruct, library
from regard.native.matrices import KINDS, PRECISIONS, Matrix
from regard.native.products import linear, product
from regard.sequences import Sequences


def learns_fast(x: Sequences) -> bool:
    """Whether `learned_lstm` is faster than PyTorch's kernel, which is good where all rows have one length."""
    return x.layout.tokens > 0 and x.values.device.type == "cpu" and (not x.layout.even or library() is not None)


def learned_lstm(
    x: Sequences, state: tuple[Tensor, Tensor], weights: Sequence[Tensor], reverse: bool
) -> tuple[Sequences, Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """A layer over a ragged batch: hidden state after each token; hidden state and cell after the last one read.

    `weights`: input weight, hidden weight, input bias, hidden bias. Some row has a token.
    """
    input_weight, hidden_weight, input_bias, hidden_bias = weights
    time = TimeOrder.of(x.layout, reverse)
    inputs = linear(time.arrange(x.values), input_weight, input_bias + hidden_bias)
    begun = [part[time.rows][: time.sizes[0]] for part in state]
    hiddens, cells = lstm_loop(inputs, hidden_weight, begun[0], begun[1], time.sizes)
    last = (x.layout.offsets[:-1] if reverse else x.layout.offsets[1:] - 1).clamp(0, x.layout.tokens - 1)
    read = x.layout.length_tensor[:, None] > 0  # a row without tokens keeps its state
    hidden, cell = (
        torch.where(read, part[time.places[last]], old.to(part.dtype))
        for part, old in zip((hiddens, cells), state, strict=True)
    )
    return x.with_values(time.restore(hiddens)), hidden, cell


def lstm_loop(
    inputs: Float[Tensor, "tokens gates"],
    weight: Float[Tensor, "gates width"],
    hidden: Float[Tensor, "rows width"],
    cell: Float[Tensor, "rows width"],
    sizes: tuple[int, ...],
) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens width"]]:
    """Hidden states and cells after each token, all in order of time; `sizes`: how many rows are read at each time.

    `inputs`: the input's share of the gates, biases included. Products and gates are in its dtype, cells in float32 at
    least, so that what is remembered over many steps is not rounded at each.
    """
    native = library() is not None and inputs.dtype in KINDS
    loop = _NativeLoop if native else _Loop
    found: tuple[Tensor, Tensor] = loop.apply(inputs, weight, hidden, cell, sizes)  # type: ignore[no-untyped-call]
    return found


class _Loop(torch.autograd.Function):
    """Gates in PyTorch's order: input gate, forget gate, candidate, output gate."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, sizes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        width = weight.shape[1]
        with torch.autocast(inputs.device.type, enabled=False):
            weight, start, began = weight.to(inputs.dtype), hidden.to(inputs.dtype), cell.to(_wide(inputs.dtype))
            across, gates = weight.t().contiguous(), torch.empty_like(inputs)
            hiddens, cells = inputs.new_empty(len(inputs), width), began.new_empty(len(inputs), width)
            past, remembered = start, began
            parts = (inputs.split(sizes), gates.split(sizes), hiddens.split(sizes), cells.split(sizes))
            for entering, gate, new, kept in zip(*parts, strict=True):
                rows = len(entering)
                torch.addmm(entering, past[:rows], across, out=gate)
                i, f, g, o = gate.split(width, dim=1)
                gate[:, : 2 * width].sigmoid_()
                g.tanh_()
                o.sigmoid_()
                torch.mul(f, remembered[:rows], out=kept).add_(i * g)
                torch.mul(kept.tanh().to(gate.dtype), o, out=new)
                past, remembered = new, kept
        ctx.save_for_backward(gates, hiddens, cells, weight, start, began)
        ctx.sizes = sizes
        return hiddens, cells

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gates, hiddens, cells, weight, start, began = ctx.saved_tensors
        sizes, width = ctx.sizes, weight.shape[1]
        with torch.autocast(gates.device.type, enabled=False):
            slopes, leaving = _slopes(gates, cells, _before(cells, began, sizes))
            d_gates = torch.empty_like(gates)
            d_hidden, d_cell = torch.zeros_like(start), torch.zeros_like(began)
            d_hiddens, d_cells = (given.to(to.dtype) for given, to in zip(gradients, (gates, cells), strict=True))
            parts = (d_hiddens, d_cells, gates, slopes, leaving, d_gates)
            each = list(zip(*(part.split(sizes) for part in parts), strict=True))
            for more_hidden, more_cell, gate, slope, left, d_gate in reversed(each):
                rows = len(gate)
                d_h, d_c = d_hidden[:rows].add_(more_hidden), d_cell[:rows].add_(more_cell)
                d_c.addcmul_(d_h, left)
                slope, d_four = slope.view(rows, 4, width), d_gate.view(rows, 4, width)
                torch.mul(slope[:, :3], d_c[:, None], out=d_four[:, :3])
                torch.mul(slope[:, 3], d_h, out=d_four[:, 3])
                d_c.mul_(gate[:, width : 2 * width])
                torch.mm(d_gate, weight, out=d_h)
            d_weight = product(d_gates.t(), _before(hiddens, start, sizes))
        return d_gates, d_weight, d_hidden, d_cell, None


class _NativeLoop(torch.autograd.Function):
    """The same; sums, and what a row is given at its ends, are float32 whatever the gates are."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, sizes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        inputs, start, began = inputs.contiguous(), hidden.float().contiguous(), cell.float().contiguous()
        gates, hiddens = torch.empty_like(inputs), inputs.new_empty(len(inputs), weight.shape[1])
        cells = began.new_empty(hiddens.shape)
        arrays = {"inputs": inputs, "gates": gates, "hiddens": hiddens, "cells": cells, "hidden": start, "cell": began}
        _run(weight, sizes, inputs.dtype, arrays | {"sums": began.new_empty(sizes[0], len(weight))})
        ctx.save_for_backward(gates, hiddens, cells, weight, start, began)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        return hiddens, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor | None, d_cells: Tensor | None) -> Any:
        gates, hiddens, cells, weight, start, began = ctx.saved_tensors
        d_gates, d_hidden, d_cell = torch.empty_like(gates), torch.zeros_like(start), torch.zeros_like(began)
        arrays = {
            "gates": gates,
            "cells": cells,
            "cell": began,
            "d_gates": d_gates,
            "d_hidden": d_hidden,
            "d_cell": d_cell,
        }
        if d_hiddens is not None:
            arrays["d_hiddens"] = d_hiddens.to(gates.dtype).contiguous()
        if d_cells is not None:
            arrays["d_cells"] = d_cells.float().contiguous()
        _run(weight.t(), ctx.sizes, gates.dtype, arrays, back=True)
        with torch.autocast(gates.device.type, enabled=False):
            d_weight = product(d_gates.t(), _before(hiddens, start.to(gates.dtype), ctx.sizes))
        return d_gates, d_weight.to(weight.dtype), d_hidden, d_cell, None


def _run(
    weight: Tensor, sizes: tuple[int, ...], dtype: torch.dtype, arrays: dict[str, Tensor], back: bool = False
) -> None:
    """The native call. `weight` (outputs, inputs): of the product in each step."""
    native = library()
    assert native is not None
    matrix = Matrix(weight, precision=PRECISIONS[KINDS[dtype]], finite=False)
    rows_at = torch.tensor(sizes, dtype=torch.int32)
    rounded = torch.zeros(-(-sizes[0] // 16) * 16 * matrix.bytes_per_row, dtype=torch.int8)
    call = LstmStruct(
        width=arrays["cells"].shape[1],
        times=len(sizes),
        rows=sizes[0],
        threads=torch.get_num_threads(),
        rows_at=rows_at.data_ptr(),
        matrix=matrix.address,
        rounded=rounded.data_ptr(),
        **{name: array.data_ptr() for name, array in arrays.items()},
    )
    native.regard_lstm(ctypes.byref(call), back)


def _slopes(gates: Tensor, cells: Tensor, pasts: Tensor) -> tuple[Tensor, Tensor]:
    """For all tokens: by what a change of cell (i, f, g) or hidden state (o) is multiplied to be one before the gate;
    and by what a change of the hidden state, to be one of the cell.
    """
    i, f, g, o = gates.chunk(4, dim=1)
    known = cells.tanh()
    slopes = torch.empty_like(gates)
    d_i, d_f, d_g, d_o = slopes.chunk(4, dim=1)
    torch.mul(g, i - i * i, out=d_i)
    torch.mul(pasts, f - f * f, out=d_f)
    torch.mul(i, 1 - g * g, out=d_g)
    torch.mul(known, o - o * o, out=d_o)
    return slopes, o * known.square_().neg_().add_(1)


def _before(states: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """For each token the state that it found."""
    found = [start[: sizes[0]]]
    found += [now[:following] for now, following in zip(states.split(sizes), sizes[1:], strict=False)]
    return torch.cat(found)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
