"""Changes inside a run: what they do, that they leave nothing behind, and what is out of range."""

import pytest
import torch
from explain.families import WITH_HEADS, built, traced

from regard import RegardError, Sequences, Trace
from regard.explain.edits import KnockOut, Patch, SetWeights, edited
from regard.explain.intervention import answer_of, intervene, sweep_heads, sweep_patches
from regard.explain.views import edit_of

KINDS = {"transformer": ["encoder", "decoder", "cross"], "pre-norm": ["cross"], "t5": ["encoder", "decoder", "cross"]}
KINDS["whisper"] = ["encoder", "decoder", "cross"]


def places(name, trace):
    return [trace.attention_place(1, kind) for kind in KINDS.get(name, [None])]


@pytest.mark.parametrize("name", WITH_HEADS)
def test_an_edit_that_changes_nothing_changes_nothing(name):
    """Rows set to what they are anyway: the stepwise way is the fast way."""
    trace = traced(name)
    for place in places(name, trace):
        edits = [
            SetWeights(place, query, tuple(row), head)
            for head in range(trace.model.get_submodule(place).heads)
            for query, row in enumerate(trace.weights(place, head).tolist())
        ]
        torch.testing.assert_close(answer_of(trace, edits, 1), answer_of(trace, [], 1), atol=1e-4, rtol=0)
        assert "forward" not in trace.model.get_submodule(place).__dict__


@pytest.mark.parametrize("name", WITH_HEADS)
def test_a_head_that_is_knocked_out_adds_nothing(name):
    trace = traced(name)
    for place in places(name, trace):
        attention = trace.model.get_submodule(place)
        every = answer_of(trace, [KnockOut(place, head) for head in range(attention.heads)], 1)
        torch.testing.assert_close(answer_of(trace, [KnockOut(place)], 1), every, atol=1e-5, rtol=0)
        zero = [
            SetWeights(place, query, (0.0,) * trace.weights(place, 0).shape[1], 1)
            for query in range(len(trace.weights(place, 0)))
        ]
        torch.testing.assert_close(
            answer_of(trace, [KnockOut(place, 1)], 1), answer_of(trace, zero, 1), atol=1e-5, rtol=0
        )
        assert (answer_of(trace, [KnockOut(place)], 1) - answer_of(trace, [], 1)).abs().max() > 1e-4


def test_shared_layers_are_changed_one_by_one():
    trace = traced("albert")
    first, second = (answer_of(trace, [KnockOut(f"encoder.layers.{n}.self_attention", 0)], 1) for n in (0, 1))
    assert (first - second).abs().max() > 1e-5


def test_a_position_that_nobody_sees_is_as_if_it_were_not_there():
    """The last token knocked out as a key for all others: they are what they are without it (no positions beyond)."""
    trace = traced("gpt2", (6,))
    edits = [KnockOut(f"decoder.layers.{layer}.self_attention", key=0) for layer in range(2)]
    with edited(trace.model, edits):
        changed = Trace(trace.model, trace.source)
    other = trace.source.values.clone()
    other[0] = 28 if int(other[0]) != 28 else 27  # what stands there no longer matters to those that follow
    with edited(trace.model, edits):
        also = Trace(trace.model, trace.source.with_values(other))
    torch.testing.assert_close(changed.output.values[1:], also.output.values[1:], atol=1e-5, rtol=0)
    plain = Trace(trace.model, trace.source.with_values(other))
    assert (trace.output.values[1:] - plain.output.values[1:]).abs().max() > 1e-3


def test_an_edge_takes_one_weight_out_and_the_others_grow():
    trace = traced("bert", (5,))
    place = trace.attention_place(1)
    row = trace.weights(place, 2)[3].clone()
    row[1] = 0
    expected = answer_of(trace, [SetWeights(place, 3, tuple((row / row.sum()).tolist()), 2)], 3)
    found = answer_of(trace, [KnockOut(place, 2, query=3, key=1)], 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["transformer", "gpt2", "llama", "bert"])
def test_everything_patched_is_the_other_text(name):
    trace = traced(name, (5, 5))
    if name == "transformer":  # the same words produced
        target = Sequences.of([trace.target[0], trace.target[0]])
        trace = Trace(trace.model, trace.source, target)
    first = trace.stack()[0]
    edits = [Patch(first, position, trace.entering(first, 1)[position]) for position in range(5)]
    torch.testing.assert_close(answer_of(trace, edits, 2), answer_of(trace, [], 2, row=1), atol=1e-4, rtol=0)
    found = sweep_patches(trace, 1, 2)
    assert found.change.shape == (2, 5)
    assert found.other >= float(answer_of(trace, [], 2, row=1).max()) - 1e-4


def test_a_sweep_is_made_of_single_runs():
    trace, told = traced("gpt2"), []
    found = sweep_heads(trace, 4, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 6) for number in range(1, 7)]
    before = answer_of(trace, [], 4)
    answer = int(before.argmax())
    for layer in range(2):
        for head in range(3):
            after = answer_of(trace, [KnockOut(f"decoder.layers.{layer}.self_attention", head)], 4)
            assert float(found.change[layer, head]) == pytest.approx(float(after[answer] - before[answer]), abs=1e-5)


def test_classes_before_and_after():
    trace = traced("classifier")
    found = intervene(trace, [KnockOut("encoder.layers.0.self_attention")])
    assert sorted(found.names) == ["a", "b", "c"]
    assert sum(found.before) == pytest.approx(1)
    assert sum(found.after) == pytest.approx(1)
    assert found.divergence > 0
    assert intervene(trace, []).divergence == pytest.approx(0, abs=1e-6)


def test_the_model_is_as_before_even_after_an_error():
    trace = traced("gpt")
    before = answer_of(trace, [], 1)
    with pytest.raises(RegardError, match="no position 30"):
        answer_of(trace, [KnockOut("decoder.layers.0.self_attention", key=30)], 1)
    assert torch.equal(answer_of(trace, [], 1), before)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in trace.model.modules())


def test_edits_are_read_from_text(model):
    trace = model.trace(["Python executes quickly", "Python crawls quickly"])
    place = "encoder.layers.1.self_attention"
    assert edit_of(trace, f"{place} head=3") == KnockOut(place, 3)
    executes = next(word.places[0] for word in trace.words() if word.text == "executes")
    assert edit_of(trace, f"{place} key=executes query=0") == KnockOut(place, None, 0, executes)
    assert edit_of(trace, f"{place} query=1 weights=0.4,0.4,0.2") == SetWeights(place, 1, (0.4, 0.4, 0.2))
    patch = edit_of(trace, "encoder.layers.1 position=1 from=2")
    assert torch.equal(patch.vector, trace.entering("encoder.layers.1", 1)[1])
    for wrong, message in [
        (f"{place} query=snail", "no word 'snail'"),
        (f"{place} head=two", "'two' is not a whole number"),
        (f"{place} query=0 weights=a,b", "'a' is not a number"),
        ("encoder.layers.1 position=1 from=3", "no text 2"),
        ("encoder.layers.1 position=99 from=2", "has no position 99"),
    ]:
        with pytest.raises(RegardError, match=message):
            edit_of(trace, wrong)


def test_texts_of_other_lengths_cannot_be_patched():
    with pytest.raises(RegardError, match="equally many tokens, not 7 and 2"):
        sweep_patches(traced("bert"), 1)
    assert built("bert").training is False
