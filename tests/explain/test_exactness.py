"""The promise: whatever a trace computes later is what an eager run of the same model computes."""

import math

import pytest
import torch
from explain.families import EVERY, WITH_HEADS, built, traced
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError, Trace
from regard.attention import CausalMask, MultiHeadAttention
from regard.explain.split import split, split_by_token


def eager(model, source, target):
    """Weights of every attention of one run, computed plainly from what the run handed to it, padding and all."""
    found = {}

    def note(place):
        def hook(module, inputs):
            x, memory, mask = inputs
            looked_at = x if memory is None else memory
            q = module.project_queries(x.pad())
            k, _ = module.split_pairs(module.project_memory(looked_at.pad()))
            q, k = module.turned(module.split(q)).float(), module.for_all_heads(module.turned(k)).float()
            scale = q.shape[-1] ** -0.5 if module.scale is None else module.scale
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * scale
            present = looked_at.layout.present[:, None, None, :]
            if isinstance(mask, CausalMask) or (mask is not None and mask.allowed.shape[-2] > 1):
                present = present & torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
            if mask is not None and mask.added is not None:
                scores = scores + mask.added
            found[place] = scores.masked_fill(~present, -math.inf).softmax(dim=-1)

        return hook

    hooks = [
        part.register_forward_pre_hook(note(place))
        for place, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, MultiHeadAttention)
    ]
    with torch.no_grad():
        hidden = model.hidden(source) if target is None else model.decode(target, model.encode(source))
    for hook in hooks:
        hook.remove()
    return found, hidden


@pytest.mark.parametrize("name", [name for name in WITH_HEADS if name != "albert"])
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_a_trace_is_an_eager_run(name, lengths, data):
    trace = traced(name, lengths)
    found, hidden = eager(trace.model, trace.source, trace.target)
    torch.testing.assert_close(trace.output.values, hidden.values, atol=1e-5, rtol=0)
    assert set(found) == set(trace.attention_places)
    row = data.draw(st.integers(0, len(lengths) - 1))
    for place, weights in found.items():
        head = data.draw(st.integers(0, weights.shape[1] - 1))
        view = trace.attention(place, head, row)
        expected = weights[row, head, : view.shape[0], : view.shape[1]]
        torch.testing.assert_close(trace.weights(place, head, row=row), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(view.mixed(), expected @ trace.values(place, head, row=row), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["transformer", "t5", "whisper", "gpt2", "llama", "bert"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.bfloat16, 2e-2)])
def test_in_other_precisions(name, dtype, close):
    trace = traced(name, dtype=dtype)
    found, _ = eager(trace.model, trace.source, trace.target)
    for place, weights in found.items():
        expected = weights[0, 1, : len(trace.weights(place, 1)), : trace.weights(place, 1).shape[1]]
        torch.testing.assert_close(trace.weights(place, 1).double(), expected.double(), atol=max(close, 1e-6), rtol=0)
    assert trace.weights(next(iter(found)), 0).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", ["transformer", "gpt", "bert", "llama"])
