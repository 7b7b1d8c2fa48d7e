"""Ragged attention in native code, held to attention over padded rows in float64, and to its own steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regard import attention
from regard.attention import MultiHeadAttention, make_mask
from regard.native import has_wide_vectors
from regard.native.attention import Look, ragged_attention
from regard.sequences import Layout, Sequences


@pytest.fixture(autouse=True)
def with_kernel() -> None:
    if not has_wide_vectors():
        pytest.skip("no kernels were built here, or for narrow vectors")


def over_rows(module: MultiHeadAttention, x: Sequences, memory: Sequences | None, causal: bool) -> list[Tensor]:
    """The output and all derivatives."""
    values = [side.values.clone().requires_grad_() for side in (x, memory) if side is not None]
    sides = [side.with_values(own) for side, own in zip((x, memory), values, strict=False)]
    mask = make_mask(x.layout, x.layout if memory is None else memory.layout, causal)
    y = module(sides[0], sides[1] if memory is not None else None, mask)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, [*values, *module.parameters()], upstream, allow_unused=True)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["itself", "its past", "a memory"])
@settings(max_examples=15)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 90)), min_size=1, max_size=4),
    sizes=st.sampled_from([(32, 4, 4), (24, 2, 1), (128, 2, 2), (40, 1, 1), (5, 5, 5)]),
)
def test_outputs_and_derivatives_are_those_over_padded_rows(kind, threads, lengths, sizes):
    width, heads, key_heads = sizes
    module, before = MultiHeadAttention(width, heads, key_heads=key_heads), torch.get_num_threads()
    x, memory = (Sequences.of([torch.randn(both[side], width) for both in lengths]) for side in (0, 1))
    torch.set_num_threads(threads)
    try:
        found = over_rows(module, x, memory if kind == "a memory" else None, kind == "its past")
    finally:
        torch.set_num_threads(before)
    double = [side.with_values(side.values.double()) for side in (x, memory)]  # which no kernel takes
    wanted = over_rows(module.double(), double[0], double[1] if kind == "a memory" else None, kind == "its past")
    for mine, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_rounded_once():
    layout, heads = Layout((70, 3, 31), torch.device("cpu")), 4
    projected = torch.randn(layout.tokens, 3 * 64)
    look = Look(layout.offsets, layout.offsets, heads, heads, True, 0.25, 0.0)
    whole = ragged_attention(projected.bfloat16().float(), None, look)
    half = ragged_attention(projected.bfloat16(), None, look)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, whole.bfloat16())


def test_it_is_what_a_module_takes_under_autocast():
    module, x = MultiHeadAttention(64, 2), Sequences.of([torch.randn(9, 64), torch.randn(4, 64)])
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x, None, make_mask(x.layout, x.layout))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module(x, None, make_mask(x.layout, x.layout)), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropped_weights_are_as_many_as_asked_for_and_the_same_back(dropout):
    """Values that are unit vectors make the output the weights themselves; their derivative must see the same ones."""
    length, rows = 32, 40
    layout = Layout((length,) * rows, torch.device("cpu"))
    pairs = torch.cat([torch.zeros(layout.tokens, length), torch.eye(length).repeat(rows, 1)], dim=1).requires_grad_()
    look = Look(layout.offsets, layout.offsets, 1, 1, False, 1.0, dropout)
    torch.manual_seed(3)
    weights = ragged_attention(torch.zeros(layout.tokens, length), pairs, look)
    kept = weights > 0
    assert float((~kept).float().mean()) == pytest.approx(dropout, abs=0.01)
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / length / (1 - dropout)))
    by_place = kept.view(rows, length, length).float().mean(dim=0)
    assert float(by_place.min()) > 1 - dropout - 0.35  # no place is dropped in all rows
    upstream = torch.randn_like(weights)
    (gradient,) = torch.autograd.grad(weights, pairs, upstream)
    d_values = weights.detach().view(rows, length, length).transpose(1, 2) @ upstream.view(rows, length, length)
    torch.testing.assert_close(gradient[:, length:], d_values.flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_the_derivative_of_dropped_weights_is_that_of_differences():
    layout = Layout((6, 3), torch.device("cpu"))
    look = Look(layout.offsets, layout.offsets, 2, 2, True, 0.5, 0.3)

    def of(projected: Tensor) -> Tensor:
        torch.manual_seed(5)
        return (ragged_attention(projected, None, look) ** 2).sum()

    projected = torch.randn(layout.tokens, 24, requires_grad=True)
    direction = torch.randn_like(projected)
    (gradient,) = torch.autograd.grad(of(projected), projected)
    step = 1e-2
    difference = (of(projected + step * direction) - of(projected - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), difference.detach(), rtol=2e-2, atol=1e-3)


def test_the_same_seed_drops_the_same_on_any_number_of_threads():
    layout, before, found = Layout((40, 7), torch.device("cpu")), torch.get_num_threads(), []
    projected = torch.randn(layout.tokens, 96)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(2)
        found.append(ragged_attention(projected, None, Look(layout.offsets, layout.offsets, 2, 2, False, 0.2, 0.2)))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_what_is_added_to_scores_or_turned_or_wider_goes_over_rows(monkeypatch):
    monkeypatch.setattr(attention, "ragged_attention", lambda *_: pytest.fail("not ragged"))
    x = Sequences.of([torch.randn(3, 8), torch.randn(2, 8)])
    hidden = attention.Mask(torch.ones(2, 1, 3, 3, dtype=torch.bool))
    assert MultiHeadAttention(8, 2)(x, None, hidden).shape == (5, 8)
    turning = MultiHeadAttention(8, 2, rotation=lambda vectors, _: vectors)
    assert turning(x, None, make_mask(x.layout, x.layout)).shape == (5, 8)
    wide = x.with_values(x.values.double())
    assert MultiHeadAttention(8, 2).double()(wide, None, make_mask(x.layout, x.layout)).shape == (5, 8)
