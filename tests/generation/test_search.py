"""Search against exhaustive enumeration, and against itself: batches, limits, penalties."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Sequences, Transformer, TransformerConfig
from regard.generation.search import Search, length_penalty, search

EOS = 2


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(4)
    config = TransformerConfig(
        vocab_size=6, d_model=8, encoder_layers=1, decoder_layers=1, attention_heads=2, ffn_dim=12
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def log_probability(model: Transformer, source: list[int], answer: list[int]) -> float:
    """log P(answer | source) by teacher forcing."""
    with torch.no_grad():
        logits = model(Sequences.of_ids([source]), Sequences.of_ids([[1, *answer[:-1]]]))
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


def every_answer(limit: int) -> list[list[int]]:
    words = [3, 4, 5]
    ended = [[*answer, EOS] for length in range(limit) for answer in itertools.product(words, repeat=length)]
    return ended + [list(answer) for answer in itertools.product(words, repeat=limit)]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("source", [[3, 4, EOS], [5, EOS], [4, 4, 3, 5, EOS]])
def test_a_wide_beam_finds_the_best_answer_there_is(model, source, alpha):
    how = Search(bos=1, eos=EOS, beams=60, length_penalty=alpha, limit=4, forbidden=(0, 1))
    [found] = search(model, Sequences.of_ids([source]), how)
    scored = [
        (log_probability(model, source, answer) / length_penalty(len(answer), alpha), answer)
        for answer in every_answer(4)
    ]
    best_score, best = max(scored)
    assert found[0].score == pytest.approx(best_score, abs=1e-4)
    assert list(found[0].tokens) == [token for token in best if token != EOS]
    assert found[0].finished == (best[-1] == EOS)


@given(
    sources=st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=5), min_size=1, max_size=5),
    beams=st.sampled_from([1, 2, 3]),
    alpha=st.sampled_from([0.0, 0.6]),
)
def test_a_batch_answers_as_each_alone(model, sources, beams, alpha):
    how = Search(bos=1, eos=EOS, beams=beams, length_penalty=alpha, extra_length=3, forbidden=(0, 1))
    rows = [[*source, EOS] for source in sources]
    together = search(model, Sequences.of_ids(rows), how)
    for row, answers in zip(rows, together, strict=True):
        [alone] = search(model, Sequences.of_ids([row]), how)
        assert [answer.tokens for answer in answers] == [answer.tokens for answer in alone]
        for answer in answers:
            assert len(answer.tokens) <= len(row) + 3
            assert not {0, 1, EOS} & set(answer.tokens)
            whole = [*answer.tokens, EOS] if answer.finished else list(answer.tokens)
            assert answer.log_probability == pytest.approx(log_probability(model, row, whole), abs=1e-3)
            assert answer.score == pytest.approx(answer.log_probability / length_penalty(len(whole), alpha), abs=1e-4)
        assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)


def test_greedy_takes_the_best_word_each_time(model):
    [[answer]] = search(model, Sequences.of_ids([[3, 4, EOS]]), Search(bos=1, eos=EOS, limit=6))
    tokens = [1]
    with torch.no_grad():
        while len(tokens) <= 6:
            logits = model(Sequences.of_ids([[3, 4, EOS]]), Sequences.of_ids([tokens]))
            tokens.append(int(logits[-1].argmax()))
            if tokens[-1] == EOS:
                break
    assert list(answer.tokens) == [token for token in tokens[1:] if token != EOS]


def test_the_length_penalty_of_the_paper():
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)
    assert length_penalty(100, 0.0) == 1.0
