"""Where answers looked: the named heads' weights, as the trace gives them; coverage in the score."""

import math

import pytest
import torch
from generation.families import built

from regard import RegardError, Sequences
from regard.explain.trace import Trace
from regard.generation.looking import attention_of, coverage
from regard.generation.search import Search, search
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig

TEXTS = [[5, 6, 7, 8, 3, 2], [9, 4, 2]]
ANSWERS = [[4, 5, 6], [7, 7, 7, 8, 3]]
HEADS = [(1, 0), (0, 2), (1, 1)]


def test_weights_are_those_of_the_trace(family):
    model = built(family)
    bos = 1 if family in ("transformer", "t5") else None
    source = Sequences.of_ids(TEXTS)
    found = attention_of(model, source, ANSWERS, HEADS, Search(bos, 2))
    for row, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        if bos is None:
            trace = Trace(model, Sequences.of_ids([[*text, *answer]]))
            place, begin = "decoder.layers.{}.self_attention.weights", len(text) - 1
        else:
            trace = Trace(model, Sequences.of_ids([text]), Sequences.of_ids([[bos, *answer]]))
            place, begin = "decoder.layers.{}.cross_attention.weights", 0
        for number, (layer, head) in enumerate(HEADS):
            expected = trace[place.format(layer)][head][begin:]
            torch.testing.assert_close(found[row][number], expected, atol=1e-5, rtol=1e-4)
        assert found[row].shape[1] == len(answer) + 1
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_coverage_is_equation_14_and_ranks_the_answers():
    model = built("transformer")
    source = Sequences.of_ids([TEXTS[0]])
    plain = search(model, source, Search(1, 2, beams=4, limit=6))[0]
    covering = search(model, source, Search(1, 2, beams=4, limit=6, coverage_penalty=1.5))[0]
    heads = [(0, head) for head in range(3)]
    scores = {one.tokens: one.score for one in plain}
    assert {one.tokens for one in covering} & scores.keys()
    for one in covering:
        [weights] = attention_of(model, source, [one.tokens], heads, Search(1, 2))
        looked = weights.mean(dim=0).sum(dim=0)
        added = 1.5 * sum(math.log(min(float(value), 1.0)) for value in looked)
        assert added < 0
        if one.tokens in scores:
            assert one.score == pytest.approx(scores[one.tokens] + added, abs=1e-4)
    assert [one.score for one in covering] == sorted((one.score for one in covering), reverse=True)
    assert coverage(torch.tensor([[1.0, 0.25], [1.0, 0.25]]), 2.0) == pytest.approx(2 * math.log(0.5))


def test_heads_that_are_not_there_are_refused():
    model, source = built("transformer"), Sequences.of_ids(TEXTS)
    with pytest.raises(RegardError, match="no layer 2: there are layers 0 to 1"):
        attention_of(model, source, ANSWERS, [(2, 0)], Search(1, 2))
    with pytest.raises(RegardError, match="no head 3: there are heads 0 to 2"):
        attention_of(model, source, ANSWERS, [(1, 3)], Search(1, 2))
    recurrent = Seq2Seq(Seq2SeqConfig(vocab_size=11, embedding_size=4, hidden_size=4))
    with pytest.raises(RegardError, match="a Seq2Seq has no attention heads to name"):
        attention_of(recurrent, source, ANSWERS, [(0, 0)], Search(1, 2))
