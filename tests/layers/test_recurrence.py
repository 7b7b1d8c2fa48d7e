"""LSTM and GRU against PyTorch's and against their equations; steps that equal the fast way; the dropouts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from regard.layers.recurrence import GRU, LSTM, Bidirectional, EmbeddingDropout, LockedDropout, LSTMState
from regard.layers.time_order import TimeOrder
from regard.sequences import Layout, Sequences

LENGTHS = [3, 5, 1, 5, 2]
KINDS = ["lstm", "gru", "reset_before"]
ragged = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def layer_of(kind, reverse=False, input_width=5, width=7):
    return LSTM(input_width, width, reverse) if kind == "lstm" else GRU(input_width, width, reverse, kind != "gru")


def random_state(layer, rows):
    if isinstance(layer, LSTM):
        return LSTMState(torch.randn(rows, layer.width), torch.randn(rows, layer.width))
    return torch.randn(rows, layer.width)


def parts(state):
    return tuple(state) if isinstance(state, LSTMState) else (state,)


def row_of(state, row):
    return state.select(torch.tensor([row])) if isinstance(state, LSTMState) else state[row : row + 1]


def twin_of(layer):
    """PyTorch's layer with the same weights."""
    twin = (nn.LSTM if isinstance(layer, LSTM) else nn.GRU)(layer.input_weight.shape[1], layer.width, batch_first=True)
    names = {"weight_ih_l0": "input_weight", "weight_hh_l0": "hidden_weight"}
    names |= {"bias_ih_l0": "input_bias", "bias_hh_l0": "hidden_bias"}
    twin.load_state_dict({theirs: getattr(layer, ours) for theirs, ours in names.items()})
    return twin, names


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4]], ids=["ragged", "even"])
@pytest.mark.parametrize("begun", [False, True])
def test_the_same_as_pytorch_with_gradients(kind, lengths, begun):
    layer = layer_of(kind)
    twin, names = twin_of(layer)
    rows = [torch.randn(length, 5) for length in lengths]
    ours, theirs = (pad_sequence(rows, batch_first=True).requires_grad_() for _ in range(2))
    state = random_state(layer, len(rows)) if begun else None
    hx = None if state is None else tuple(part[None] for part in parts(state))
    packed = pack_padded_sequence(theirs, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    other, other_last = twin(packed, hx if kind == "lstm" or hx is None else hx[0])
    other = pad_packed_sequence(other, batch_first=True)[0]
    x = Sequences.of_padded(ours, lengths)
    output, last = layer(x, state)
    assert torch.allclose(output.pad(), other, atol=1e-6)
    for one, two in zip(parts(last), other_last if kind == "lstm" else (other_last,), strict=True):
        assert torch.allclose(one, two[0], atol=1e-6)
    weighted = torch.randn_like(other)
    ((output.pad() * weighted).sum() + sum(part.square().sum() for part in parts(last))).backward()
    ((other * weighted).sum() + sum(part.square().sum() for part in other_last)).backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    for theirs_name, ours_name in names.items():
        assert torch.allclose(getattr(layer, ours_name).grad, getattr(twin, theirs_name).grad, atol=1e-5), ours_name


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4]], ids=["ragged", "even"])
def test_both_directions_are_pytorchs(kind, lengths):
    both = Bidirectional(layer_of(kind), layer_of(kind, reverse=True))
    twin = (nn.LSTM if kind == "lstm" else nn.GRU)(5, 7, batch_first=True, bidirectional=True)
    weights = {}
    for ending, layer in (("l0", both.ahead), ("l0_reverse", both.back)):
        weights |= {f"weight_ih_{ending}": layer.input_weight, f"weight_hh_{ending}": layer.hidden_weight}
        weights |= {f"bias_ih_{ending}": layer.input_bias, f"bias_hh_{ending}": layer.hidden_bias}
    twin.load_state_dict(weights)
    x = Sequences.of([torch.randn(length, 5) for length in lengths])
    packed = pack_padded_sequence(x.pad(), torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    other = pad_packed_sequence(twin(packed)[0], batch_first=True)[0]
    assert torch.allclose(both(x).pad(), other, atol=1e-6)


def test_both_directions_are_asked_for():
    with pytest.raises(ValueError, match="the second in reverse"):
        Bidirectional(layer_of("gru"), layer_of("gru"))


def equations_of_the_paper(layer, x, hidden):
    """Bahdanau et al. 2015, appendix A.1.1, one token at a time, as it is printed there."""
    w_r, w_z, w = layer.input_weight.chunk(3)
    u_r, u_z, u = layer.hidden_weight.chunk(3)
    b_r, b_z, b = layer.input_bias.chunk(3)
    states = []
    for token in reversed(x) if layer.reverse else x:
        z = torch.sigmoid(w_z @ token + u_z @ hidden + b_z)
        r = torch.sigmoid(w_r @ token + u_r @ hidden + b_r)
        candidate = torch.tanh(w @ token + u @ (r * hidden) + b)
        hidden = (1 - z) * hidden + z * candidate
        states.append(hidden)
    return torch.stack(states[::-1] if layer.reverse else states)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4]], ids=["ragged", "even"])
