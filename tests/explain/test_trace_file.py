"""A trace is kept under its bound, and as a file: with its model everything, without it what was computed."""

import pytest
import torch
from explain.families import EVERY, built, traced

from regard import RegardError, Trace
from regard.explain.cache import Cache


@pytest.mark.parametrize("name", EVERY)
def test_a_file_gives_back_what_was_computed(name, tmp_path):
    trace = traced(name)
    computed = {place: trace.steps(place, row=1) for place in trace.layers}
    trace.save(tmp_path / "one.trace")
    alone = Trace.load(tmp_path / "one.trace")
    assert alone.layers == trace.layers
    for place, values in computed.items():
        assert torch.equal(alone.entering(place, 2), trace.entering(place, 2))
        assert torch.equal(alone.leaving(place, 2), trace.leaving(place, 2))
        for value, found in alone.steps(place, row=1).items():
            assert torch.equal(found, values[value])
    with pytest.raises(RegardError, match="load the trace with its model"):
        alone.steps(trace.layers[0], row=0)
    both = Trace.load(tmp_path / "one.trace", trace.model)
    for place in trace.layers:
        for value, found in both.steps(place, row=0).items():
            torch.testing.assert_close(found, trace.steps(place, row=0)[value])


def test_words_and_weights_stay(model, tmp_path):
    trace = model.trace(["Python executes quickly", "Python crawls"])
    weights = trace.weights(1, 2, kind="cross", row=1)
    trace.save(tmp_path / "one.trace")
    alone = Trace.load(tmp_path / "one.trace")
    assert torch.equal(alone.weights("decoder.layers.1.cross_attention", 2, row=1), weights)
    assert torch.equal(alone.embedding("crawls", 1, row=1), trace.embedding("crawls", 1, row=1))
    assert alone.text(1) == "Python crawls"
    assert [word.text for word in alone.words(1)] == [word.text for word in trace.words(1)]
    again = Trace.load(tmp_path / "one.trace", model)  # what regard.load gives will do
    assert torch.equal(again.weights(0, 0), trace.weights(0, 0))


def test_a_wrong_file_is_told(tmp_path):
    trace = traced("bert")
    trace.save(tmp_path / "one.trace")
    with pytest.raises(RegardError, match="trace of another model: a bert"):
        Trace.load(tmp_path / "one.trace", built("gpt"))
    with pytest.raises(RegardError, match="there is no trace file"):
        Trace.load(tmp_path / "none.trace")
    (tmp_path / "broken").write_bytes((tmp_path / "one.trace").read_bytes()[:100])
    with pytest.raises(RegardError, match="damaged or not a safetensors file"):
        Trace.load(tmp_path / "broken")
    folder = tmp_path / "model"
    folder.mkdir()
    trace.model.save(folder)
    with pytest.raises(RegardError, match="holds no trace"):
        Trace.load(folder / "model.safetensors")


def test_results_are_computed_once_and_stay_under_the_bound():
    trace = traced("gpt", memory_bound=1500)
    for layer in range(2):
        for head in range(3):
            first = trace.weights(layer, head)
            assert trace.weights(layer, head) is first
            assert trace.cache.size <= 1500
    assert 0 < len(trace.cache.items()) < 6 * 4


def test_what_was_not_asked_for_longest_is_forgotten_first():
    cache, made = Cache(40), []

    def make(name, size):
        return cache.value(name, lambda: made.append(name) or torch.zeros(size))

    make("a", 5), make("b", 5), make("a", 5), make("c", 5), make("b", 5)
    assert made == ["a", "b", "c", "b"]
    make("large", 11), make("large", 11)
    assert made[-2:] == ["large", "large"]
    assert cache.size <= 40


def test_a_bound_that_is_too_small_is_told():
    trace = traced("gpt", memory_bound=60)
    with pytest.raises(RegardError, match=r"no room for one row of 7 scores: it takes"):
        trace.map(0, 0)
    trace = traced("gpt", memory_bound=12 * 7)
    assert trace.weights(0, 0, slice(0, 1)).shape == (1, 7)
    with pytest.raises(RegardError, match=r"49 scores take .* more than the memory bound of .*: ask for fewer"):
        trace.weights(0, 0)
    assert trace.map(0, 0, resolution=(2, 2)).mean.shape == (2, 2)  # block by block


def test_what_is_out_of_range_is_told():
    trace = traced("transformer")
    for wrong, message in [
        (lambda: trace.weights(5, 0), "no layer 5: there are layers 0 to 1"),
        (lambda: trace.weights(0, 7), "no head 7: this attention has heads 0 to 2"),
        (lambda: trace.weights(0, 0, row=3), "no text 3: there are texts 0 to 2"),
        (lambda: trace.hidden(3), "no layer 3: there are layers 0 to 2"),
        (lambda: trace.embedding(7, 0), "no token 7: there are tokens 0 to 6"),
        (lambda: traced("gpt").weights(0, 0, kind="cross"), "this model has no cross-attention"),
        (lambda: traced("gpt").weights(0, 0, kind="encoder"), "has no encoder: it has decoder"),
        (lambda: traced("seq2seq").weights(0, 0), "no attention"),
    ]:
        with pytest.raises(RegardError, match=message):
            wrong()