def test_numbers_name_the_same_attention_as_places(name):
    trace = traced(name)
    kinds = {"transformer": ["encoder", "decoder", "cross"]}.get(name, [None])
    for kind in kinds:
        place = trace.attention_place(1, kind)
        assert torch.equal(trace.weights(1, 2, kind=kind), trace.weights(place, 2))
        part = trace.weights(1, 2, slice(0, 1), slice(1, 3), kind)
        torch.testing.assert_close(part, trace.weights(place, 2)[:1, 1:3], atol=1e-6, rtol=0)
        scores = trace.scores(1, 2, kind=kind)
        torch.testing.assert_close(scores.softmax(dim=-1), trace.weights(1, 2, kind=kind), atol=1e-6, rtol=0)
        assert trace.map(1, 2, (slice(0, 2), slice(0, 3)), (1, 1), kind).mean.shape == (1, 1)
        mixed = trace.mixed(1, 2, slice(0, 2), kind)
        torch.testing.assert_close(mixed, trace.mixed(1, 2, kind=kind)[:2], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(trace.logits(slice(0, 2)) if name != "bert" else trace.logits()[:2], trace.logits()[:2])


@pytest.mark.parametrize("name", EVERY)
def test_the_stream_after_each_layer(name):
    trace = traced(name)
    places = trace.stack()
    assert torch.equal(trace.hidden(0), trace.entering(places[0]))
    for number, place in enumerate(places, start=1):
        assert torch.equal(trace.hidden(number), trace.leaving(place))
    assert torch.equal(trace.embedding(2, 1), trace.hidden(1)[2])


@pytest.mark.parametrize("name", WITH_HEADS)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=3), data=st.data())
def test_the_parts_of_a_vector_add_up_to_it(name, lengths, data):
    trace = traced(name, lengths)
    row = data.draw(st.integers(0, len(lengths) - 1))
    answering = trace.target if trace.target is not None else trace.source
    position = data.draw(st.integers(0, answering.lengths[row] - 1))
    found = split(trace, position, row)
    assert found.difference < 2e-5
    assert torch.equal(found.whole, trace.output[row][position])
    assert len(found.names) == len(found.parts) == len(set(found.names))
    layers = len(trace.stack("decoder" if "decoder" in trace.stacks else None))
    assert split(trace, position, row, upto=data.draw(st.integers(0, layers))).difference < 2e-5
    assert split_by_token(trace, lengths[row] - 1, row).difference < 2e-5


def test_a_part_is_what_is_missing_without_it():
    """The share of a head in the last layer is just what the vector loses when the head is silent (pre-norm)."""
    from regard.explain.edits import KnockOut, edited

    trace = traced("gpt2")
    found = split(trace, 5, upto=2)
    part = found.parts[found.names.index("1.self_attention.1")] + 0.0
    feed_forward = found.names.index("1.feed_forward")
    with edited(trace.model, [KnockOut("decoder.layers.1.self_attention", 1)]):
        without = Trace(trace.model, trace.source)
    other = split(without, 5, upto=2)
    there = without.entering("decoder.layers.1")[5]
    assert torch.equal(there, trace.entering("decoder.layers.1")[5])
    lost = found.whole - without.leaving("decoder.layers.1")[5]
    moved = found.parts[feed_forward] - (
        without.leaving("decoder.layers.1")[5] - (found.whole - part - found.parts[feed_forward])
    )
    torch.testing.assert_close(lost, part + moved, atol=1e-5, rtol=0)
    assert other.names == found.names


def test_recurrent_layers_are_not_split():
    with pytest.raises(RegardError, match="no layers of multi-head attention"):
        split(traced("awd_lstm"), 0)
    with pytest.raises(RegardError, match="no token 9: there are tokens 0 to 6"):
        split(traced("bert"), 9)
    assert built("bert").training is False


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_that_is_found_again_is_the_stream_of_the_run(name):
    """Bit for bit: the same layers, the same tokens."""
    from regard.explain.recording import LAYER

    trace, ran = traced(name), {}
    layers = {
        place: part for place, part in trace.model.named_modules(remove_duplicate=False) if LAYER.fullmatch(place)
    }

    def noting(place):
        def note(_, inputs, output):
            ran[place] = inputs[0].values, (output if isinstance(output, type(trace.source)) else output[0]).values

        return note

    hooks = [part.register_forward_hook(noting(place)) for place, part in layers.items()]
    again = Trace(trace.model, trace.source, trace.target)
    for hook in hooks:
        hook.remove()
    assert list(ran) == again.layers
    for place, (entered, left) in ran.items():
        assert torch.equal(again.entering_all(place).values, entered)
        assert torch.equal(again.leaving_all(place).values, left)


def test_of_twelve_layers_three_are_kept():
    from regard.models.bert import Bert, BertConfig

    model = Bert(BertConfig(vocab_size=29, hidden_size=12, num_attention_heads=3, intermediate_size=20)).eval()
    trace = Trace(model, traced("bert").source)
    assert list(trace.run.entering) == [f"encoder.layers.{number}" for number in (0, 4, 8)]
    assert not trace.run.leaving
    assert trace.proof("encoder.layers.11") < 1e-5