def test_the_gru_of_the_paper_is_its_equations_with_gradients(reverse, lengths):
    layer = layer_of("reset_before", reverse)
    rows = [torch.randn(length, 5, requires_grad=True) for length in lengths]
    state = torch.randn(len(rows), 7, requires_grad=True)
    weighted = [torch.randn(length, 7) for length in lengths]
    wanted = [*rows, state, *layer.parameters()]
    expected = [equations_of_the_paper(layer, row, begun) for row, begun in zip(rows, state, strict=True)]
    loss = sum((one * two).sum() for one, two in zip(expected, weighted, strict=True))
    gradients = torch.autograd.grad(loss, wanted)
    output, last = layer(Sequences.of(rows), state)
    assert torch.allclose(output.values, torch.cat(expected), atol=1e-6)
    assert torch.allclose(last, torch.stack([row[0 if reverse else -1] for row in expected]), atol=1e-6)
    found = torch.autograd.grad((output.values * torch.cat(weighted)).sum(), wanted)
    for one, two in zip(found, gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_the_gradient_by_hand_is_the_numerical_one():
    layer = layer_of("reset_before").double()
    rows = [torch.randn(length, 5, dtype=torch.double, requires_grad=True) for length in (2, 3)]
    weight, state = layer.hidden_weight, torch.randn(2, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: layer(Sequences.of(rows), state)[0].values, (*rows, state, weight))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_of_an_lstm_by_hand_is_the_numerical_one(reverse):
    layer = layer_of("lstm", reverse, input_width=2, width=3).double()
    rows = [torch.randn(length, 2, dtype=torch.double, requires_grad=True) for length in (2, 0, 3)]
    state = [torch.randn(3, 3, dtype=torch.double, requires_grad=True) for _ in range(2)]

    def found(*_):
        output, last = layer(Sequences.of(rows), LSTMState(*state))
        return output.values, *last

    assert torch.autograd.gradcheck(found, (*rows, *state, *layer.parameters()))


def test_an_lstm_learns_in_bf16_what_it_learns_in_float32():
    layer = layer_of("lstm", input_width=16, width=32)
    x, weighted = Sequences.of([torch.randn(length, 16) for length in (9, 30, 17)]), torch.randn(56, 32)
    gradients = []
    for narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = (layer(x)[0].values.float() * weighted).sum()
        gradients.append(torch.autograd.grad(loss, tuple(layer.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert rounded.dtype == torch.float32
        assert (exact - rounded).norm() < 0.03 * exact.norm()


@given(lengths=ragged, kind=st.sampled_from(KINDS), reverse=st.booleans(), begun=st.booleans())
def test_a_layer_equals_its_steps(lengths, kind, reverse, begun):
    torch.manual_seed(3)
    layer = layer_of(kind, reverse)
    x = Sequences.of([torch.randn(length, 5) for length in lengths])
    state = random_state(layer, len(lengths)) if begun else None
    output, last = layer(x, state)
    for row, length in enumerate(lengths):
        begin = None if state is None else row_of(state, row)
        for queries in (slice(None), slice(length // 2, length // 2 + 1), slice(0, 0)):
            steps = layer.steps(x[row], queries, begin)
            assert list(steps)[-1] == "output"
            assert torch.allclose(steps["output"], output[row][queries], atol=1e-5)
        if not length:  # nothing was read: nothing changes
            kept = begin if begun else layer.start(1, x.values)
            assert all(torch.equal(*pair) for pair in zip(parts(row_of(last, row)), parts(kept), strict=True))
        else:
            assert torch.allclose(parts(last)[0][row], output[row][0 if reverse else -1], atol=1e-6)


@given(lengths=ragged)
def test_both_directions_equal_their_steps(lengths):
    torch.manual_seed(3)
    both = Bidirectional(layer_of("reset_before"), layer_of("lstm", reverse=True))
    x = Sequences.of([torch.randn(length, 5) for length in lengths])
    output = both(x)
    for row in range(len(lengths)):
        steps = both.steps(x[row], slice(1, None))
        assert torch.allclose(steps["output"], output[row][1:], atol=1e-5)
        assert torch.equal(steps["back.hidden"], steps["output"][:, 7:])


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_same(kind):
    layer = layer_of(kind)
    x, state = torch.randn(3, 4, 5), random_state(layer, 3)
    together, last = layer(Sequences.of(list(x)), state)
    for position in range(4):
        output, state = layer.step(x[:, position], state)
        assert torch.allclose(output, together.pad()[:, position], atol=1e-6)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(parts(state), parts(last), strict=True))


def test_the_gates_of_one_step_by_hand():
    layer = LSTM(1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.input_bias.copy_(torch.tensor([100.0, -100.0, 0.5, 100.0]))  # take in, forget, candidate, let out
    steps = layer.steps(torch.zeros(1, 1), slice(None), LSTMState(torch.ones(1, 1), torch.ones(1, 1)))
    assert [steps[name].item() for name in ("input_gate", "forget_gate", "output_gate")] == pytest.approx([1, 0, 1])
    candidate = torch.tensor(0.5).tanh()
    assert steps["candidate"].item() == pytest.approx(candidate.item())
    assert steps["cell"].item() == pytest.approx(candidate.item())
    assert steps["hidden"].item() == pytest.approx(candidate.tanh().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [LENGTHS, [3, 3]], ids=["ragged", "even"])
def test_half_precision_of_a_training_run(kind, lengths):
    layers = [layer_of(kind), layer_of(kind, input_width=7)]
    x = Sequences.of([torch.randn(length, 5) for length in lengths])
    exact = layers[1](layers[0](x)[0])[0].values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, state = layers[1](layers[0](x)[0])
        loss = rounded.values.float().square().mean() + parts(state)[0].float().square().mean()
    loss.backward()
    assert torch.allclose(rounded.values.float(), exact, atol=0.05)
    assert all(parameter.grad.isfinite().all() for layer in layers for parameter in layer.parameters())


# --- order of time -------------------------------------------------------------------------------------------------


@given(lengths=ragged, reverse=st.booleans())
def test_the_order_of_time(lengths, reverse):
    layout = Layout(tuple(lengths), torch.device("cpu"))
    time = TimeOrder.of(layout, reverse)
    assert sum(time.sizes) == layout.tokens
    assert list(time.sizes) == [sum(length > at for length in lengths) for at in range(layout.longest)]
    expected = [
        int(layout.offsets[row]) + (lengths[row] - 1 - at if reverse else at)
        for at in range(layout.longest)
        for row in time.rows.tolist()
        if lengths[row] > at
    ]
    assert time.order.tolist() == expected
    values = torch.randn(layout.tokens, 2)
    assert torch.equal(time.restore(time.arrange(values)), values)
    assert torch.equal(time.rows[time.ranks], torch.arange(len(lengths)))


# --- dropouts ------------------------------------------------------------------------------------------------------


def test_dropped_weights_are_between_hidden_states_only_and_last_a_whole_call():
    layer = LSTM(5, 50, weight_dropout=0.5)
    x = Sequences.of([torch.zeros(4, 5), torch.zeros(4, 5)])
    output, _ = layer(x)
    assert torch.equal(output[0], output[1])  # one mask for all rows
    assert not torch.equal(output[0], layer(x)[0][0])  # another for the next call
    first = Sequences.of([torch.randn(1, 5)])  # without a past the weights do not count
    assert torch.equal(layer(first)[0].values, layer.eval()(first)[0].values)
    layer.train()
    state = random_state(layer, 1)
    layer(first, state)[0].values.sum().backward()
    share = (layer.hidden_weight.grad == 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)  # no gradient reaches a dropped weight
    assert (layer.input_weight.grad != 0).all()


def test_dropped_weights_are_scaled():
    layer = LSTM(5, 7, weight_dropout=0.25)
    plain = LSTM(5, 7)
    plain.load_state_dict(layer.state_dict())
    x = Sequences.of([torch.randn(3, 5)])
    torch.manual_seed(4)
    output, _ = layer(x)
    torch.manual_seed(4)
    with torch.no_grad():
        plain.hidden_weight.copy_(layer.weight_dropout(layer.hidden_weight))
    assert torch.equal(output.values, plain(x)[0].values)
    assert plain.hidden_weight.abs().max() > layer.hidden_weight.abs().max()  # 1 / (1 - p)


def test_locked_dropout_is_the_same_at_all_times():
    dropout = LockedDropout(0.3)
    x = Sequences.of([torch.ones(4, 200), torch.ones(7, 200)])
    y = dropout(x)
    for row in y:
        assert torch.equal(row, row[:1].expand_as(row))
    assert not torch.equal(y[0][0], y[1][0])
    assert y.values.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
    assert (y.values == 0).float().mean().item() == pytest.approx(0.3, abs=0.06)
    assert dropout.eval()(x) is x


def test_embedding_dropout_drops_words():
    embedding, dropout = nn.Embedding(100, 3), EmbeddingDropout(0.4)
    tokens = torch.arange(100).repeat(2)
    found = dropout(embedding, tokens)
    assert torch.equal(found[:100], found[100:])
    dropped = (found[:100] == 0).all(dim=1)
    assert dropped.float().mean().item() == pytest.approx(0.4, abs=0.15)
    assert torch.allclose(found[:100][~dropped], embedding.weight[~dropped] / 0.6, rtol=1e-4)
    assert torch.equal(dropout.eval()(embedding, tokens), embedding(tokens))
