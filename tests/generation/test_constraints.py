"""What answers must contain, must not contain, and begin with, against the enumeration of all answers."""

import itertools

import pytest
import torch
from generation.families import built
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from regard import RegardError, Sequences, Transformer, TransformerConfig
from regard.generation.constraints import missing
from regard.generation.search import Search, search
from regard.generation.settings import contains, length_penalty

WORDS, END, LIMIT = (3, 4, 5), 2, 4


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(4)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2, "ffn_dim": 12}
    found = Transformer(TransformerConfig(vocab_size=6, **sizes)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return found


def every_answer() -> list[list[int]]:
    ended = [[*one, END] for length in range(LIMIT) for one in itertools.product(WORDS, repeat=length)]
    return ended + [list(one) for one in itertools.product(WORDS, repeat=LIMIT)]


@torch.no_grad()
def scored(model: Transformer, source: list[int], given: int = 0) -> dict[tuple[int, ...], float]:
    """The score of every answer; the first tokens may be given, and are certain then."""
    answers = every_answer()
    sources = Sequences.of_ids([source] * len(answers))
    logits = model(sources, Sequences.of_ids([[1, *answer[:-1]] for answer in answers])).log_softmax(-1)
    rows = logits.split([len(answer) for answer in answers])
    totals = [float(row[range(len(one)), one][given:].sum()) for row, one in zip(rows, answers, strict=True)]
    return {tuple(one): total / length_penalty(len(one), 0.6) for one, total in zip(answers, totals, strict=True)}


phrases = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(tuple), min_size=1, max_size=2)


@pytest.mark.parametrize("must", [((3,),), ((4, 3),), ((5,), (3,)), ((3, 4), (4, 5)), ((5, 5, 5),)])
@pytest.mark.parametrize("source", [[3, 4, 2], [4, 4, 3, 5, 2]])
def test_a_wide_beam_finds_the_best_answer_with_all_phrases(model, must, source):
    how = Search(1, END, beams=110, limit=LIMIT, forbidden=(0, 1), must=must)
    [found] = search(model, Sequences.of_ids([source]), how)
    scores = scored(model, source)
    allowed = [one for one in scores if all(contains(one, phrase) for phrase in must)]
    ours = [(*one.tokens, *[END] * one.finished) for one in found]
    assert ours[0] == max(allowed, key=scores.get)
    assert found[0].score == pytest.approx(scores[ours[0]], abs=1e-4)
    assert set(ours) <= set(allowed)


@examples(max_examples=15)
@given(phrases, st.sampled_from([1, 2, 4]), st.booleans())
def test_phrases_are_there_in_a_narrow_beam_and_those_forbidden_are_not(model, phrases, beams, needed):
    sources = Sequences.of_ids([[3, 4, END], [5, END]])
    rules = {"must": tuple(phrases), "beams": max(2, beams)} if needed else {"must_not": tuple(phrases), "beams": beams}
    how = Search(1, END, limit=6, forbidden=(0, 1), **rules)
    for answers in search(model, sources, how):
        for one in answers:
            assert all(contains(one.tokens, phrase) == needed for phrase in phrases)


def test_greedy_without_a_phrase_takes_the_best_that_completes_none(model):
    source = [3, 4, END]
    [[free]] = search(model, Sequences.of_ids([source]), Search(1, END, limit=LIMIT, forbidden=(0, 1)))
    phrase = free.tokens[:2]
    [[found]] = search(
        model, Sequences.of_ids([source]), Search(1, END, limit=LIMIT, forbidden=(0, 1), must_not=(phrase,))
    )
    assert found.tokens[:1] == phrase[:1]
    assert found.tokens[:2] != phrase


@pytest.mark.parametrize("beams", [1, 3])
def test_a_prefix_is_certain_and_the_rest_is_the_models(model, beams):
    source, prefix = [5, END], (4, 4)
    scores = scored(model, source, given=2)
    how = Search(1, END, beams=beams, limit=LIMIT, forbidden=(0, 1), prefix=prefix)
    [found] = search(model, Sequences.of_ids([source]), how)
    for one in found:
        assert one.tokens[:2] == prefix
        assert one.score == pytest.approx(scores[(*one.tokens, *[END] * one.finished)], abs=1e-4)
    wide = Search(1, END, beams=60, limit=LIMIT, forbidden=(0, 1), prefix=prefix)
    [[best, *_]] = search(model, Sequences.of_ids([source]), wide)
    begun = [one for one in scores if one[:2] == prefix]
    assert (*best.tokens, *[END] * best.finished) == max(begun, key=scores.get)


def test_what_is_missing():
    phrases = ((3, 4, 5), (5, 5))
    assert missing([], phrases) == (5, [3, 5])
    assert missing([3, 4], phrases) == (3, [5, 5])
    assert missing([3, 4, 5], phrases) == (1, [5])
    assert missing([3, 4, 5, 5], phrases) == (0, [])
    assert missing([3, 3], phrases) == (4, [4, 5])


def test_what_cannot_be_kept_to_is_told(model):
    source = Sequences.of_ids([[3, END], [4, END]])
    with pytest.raises(RegardError, match="text 1: no answer within the limit keeps to the options"):
        search(model, source, Search(1, END, beams=2, extra_length=1, must=((3, 4, 5, 3, 3),)))
    forbidden = tuple((word,) for word in (0, 1, END, *WORDS))
    with pytest.raises(RegardError, match="text 1, step 1: the options forbid every token"):
        search(model, source, Search(1, END, must_not=forbidden))


def test_a_language_model_keeps_to_phrases_too():
    how = Search(None, 2, beams=4, length_penalty=0.0, extra_length=8, must=((7, 8), (9,)), must_not=((3,),))
    for answers in search(built("llama"), Sequences.of_ids([[5, 6], [9, 9, 4]]), how):
        for one in answers:
            assert contains(one.tokens, (7, 8))
            assert 9 in one.tokens
            assert 3 not in one.tokens
