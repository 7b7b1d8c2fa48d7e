"""Additive attention: the equations of Bahdanau et al. 2015, the steps, masks, and a row without a key."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.attention import Mask, make_mask
from regard.layers.additive_attention import AdditiveAttention, additive_steps
from regard.sequences import Layout, Sequences


def attention() -> AdditiveAttention:
    return AdditiveAttention(5, 7, 11)


def test_one_query_and_two_keys_by_hand():
    vector = torch.tensor([2.0])
    steps = additive_steps(torch.tensor([[0.5]]), torch.tensor([[-0.5], [0.5]]), torch.tensor([[10.0], [20.0]]), vector)
    score = 2 * torch.tensor(1.0).tanh()  # the other one is tanh(0) = 0
    assert steps["scores"].tolist() == [[0.0, pytest.approx(score.item())]]
    weight = torch.sigmoid(score).item()
    assert steps["weights"].tolist() == [pytest.approx([1 - weight, weight])]
    assert steps["mixed"].item() == pytest.approx(10 * (1 - weight) + 20 * weight)


def test_it_is_the_equations_with_gradients():
    part = attention()
    query, memory = torch.randn(5, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    scores = torch.stack([part.vector @ torch.tanh(part.query.weight @ query + part.key.weight @ h) for h in memory])
    weights = scores.exp() / scores.exp().sum()
    expected = sum(weight * h for weight, h in zip(weights, memory, strict=True))
    wanted = [query, memory, *part.parameters()]
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    output = part(Sequences.of([query[None]]), Sequences.of([memory]))
    assert torch.allclose(output[0], expected, atol=1e-6)
    for one, two in zip(torch.autograd.grad(output.square().sum(), wanted), gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


@given(lengths=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4))
def test_it_equals_its_steps(lengths):
    torch.manual_seed(3)
    part = attention()
    x = Sequences.of([torch.randn(length, 5) for length, _ in lengths])
    memory = Sequences.of([torch.randn(length, 7) for _, length in lengths])
    output = x.with_values(part(x, memory))
    for row in range(len(lengths)):
        for queries in (slice(None), slice(0, 1)):
            steps = part.steps(x[row][queries], memory[row])
            assert torch.allclose(steps["output"], output[row][queries], atol=1e-5)
            assert steps["weights"].shape == (len(x[row][queries]), len(memory[row]))


def test_a_query_that_may_look_at_nothing_gets_zeros():
    part = attention()
    x, memory = torch.randn(2, 5), torch.randn(3, 7)
    allowed = torch.tensor([[True, False, True], [False, False, False]])
    steps = part.steps(x, memory, allowed)
    assert (steps["weights"][1] == 0).all()
    assert (steps["output"][1] == 0).all()
    fast = part(Sequences.of([x]), Sequences.of([memory]), Mask(allowed[None, None]))
    assert torch.allclose(fast, steps["output"], atol=1e-6)


def test_one_query_a_row_is_the_same():
    part = attention()
    x, memory = torch.randn(3, 5), Sequences.of([torch.randn(length, 7) for length in (2, 4, 1)])
    keys, values = part.keys_of(memory)
    single = Layout((1, 1, 1), x.device)
    mask = make_mask(single, memory.layout)
    assert torch.allclose(part.step(x, keys, values, mask), part(Sequences(x, single), memory), atol=1e-6)
