"""The native loop beside the plain one: what an LSTM says and learns is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.layers import lstm_loop
from regard.layers.lstm_loop import _Loop, _NativeLoop, learns_fast
from regard.native import library
from regard.sequences import Sequences

needs_kernels = pytest.mark.skipif(library() is None, reason="the native kernels are not built")


def both(dtype, width, sizes, given=("hiddens", "cells"), threads=1):
    """What each loop says, and the gradients of everything it was given."""
    torch.manual_seed(5)
    drawn = [torch.randn(sum(sizes), 4 * width).to(dtype), 0.3 * torch.randn(4 * width, width)]
    drawn += [0.5 * torch.randn(sizes[0], width) for _ in range(2)]
    weighted = torch.randn(2, sum(sizes), width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = []
    try:
        for loop in (_Loop, _NativeLoop):
            arrays = [part.clone().requires_grad_() for part in drawn]
            said = dict(zip(("hiddens", "cells"), loop.apply(*arrays, sizes), strict=True))
            loss = sum((said[name].float() * weighted[number]).sum() for number, name in enumerate(given))
            found.append([*said.values(), *torch.autograd.grad(loss, arrays)])
    finally:
        torch.set_num_threads(before)
    return zip(*found, strict=True)


@needs_kernels
@given(st.integers(1, 70), st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 2))
def test_the_native_loop_equals_the_plain_one(width, sizes, threads):
    for plain, native in both(torch.float32, width, tuple(sorted(sizes, reverse=True)), threads=threads):
        assert native.dtype == plain.dtype
        assert torch.allclose(plain, native, atol=1e-5 * max(1.0, float(plain.detach().abs().max())))


@needs_kernels
@pytest.mark.parametrize("given", [("hiddens",), ("cells",)])
def test_what_nobody_asks_for_adds_nothing(given):
    for plain, native in both(torch.float32, 24, (3, 2, 2), given):
        assert torch.allclose(plain, native, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("width", [32, 50])
def test_in_bfloat16_both_are_as_near_to_float32(width):
    exact = [plain for plain, _ in both(torch.float32, width, (40, 17, 16, 3))]
    for true, (plain, native) in zip(exact, both(torch.bfloat16, width, (40, 17, 16, 3)), strict=True):
        assert native.dtype == plain.dtype or native.dtype == torch.float32
        wrong = [(one.float() - true).norm() / true.norm() for one in (plain, native)]
        assert wrong[1] < max(1.2 * wrong[0], 1e-3) < 0.05


@needs_kernels
def test_numbers_that_are_none_stay_so():
    layer = torch.full((4 * 8, 8), float("nan"))
    hiddens, _ = _NativeLoop.apply(torch.zeros(3, 4 * 8), layer, torch.zeros(3, 8), torch.zeros(3, 8), (3,))
    assert hiddens.isnan().all()


def test_rows_of_one_length_are_left_to_pytorch_without_kernels(monkeypatch):
    rows = [Sequences.of([torch.zeros(length, 3) for length in lengths]) for lengths in ((2, 2), (1, 2), (0, 0))]
    monkeypatch.setattr(lstm_loop, "library", lambda: None)
    assert [learns_fast(x) for x in rows] == [False, True, False]
    monkeypatch.setattr(lstm_loop, "library", lambda: object())
    assert [learns_fast(x) for x in rows] == [True, True, False]
