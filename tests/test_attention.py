"""Attention by hand, the notes' example, and the promise: the fast way equals the steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.attention import (
    Mask,
    MultiHeadAttention,
    cache_of,
    causal_mask,
    make_mask,
    scaled_dot_product,
    scaled_dot_product_steps,
)
from regard.key_value_cache import KeyValueCache
from regard.sequences import Layout, Sequences


def test_two_tokens_by_hand():
    queries = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]])
    keys = torch.tensor([[[1.0, 1.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]]])
    values = torch.tensor([[[10.0], [20.0]]])
    steps = scaled_dot_product_steps(queries, keys, values)
    assert steps["scores"].tolist() == [[[2.0, 0.0]]]  # q.k: 1*1 + 1*1, and 0
    assert steps["scaled_scores"].tolist() == [[[1.0, 0.0]]]  # / sqrt(4)
    e = math.e
    assert steps["weights"][0, 0].tolist() == pytest.approx([e / (e + 1), 1 / (e + 1)])
    assert steps["mixed"].item() == pytest.approx((10 * e + 20) / (e + 1))


def test_the_example_of_the_notes():
    """e(Python) = 0.4 e(Python) + 0.4 e(crawls) + 0.2 e(quickly), and so on: the weighted sum of step 4."""
    weights = torch.tensor([[0.4, 0.4, 0.2], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]])
    embeddings = torch.randn(3, 5)
    # Keys that are unit vectors and queries that are sqrt(d) log(weight): the softmax then gives these weights.
    queries, keys = math.sqrt(3) * weights.log()[None], torch.eye(3)[None]
    steps = scaled_dot_product_steps(queries, keys, embeddings[None])
    assert torch.allclose(steps["weights"][0], weights)
    python, crawls, quickly = embeddings
    assert torch.allclose(steps["mixed"][0, 0], 0.4 * python + 0.4 * crawls + 0.2 * quickly)
    assert torch.allclose(steps["mixed"][0, 1], 0.3 * python + 0.6 * crawls + 0.1 * quickly)
    assert torch.allclose(steps["mixed"][0, 2], 0.1 * python + 0.1 * crawls + 0.8 * quickly)
    assert torch.allclose(scaled_dot_product(queries[None], keys[None], embeddings[None, None])[0], steps["mixed"])


SIZES = st.integers(1, 7)


@given(
    rows=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=SIZES,
    keys=SIZES,
    width=st.sampled_from([1, 4, 5]),
    double=st.booleans(),
    learning=st.booleans(),
    masked=st.floats(0, 1),
)
def test_the_fast_way_equals_the_steps(rows, heads, queries, keys, width, double, learning, masked):
    dtype = torch.float64 if double else torch.float32
    q = torch.randn(rows, heads, queries, width, dtype=dtype, requires_grad=learning)
    k, v = (torch.randn(rows, heads, keys, width, dtype=dtype) for _ in range(2))
    allowed = torch.rand(rows, 1, queries, keys) >= masked
    fast = scaled_dot_product(q, k, v, Mask(allowed))
    for row in range(rows):
        steps = scaled_dot_product_steps(q[row], k[row], v[row], allowed[row, 0])
        assert torch.allclose(fast[row], steps["mixed"], atol=1e-5)
        empty = ~allowed[row, 0].any(-1)
        assert (fast[row][:, empty] == 0).all()  # a fully masked row is zero in both
        assert (steps["mixed"][:, empty] == 0).all()
    if learning:
        fast.sum().backward()
        assert q.grad.isfinite().all()


@given(queries=SIZES, keys=SIZES, masked=st.sampled_from([0.0, 0.5, 1.0]))
def test_gradients_equal_those_of_the_naive_formula_and_are_numbers(queries, keys, masked):
    inputs = [torch.randn(2, 3, length, 5, dtype=torch.float64) for length in (queries, keys, keys)]
    allowed = torch.rand(2, 1, queries, keys) >= masked
    towards = torch.randn(2, 3, queries, 5, dtype=torch.float64)

    def naive(q, k, v):
        powers = (q @ k.mT / math.sqrt(5)).exp() * allowed
        return powers / powers.sum(-1, keepdim=True).clamp(min=1e-30) @ v

    found = []
    for way in (lambda q, k, v: scaled_dot_product(q, k, v, Mask(allowed)), naive):
        leaves = [value.clone().requires_grad_() for value in inputs]
        way(*leaves).backward(towards)
        found.append([leaf.grad for leaf in leaves])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-9)


def test_a_memory_without_a_token_adds_nothing_but_the_bias():
    attention = MultiHeadAttention(width=6, heads=2)
    x = Sequences.of([torch.randn(3, 6), torch.randn(2, 6)])
    memory = Sequences.of([torch.randn(4, 6), torch.randn(0, 6)])
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            found = attention(x, memory, make_mask(x.layout, memory.layout))
        assert torch.equal(found[3:], attention.output.bias.expand(2, 6))
    assert torch.equal(attention.steps(x[1], memory[1])["output"], attention.output.bias.expand(2, 6))


def test_masks_hide_padding_and_the_future():
    three, five = Layout((1, 3), torch.device("cpu")), Layout((5, 5), torch.device("cpu"))
    assert make_mask(three, five) is None  # no padded key, nothing to hide
    assert make_mask(five, three).allowed.tolist() == [[[[True, False, False]]], [[[True, True, True]]]]
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]
    # Padding stands at the end of a row, after all of its tokens: what hides the future hides it too.
    assert make_mask(three, three, causal=True).allowed[0, 0].equal(causal_mask(3, 3))
    with pytest.raises(ValueError, match="looks at itself"):
        make_mask(five, three, causal=True)


def test_a_causal_mask_is_made_only_if_it_is_asked_for():
    long = Layout((40_000,), torch.device("cpu"))
    mask = make_mask(long, long, causal=True)
    queries = torch.randn(1, 1, 40_000, 2)
    with torch.no_grad():
        mixed = scaled_dot_product(queries, queries, queries, mask)
    torch.testing.assert_close(mixed[0, 0, 0], queries[0, 0, 0])
    assert "allowed" not in vars(mask)


LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=4)


@given(lengths=LENGTHS, learning=st.booleans())
def test_multi_head_attention_equals_its_steps_in_ragged_batches(lengths, learning):
    torch.manual_seed(1)
    attention = MultiHeadAttention(width=6, heads=3).requires_grad_(learning)
    x = Sequences.of([torch.randn(length, 6) for length, _ in lengths])
    memory = Sequences.of([torch.randn(length, 6) for _, length in lengths])
    alone = attention(x, None, make_mask(x.layout, x.layout))
    past = attention(x, None, make_mask(x.layout, x.layout, causal=True))
    cross = attention(x, memory, make_mask(x.layout, memory.layout))
    for row, (length, _) in enumerate(lengths):
        part = slice(sum(other for other, _ in lengths[:row]), sum(other for other, _ in lengths[: row + 1]))
        assert torch.allclose(alone[part], attention.steps(x[row], x[row])["output"], atol=1e-5)
        seen = attention.steps(x[row], x[row], causal_mask(length, length))
        assert torch.allclose(past[part], seen["output"], atol=1e-5)
        assert torch.allclose(cross[part], attention.steps(x[row], memory[row])["output"], atol=1e-5)
        one = attention.steps(x[row][-1:], x[row])
        assert torch.allclose(one["output"][0], alone[part][-1], atol=1e-5)


def test_steps_have_a_name_and_a_shape_of_their_own():
    attention = MultiHeadAttention(width=6, heads=2)
    steps = attention.steps(torch.randn(5, 6), torch.randn(7, 6))
    shapes = {name: tuple(value.shape) for name, value in steps.items()}
    assert shapes == {
        "queries": (2, 5, 3),
        "keys": (2, 7, 3),
        "values": (2, 7, 3),
        "scores": (2, 5, 7),
        "scaled_scores": (2, 5, 7),
        "masked_scores": (2, 5, 7),
        "weights": (2, 5, 7),
        "mixed": (2, 5, 3),
        "heads": (2, 5, 6),
        "output": (5, 6),
    }


def test_token_by_token_with_a_cache_equals_all_at_once():
    torch.manual_seed(2)
    attention = MultiHeadAttention(width=6, heads=2)
    x = Sequences.of([torch.randn(40, 6), torch.randn(40, 6)])
    cache = KeyValueCache.empty(2, 2, 3, x.values, room=4)  # too small: it has to grow
    together = attention(x, None, make_mask(x.layout, x.layout, causal=True)).view(2, 40, 6)
    for position in range(40):
        token = torch.stack([x[0][position], x[1][position]])
        attention.remember(token, cache)
        assert torch.allclose(attention.step(token, cache), together[:, position], atol=1e-5)
    assert cache.length == 40
    chosen = cache.select(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.keys[0], cache.keys[1])
    assert torch.equal(chosen.values[2], cache.values[0])


@pytest.mark.parametrize("learning", [True, False])
def test_a_scale_of_its_own_is_used_in_every_way(learning):
    attention = MultiHeadAttention(width=6, heads=2, scale=0.3).requires_grad_(learning)
    x = Sequences.of([torch.randn(4, 6), torch.randn(4, 6)])
    together = attention(x, None, make_mask(x.layout, x.layout, causal=True)).view(2, 4, 6)
    steps = attention.steps(x[1], x[1], causal_mask(4, 4))
    assert torch.allclose(steps["scaled_scores"], 0.3 * steps["scores"])
    assert torch.allclose(steps["output"], together[1], atol=1e-5)
    cache = KeyValueCache.empty(2, 2, 3, x.values)
    with torch.no_grad():
        for position in range(4):
            token = x.values.view(2, 4, 6)[:, position]
            attention.remember(token, cache)
            assert torch.allclose(attention.step(token, cache), together[:, position], atol=1e-5)


@pytest.mark.parametrize("learning", [True, False])
def test_weights_are_dropped_and_scaled_while_training_only(learning):
    """Values of 1, a plain sum of many equal weights: what is left of it tells how many were kept."""
    queries, ones = torch.zeros(1, 1, 50, 4, requires_grad=learning), torch.ones(1, 1, 2000, 4)
    mixed = scaled_dot_product(queries, ones, ones, dropout=0.25).detach()
    assert mixed.mean().item() == pytest.approx(1, abs=0.02)
    assert mixed.std().item() == pytest.approx((0.25 / 0.75 / 2000) ** 0.5, rel=0.25)
    attention = MultiHeadAttention(width=6, heads=2, dropout=0.5).requires_grad_(learning)
    x = Sequences.of([torch.randn(4, 6)])
    assert not torch.allclose(attention(x, None, None), attention(x, None, None))
    assert torch.equal(attention.eval()(x, None, None), attention(x, None, None))


def test_rows_that_share_a_memory_are_queries_of_one_call():
    attention = MultiHeadAttention(width=6, heads=2)
    memory = Sequences.of([torch.randn(4, 6), torch.randn(2, 6)])
    x = torch.randn(6, 6)  # three rows for each of two memories
    mask = make_mask(Layout((1, 1), torch.device("cpu")), memory.layout)
    together = attention.step(x, cache_of(attention, memory), beams=3, mask=mask)
    for row in range(6):
        alone = attention.steps(x[row : row + 1], memory[row // 3])["output"][0]
        assert torch.allclose(together[row], alone, atol=1e-5)


def test_shapes_are_checked_while_the_tests_run():
    with pytest.raises(Exception, match="type"):
        scaled_dot_product_steps(torch.randn(2, 3, 4), torch.randn(2, 5, 6), torch.randn(2, 5, 4))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="cannot be cut into 4 heads"):
        MultiHeadAttention(width=6, heads=4)
