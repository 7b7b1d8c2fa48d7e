"""Products in native code, held to those in float64 and to PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.native import library, products
from regard.native.products import Linear, linear, product

SIZES = st.integers(1, 300)


@pytest.fixture(autouse=True)
def with_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors too where PyTorch's products are faster, and for small ones."""
    if library() is None:
        pytest.skip("no kernels were built here")
    monkeypatch.setattr(products, "_WORTH", 1)
    monkeypatch.setattr(products, "_has_kernel", lambda: True)


@pytest.mark.parametrize("threads", [1, 2])
@given(rows=SIZES, depth=st.integers(1, 600), columns=SIZES, across=st.booleans(), back=st.booleans())
def test_products_are_as_exact_as_those_of_pytorch(
    threads: int, rows: int, depth: int, columns: int, across: bool, back: bool
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a = torch.randn(depth, rows).t() if across else torch.randn(rows, depth)
    b = torch.randn(columns, depth).t() if back else torch.randn(depth, columns)
    exact = a.double() @ b.double()
    try:
        torch.testing.assert_close(product(a, b).double(), exact, rtol=0, atol=3e-6 * depth**0.5 + 1e-7 * depth)
    finally:
        torch.set_num_threads(before)


@given(rows=SIZES, inputs=SIZES, outputs=SIZES, biased=st.booleans())
def test_a_linear_map_and_its_gradients(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if biased else None
    upstream = torch.randn(rows, outputs)
    found = []
    for compute, dtype in ((linear, torch.float32), (F.linear, torch.float64)):
        parts = [part.detach().to(dtype).requires_grad_() for part in (x, weight, bias) if part is not None]
        y = compute(*parts)
        assert ("_Linear" in type(y.grad_fn).__name__) == (compute is linear)
        found.append([y.double(), *(part.double() for part in torch.autograd.grad(y, parts, upstream.to(dtype)))])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=2e-4)


def test_a_row_comes_to_the_same_whatever_lies_beside_it() -> None:
    x, layer = torch.randn(100, 70), Linear(70, 50)
    assert torch.equal(layer(x)[17:40], layer(x[17:40]))


def test_leading_dimensions_and_frozen_parts() -> None:
    x, layer = torch.randn(3, 4, 70), Linear(70, 50)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer(x).shape == (3, 4, 50)
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((50,), 12.0))


def test_views_are_taken_as_they_lie() -> None:
    a, b = torch.randn(60, 80)[::2, ::2], torch.randn(80, 60)[::2, ::2]
    torch.testing.assert_close(product(a, b), a @ b)
    torch.testing.assert_close(product(a, torch.ones(1, 1).expand(40, 9)), a @ torch.ones(40, 9))


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=200)
@given(
    sizes=st.tuples(SIZES, st.one_of(SIZES, st.integers(1000, 3000)), SIZES),
    turned=st.tuples(st.booleans(), st.booleans()),
    types=st.tuples(*2 * [st.sampled_from([torch.float32, torch.bfloat16])]),
    biased=st.booleans(),
)
def test_halves_are_multiplied_exactly_and_rounded_once(
    threads: int,
    sizes: tuple[int, int, int],
    turned: tuple[bool, bool],
    types: tuple[torch.dtype, torch.dtype],
    biased: bool,
) -> None:
    rows, depth, columns = sizes
    a = (torch.randn(depth, rows).t() if turned[0] else torch.randn(rows, depth)).bfloat16()
    b = (torch.randn(columns, depth).t() if turned[1] else torch.randn(depth, columns)).to(types[0])
    bias, before = torch.randn(columns) if biased else None, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = products.multiplied(a, b, bias, types[1])
    finally:
        torch.set_num_threads(before)
    exact = a.double() @ b.bfloat16().double() + (0 if bias is None else bias.double())
    assert found.dtype == types[1]
    error, largest = (found.double() - exact).abs().max(), exact.abs().max().clamp(min=1)
    assert error <= 2e-7 * depth + largest * (1e-7 if types[1] == torch.float32 else 2**-8)


@pytest.mark.parametrize("way", ["_Linear", "_LinearOfFewSizes"])
@given(rows=st.integers(1, 200), inputs=SIZES, outputs=SIZES, biased=st.booleans(), wide=st.booleans())
def test_in_bfloat16_it_is_pytorchs(way: str, rows: int, inputs: int, outputs: int, biased: bool, wide: bool) -> None:
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    parts = [x if wide else x.bfloat16(), weight, *([torch.randn(outputs)] if biased else [])]
    upstream, found = torch.randn(rows, outputs).bfloat16(), []
    for compute in (linear, F.linear):
        given = [part.detach().requires_grad_() for part in parts]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_has_half_kernel", lambda: way == "_Linear")
            with torch.autocast("cpu", torch.bfloat16):
                y = compute(*given)
        assert y.dtype == torch.bfloat16
        assert (type(y.grad_fn).__name__ == f"{way}Backward") == (compute is linear)
        found.append([y, *torch.autograd.grad(y, given, upstream)])
    for ours, theirs, part in zip(*found, [found[0][0], *parts], strict=True):
        assert ours.dtype == part.dtype
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * max(inputs, outputs, rows) ** 0.5)


def test_what_it_gives_can_be_changed_in_place() -> None:
    for enabled in (True, False):
        x, weight = torch.randn(37, 70, requires_grad=True), torch.randn(50, 70)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = linear(x, weight)
        y.mul_(2)
        (d_x,) = torch.autograd.grad(y, x, torch.ones_like(y))
        torch.testing.assert_close(d_x, 2 * weight.sum(0).expand(37, 70), rtol=2e-2, atol=0.3)


def test_ragged_batches_meet_few_numbers_of_rows() -> None:
    counts = {len(products._filled(torch.zeros(rows, 1))) for rows in range(1, 4097)}
    assert len(counts) <= 16 * 5
    for rows in range(1, 4097, 7):
        filled = products._filled(torch.ones(rows, 1))
        assert rows <= len(filled) < max(rows + 16, rows * 17 / 16 + 1)
        assert filled.sum() == rows


@pytest.mark.parametrize("own", [True, False])
def test_derivatives_in_bfloat16_add_up_over_tokens(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_has_half_kernel", lambda: own)
    a, b = torch.randn(33, 50).bfloat16(), torch.randn(33, 40).bfloat16()
    torch.testing.assert_close(product(a.t(), b), a.t() @ b, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("what", ["answers", "float64", "meta"])
def test_elsewhere_it_is_pytorchs_own(what: str) -> None:
    x, weight = torch.randn(40, 30), torch.randn(20, 30, requires_grad=what != "answers")
    if what == "float64":
        x, weight = x.double(), weight.detach().double().requires_grad_()
    if what == "meta":
        x, weight = x.to("meta"), weight.detach().to("meta").requires_grad_()
    found, wanted = linear(x, weight), F.linear(x, weight)
    assert "_Linear" not in type(found.grad_fn).__name__
    assert found.dtype == wanted.dtype
    assert what == "meta" or torch.equal(found, wanted)


def test_what_is_not_finite_spreads() -> None:
    """Over its row, as in PyTorch."""
    x = torch.randn(40, 30)
    x[3, 4] = float("nan")
    x[5, 6] = float("inf")
    found = product(x, torch.randn(30, 20))
    assert found[3].isnan().all()
    assert not found[5].isfinite().any()
    assert found[[0, 1, 2, 4, *range(6, 40)]].isfinite().all()
