"""The answer under edits: without edits it is the search's, with them that of a model changed by hand."""

import copy

import pytest
import torch
from families import WITH_HEADS, built

from regard import Sequences, Trace
from regard.errors import RegardError
from regard.explain.edited_answer import answer_under
from regard.explain.edits import KnockOut, SetWeights
from regard.generation.search import Search, search

WRITERS = [name for name in WITH_HEADS if name in ("transformer", "pre-norm", "t5", "gpt", "gpt2", "llama")]
TRANSLATORS = ("transformer", "pre-norm", "t5")


def how_of(model, name):
    if name in TRANSLATORS:
        return Search.of_translator(model.config, 1, 0.6)
    return Search(None, getattr(model.config, "eos_token_id", None) or -1, extra_length=12, limit=50)


def trace_of(model, name):
    torch.manual_seed(2)
    source = Sequences.of([torch.randint(3, 29, (6,))])
    target = Sequences.of([torch.tensor([model.config.bos_token_id, 5, 8])]) if name in TRANSLATORS else None
    return Trace(model, source, target)


@pytest.mark.parametrize("name", WRITERS)
def test_without_edits_it_is_the_models_answer(name):
    model = built(name)
    trace = trace_of(model, name)
    expected = search(model, trace.source, how_of(model, name))[0][0].tokens[:12]
    assert answer_under(trace, [], tokens=12) == list(expected)


@pytest.mark.parametrize("name", WRITERS)
def test_a_silenced_head_is_one_whose_output_columns_are_zero(name):
    model = built(name)
    trace = trace_of(model, name)
    place = trace.attention_places[-1]
    changed = copy.deepcopy(model)
    part = changed.get_submodule(place)
    with torch.no_grad():
        part.output.weight[:, : part.head_width] = 0.0
    expected = answer_under(trace_of(changed, name), [], tokens=12)
    assert answer_under(trace, [KnockOut(place, head=0)], tokens=12) == expected


def test_edits_at_words_not_yet_written_wait_and_rows_grow_with_the_answer():
    model = built("transformer")
    trace = trace_of(model, "transformer")
    plain = answer_under(trace, [], tokens=10)
    place = "decoder.layers.0.self_attention"
    late = [KnockOut(place, query=6), KnockOut(place, key=6), SetWeights(place, 6, (1.0,) + (0.0,) * 6)]
    assert answer_under(trace, late, tokens=6) == plain[:6]
    row = [SetWeights(place, 0, (1.0,))]  # the first token sees nothing but itself anyway
    assert answer_under(trace, row, tokens=10) == plain


def test_a_reader_writes_nothing():
    model = built("bert")
    with pytest.raises(RegardError, match="writes no answer"):
        answer_under(Trace(model, Sequences.of([torch.tensor([5, 6])])), [])
