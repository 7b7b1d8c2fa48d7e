"""GELU in native code, held to PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regard.layers.gelu import gelu_tanh
from regard.native import library


@pytest.fixture(autouse=True)
def with_kernel() -> None:
    if library() is None:
        pytest.skip("no kernels were built here")


@pytest.mark.parametrize("threads", [1, 2])
@given(count=st.integers(1, 500), reach=st.sampled_from([0.01, 1.0, 5.0, 60.0]), half=st.booleans())
def test_values_and_derivatives_are_those_of_pytorch(threads: int, count: int, reach: float, half: bool) -> None:
    dtype = torch.bfloat16 if half else torch.float32
    x = (reach * torch.randn(count)).to(dtype).requires_grad_()
    upstream, before = torch.randn(count).to(dtype), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = gelu_tanh(x)
        (d_x,) = torch.autograd.grad(y, x, upstream)
    finally:
        torch.set_num_threads(before)
    assert "_Gelu" in type(y.grad_fn).__name__
    exact = x.detach().double().requires_grad_()
    wanted = F.gelu(exact, approximate="tanh")
    (d_exact,) = torch.autograd.grad(wanted, exact, upstream.double())
    rounding = {"rtol": 5e-3, "atol": 1e-5} if half else {"rtol": 2e-6, "atol": 1e-5}
    assert y.dtype == d_x.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, **rounding)
    torch.testing.assert_close(d_x.double(), d_exact, **rounding)


def test_views_shapes_and_numbers_that_are_none() -> None:
    x = torch.randn(6, 8)[:, ::2].requires_grad_()
    y = gelu_tanh(x)
    assert y.shape == x.shape
    (d_x,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(d_x, torch.autograd.grad(F.gelu(x, approximate="tanh").sum(), x)[0])
    broken = torch.tensor([float("nan"), 1.0], requires_grad=True)
    assert gelu_tanh(broken).isnan().tolist() == [True, False]


@pytest.mark.parametrize("what", ["answers", "float64", "nothing"])
def test_elsewhere_it_is_pytorchs_own(what: str) -> None:
    x = torch.randn(0 if what == "nothing" else 9, dtype=torch.float64 if what == "float64" else torch.float32)
    x.requires_grad_(what != "answers")
    assert "_Gelu" not in type(gelu_tanh(x).grad_fn).__name__
    assert torch.equal(gelu_tanh(x), F.gelu(x, approximate="tanh"))
