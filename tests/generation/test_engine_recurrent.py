"""The engine of recurrent systems against the models themselves: every system, rows that move, all ways to search."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regard import RegardError
from regard.generation import recurrent
from regard.generation.answers import searched
from regard.generation.engine import prepare
from regard.generation.recurrent import RecurrentEngine
from regard.generation.search import Search, search, search_waiting
from regard.generation.speculative import SourceDraft
from regard.generation.waiting import Waiting
from regard.models.rnnsearch import RNNSearch, RNNSearchConfig
from regard.models.seq2seq import Seq2Seq, Seq2SeqConfig
from regard.models.ulmfit import AwdLstm, AwdLstmConfig
from regard.native import library
from regard.sequences import Sequences

pytestmark = pytest.mark.skipif(library() is None, reason="the native kernels were not built")

WORDS = 37
MODELS = {
    "seq2seq": lambda: Seq2Seq(
        Seq2SeqConfig(vocab_size=41, target_vocab_size=WORDS, hidden_size=24, embedding_size=19)
    ),
    "seq2seq, one vocabulary, forward": lambda: Seq2Seq(
        Seq2SeqConfig(vocab_size=WORDS, hidden_size=17, embedding_size=33, num_hidden_layers=2, reverse_source=False)
    ),
    "rnnsearch": lambda: RNNSearch(
        RNNSearchConfig(
            vocab_size=41, target_vocab_size=WORDS, embedding_size=12, hidden_size=24, attention_size=21, maxout_size=13
        )
    ),
    "awd-lstm": lambda: AwdLstm(AwdLstmConfig(vocab_size=WORDS, embedding_size=20, hidden_size=34)),
    "awd-lstm, untied": lambda: AwdLstm(
        AwdLstmConfig(
            vocab_size=WORDS, embedding_size=20, hidden_size=16, num_hidden_layers=1, tie_word_embeddings=False,
            output_bias=False,
        )
    ),
}  # fmt: skip


def made(name: str) -> torch.nn.Module:
    """Random weights, large enough that answers differ and end."""
    torch.manual_seed(7)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=list(MODELS))
def model(request):
    return made(request.param)


def engine_of(model, precision="fp32", threads=None) -> RecurrentEngine:
    engine = prepare(model, precision, threads)
    assert isinstance(engine, RecurrentEngine)
    return engine


def begin_of(model) -> int | None:
    """The first token of an answer; None where it goes on from its source."""
    return None if isinstance(model, AwdLstm) else 1


SOURCE = Sequences.of_ids([[5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2], [14]])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_steps_are_those_of_the_model(model, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    engine = engine_of(model, threads=data.draw(st.sampled_from([1, 2])))
    source = Sequences.of_ids([[data.draw(st.integers(3, WORDS - 1)) for _ in range(length)] for length in lengths])
    with torch.inference_mode():
        ours, theirs = engine.start(source), model.start(source)
        tokens = torch.ones(len(lengths), dtype=torch.long)
        for _ in range(data.draw(st.integers(1, 5))):
            found, ours = engine.step(tokens, ours)
            expected, theirs = model.step(tokens, theirs)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            if data.draw(st.booleans()):  # rows in any order, more than one of a source, or none
                chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=20)))
                ours, theirs = ours.select(chosen), theirs.select(chosen)
                tokens = tokens[chosen]
            tokens = torch.tensor([data.draw(st.integers(1, WORDS - 1)) for _ in tokens])


def test_rows_that_part_do_not_disturb_each_other(model):
    engine, tokens = engine_of(model), torch.tensor([3, 4, 5, 6])
    with torch.inference_mode():
        begun = engine.start(SOURCE)
        one, other = begun.select(torch.tensor([0, 1])), begun.select(torch.tensor([1, 3]))
        first, one = engine.step(tokens[:2], one)
        second, other = engine.step(tokens[2:], other)
        again, _ = engine.step(torch.tensor([9]), one.select(torch.tensor([1])))
        own = model.start(SOURCE)
        expected, after = model.step(torch.tensor([3, 4, 0, 0]), own)
        torch.testing.assert_close(first, expected[:2], atol=2e-5, rtol=2e-5)
        expected, _ = model.step(torch.tensor([0, 5, 0, 6]), own)
        torch.testing.assert_close(second, expected[[1, 3]], atol=2e-5, rtol=2e-5)
        expected, _ = model.step(torch.tensor([0, 9, 0, 0]), after)
        torch.testing.assert_close(again, expected[1:2], atol=2e-5, rtol=2e-5)


def test_texts_that_join_others_are_answered_as_alone(model):
    """Rows that were there have moved on, some have left, one source has two."""
    engine, late = engine_of(model), Sequences.of_ids([[20, 21, 22], [23]])
    with torch.inference_mode():
        early = engine.start(SOURCE)
        _, early = engine.step(torch.tensor([3, 4, 5, 6]), early)
        early = early.select(torch.tensor([3, 1, 1]))
        joined = early.beside(engine.join(late, early))
        found, joined = engine.step(torch.tensor([7, 8, 9, 1, 1]), joined)
        found, _ = engine.step(torch.tensor([2, 3, 4, 5]), joined.select(torch.tensor([4, 2, 0, 3])))
        texts, own = [[6, 7], [4, 8], [4, 9]], model.start(SOURCE)
        expected, tokens = {}, {0: 4, 1: None, 2: 3}
        for row, (place, text) in enumerate(zip([3, 1, 1], texts, strict=True)):
            state = own.select(torch.tensor([place]))
            for token in text:
                _, state = model.step(torch.tensor([token]), state)
            if tokens[row] is not None:
                expected[row], _ = model.step(torch.tensor([tokens[row]]), state)
        for row, token in ((0, 5), (1, 2)):
            _, state = model.step(torch.tensor([1]), model.start(late).select(torch.tensor([row])))
            expected[3 + row], _ = model.step(torch.tensor([token]), state)
    torch.testing.assert_close(found, torch.cat([expected[row] for row in (4, 2, 0, 3)]), atol=2e-5, rtol=2e-5)


def test_the_best_tokens_are_those_of_all_logits(model):
    engine, tokens = engine_of(model, threads=2), torch.tensor([1, 9, 3, 4])
    with torch.inference_mode():
        logits, _ = model.step(tokens, model.start(SOURCE))
        expected = logits.log_softmax(dim=-1)
        expected[:, [4, 5]] = -torch.inf
        best = expected.topk(6, dim=-1)
        values, found, _ = engine.best(tokens, engine.start(SOURCE), 6, (4, 5))
    torch.testing.assert_close(values, best.values, atol=2e-5, rtol=2e-5)
    assert torch.equal(found, best.indices)


WAYS = {
    "greedy": {"beams": 1},
    "beams": {"beams": 4, "length_penalty": 0.6},
    "groups of beams": {"beams": 4, "groups": 2},
    "penalties": {"beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "samples": {"seed": 5, "temperature": 0.7, "n_best": 3},
    "what it must say": {"beams": 3, "prefix": (11,), "must": ((6, 7),), "must_not": ((8,),)},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_answers_are_those_of_the_model(model, way):
    engine, how = engine_of(model), Search(begin_of(model), 2, extra_length=20, **WAYS[way])
    ours, theirs = search(engine, SOURCE, how), search(model, SOURCE, how)
    assert [[one.tokens for one in row] for row in ours] == [[one.tokens for one in row] for row in theirs]
    for found, expected in zip(ours, theirs, strict=True):
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-4)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9995), ("int8", 0.995)])
def test_rounded_weights_give_nearly_the_same_scores(model, precision, least):
    """Also after some steps: what is rounded off does not add up."""
    engine = engine_of(model, precision)
    with torch.inference_mode():
        state, own, tokens = engine.start(SOURCE), model.start(SOURCE), torch.tensor([1, 3, 5, 7])
        for _ in range(6):
            found, state = engine.step(tokens, state)
            expected, own = model.step(tokens, own)
            assert torch.nn.functional.cosine_similarity(found, expected).min() > least
            assert not torch.equal(found, expected)
            tokens = expected.argmax(dim=-1)


def test_an_answer_does_not_depend_on_the_batch(model):
    """Also in int8: rows are rounded each by itself."""
    engine, how = engine_of(model, "int8"), Search(begin_of(model), 2, 3, 0.6, extra_length=10)
    together = search(engine, SOURCE, how)
    alone = [search(engine, Sequences.of([text]), how)[0] for text in SOURCE]
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in alone]


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_take_the_rows_of_others(model, beams):
    engine, how = engine_of(model, "int8"), Search(begin_of(model), 2, beams, 0.6, extra_length=10)
    texts = [[5 + number % 7] * (1 + number % 5) for number in range(17)]
    waiting = Waiting(
        lambda chosen: Sequences.of_ids([texts[place] for place in chosen]), range(17), range(17), lambda _: 4
    )
    for place, together in search_waiting(engine, waiting, how):
        [alone] = search(engine, Sequences.of_ids([texts[place]]), how)
        assert [one.tokens for one in together] == [one.tokens for one in alone]


def test_long_texts_are_read_in_portions(model, monkeypatch):
    texts = Sequences.of_ids([[3, 4, 5] * 20, [6] * 7, [7, 8] * 11, [9]])
    whole = engine_of(model).start(texts)
    monkeypatch.setattr(recurrent, "_READ_AT_ONCE", 5)
    parts = engine_of(model).start(texts)
    torch.testing.assert_close(parts.values, whole.values, atol=1e-6, rtol=0)
    assert all(map(torch.equal, parts.memories.values(), whole.memories.values()))


def test_workers_give_the_same_answers_in_any_order():
    model = made("rnnsearch")
    texts = [[5 + number % 7] * (1 + number % 5) for number in range(40)]
    engine, how = engine_of(model, threads=2), Search(1, 2, 2, 0.6, extra_length=10)
    parallel, single = dict(searched(engine, texts, how)), dict(searched(model, texts, how))
    assert all(parallel[number][0].tokens == single[number][0].tokens for number in range(40))


def test_what_it_cannot_do_is_said(model):
    engine = engine_of(model)
    with pytest.raises(RegardError, match="needs at least one token"):
        engine.start(Sequences.of_ids([[5], []]))
    with pytest.raises(RegardError, match="a draft is for models that read several tokens at once"):
        search(engine, SOURCE, Search(begin_of(model), 2), draft=SourceDraft())
    with pytest.raises(RegardError, match="contrastive search"):
        search(engine, SOURCE, Search(begin_of(model), 2, penalty_alpha=0.5, top_k=3))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_numbers_that_are_none_are_said(model, precision):
    places = itertools.islice(model.named_parameters(), 1, None)
    vector = next(parameter for name, parameter in places if parameter.dim() == 1 and "vector" not in name)
    with torch.no_grad():
        vector.fill_(float("nan"))
    with pytest.raises(RegardError, match="text 1, step 1: the model's scores are not finite"):
        search(engine_of(model, precision), SOURCE, Search(begin_of(model), 2))
