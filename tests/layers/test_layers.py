"""Positions, feed-forward, dropout and blocks: the formulas, and steps that equal the fast way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.attention import MultiHeadAttention, causal_mask, make_mask
from regard.errors import RegardError
from regard.key_value_cache import KeyValueCache
from regard.layers.blocks import DecoderLayer, EncoderLayer, PostNorm, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import ACTIVATIONS, FeedForward
from regard.layers.positions import LearnedPositions, SinusoidalPositions, sinusoids
from regard.sequences import Sequences


@pytest.mark.parametrize("width", [2, 7, 12])
def test_the_sinusoids_are_the_formula_of_the_notes(width):
    table = sinusoids(50, width)
    for position in (0, 1, 17, 49):
        for column in range(width):
            angle = position / 10000 ** (2 * (column // 2) / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_the_table_of_positions_grows():
    positions = SinusoidalPositions(6)
    far = torch.tensor([5000, 3])
    assert torch.equal(positions.encoding(far), sinusoids(5001, 6)[far])
    assert positions.encoding(torch.tensor([], dtype=torch.long)).shape == (0, 6)
    x = torch.randn(2, 6)
    assert torch.equal(positions.steps(x, far)["output"], positions(x, far))
    assert positions.state_dict() == {}


def test_a_table_that_grew_during_a_search_serves_training():
    positions, x = SinusoidalPositions(6), torch.randn(2, 6, requires_grad=True)
    with torch.inference_mode():
        positions.encoding(torch.tensor([9]))
    positions(x, torch.tensor([9, 0])).square().sum().backward()
    assert x.grad.isfinite().all()


def test_learned_positions_add_a_row_each():
    positions, x = LearnedPositions(7, 6, first=2), torch.randn(3, 6)
    places = torch.tensor([0, 4, 1])
    assert torch.equal(positions(x, places), x + positions.table.weight[[2, 6, 3]])
    assert torch.equal(positions.steps(x, places)["output"], positions(x, places))
    assert positions.encoding(torch.tensor([], dtype=torch.long)).shape == (0, 6)
    with pytest.raises(RegardError, match="a text of 6 tokens is too long: the model takes 5"):
        positions(x, torch.tensor([0, 5, 1]))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("gelu_new", lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2),
        ("silu", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations_are_their_formulas(name, formula):
    for x in (-3.0, -0.5, 0.0, 1.0, 4.0):
        assert ACTIVATIONS[name](torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(formula(x), abs=1e-9)


def test_feed_forward_is_the_formula():
    part = FeedForward(3, 5)
    x = torch.randn(7, 3)
    inner = x @ part.inner.weight.T + part.inner.bias
    expected = inner.clamp(min=0) @ part.output.weight.T + part.output.bias
    assert torch.allclose(part(x), expected, atol=1e-6)
    assert torch.allclose(part.steps(x)["output"], part(x))
    assert torch.equal(part.steps(x)["activated"], part.steps(x)["inner"].relu())


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
def test_dropout_drops_and_scales(p):
    dropout = Dropout(p)
    x = torch.ones(200_003, requires_grad=True)  # no multiple of four
    y = dropout(x)
    y.sum().backward()
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert torch.equal(x.grad, y.detach())  # the same factors go forward and back
    torch.manual_seed(5)
    first = dropout(x)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x))


def test_dropped_neighbours_are_independent():
    y = Dropout(0.5)(torch.ones(400_000)) > 0
    for distance in (1, 2, 3, 4, 8):
        both = (y[distance:] & y[:-distance]).float().mean().item()
        assert both == pytest.approx(0.25, abs=0.01)


def test_dropout_does_nothing_when_it_should_not():
    x = torch.randn(5)
    assert Dropout(0.3).eval()(x) is x
    assert Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match=r"lies in \[0, 1\)"):
        Dropout(1.0)


def layer_of(kind, residual):
    attentions = [MultiHeadAttention(6, 2) for _ in range(2 if kind is DecoderLayer else 1)]
    layer = kind(*attentions, FeedForward(6, 10), lambda: residual(6, 0.0)).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


@given(
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3),
    residual=st.sampled_from([PostNorm, PreNorm]),
)
def test_a_layer_equals_its_steps(lengths, residual):
    torch.manual_seed(3)
    x = Sequences.of([torch.randn(length, 6) for length, _ in lengths])
    memory = Sequences.of([torch.randn(length, 6) for _, length in lengths])
    encoder, decoder = layer_of(EncoderLayer, residual), layer_of(DecoderLayer, residual)
    encoded = encoder(x, make_mask(x.layout, x.layout))
    masks = make_mask(x.layout, x.layout, causal=True), make_mask(x.layout, memory.layout)
    decoded = decoder(x, memory, *masks)
    for row, (length, _) in enumerate(lengths):
        assert torch.allclose(encoder.steps(x[row], slice(None))["output"], encoded[row], atol=1e-5)
        past = causal_mask(length, length)
        steps = decoder.steps(x[row], slice(None), past, memory[row])
        assert torch.allclose(steps["output"], decoded[row], atol=1e-5)
        last = slice(length - 1, length)
        assert torch.allclose(
            decoder.steps(x[row], last, past[last], memory[row])["output"], decoded[row][last], atol=1e-5
        )


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
def test_a_layer_token_by_token_equals_all_at_once(residual):
    layer = layer_of(EncoderLayer, residual)
    x = Sequences.of([torch.randn(5, 6), torch.randn(5, 6)])
    together = layer(x, make_mask(x.layout, x.layout, causal=True)).pad()
    cache = KeyValueCache.empty(2, 2, 3, x.values)
    for position in range(5):
        assert torch.allclose(layer.step(x.pad()[:, position], cache), together[:, position], atol=1e-5)


def test_the_epsilon_of_a_norm_is_handed_in():
    assert [kind(6, 0.0, 0.25).norm.eps for kind in (PostNorm, PreNorm)] == [0.25, 0.25]
