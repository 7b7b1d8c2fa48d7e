"""Search against exhaustive enumeration, and against itself: batches, limits, penalties."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError, Sequences, Transformer, TransformerConfig
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


def test_a_beam_wider_than_all_answers_finds_each_once_in_order(model):
    how = Search(bos=1, eos=EOS, beams=130, length_penalty=0.6, limit=4, forbidden=(0, 1))
    [found] = search(model, Sequences.of_ids([[3, 4, EOS]]), how)
    assert {(*answer.tokens, *[EOS] * answer.finished) for answer in found} == set(map(tuple, every_answer(4)))
    assert len(found) == len(every_answer(4))
    scores = [answer.score for answer in found]
    assert scores == sorted(scores, reverse=True)


class Table:
    """A model that is a table: what may follow each beginning, with which probability. All that search asks for."""

    def __init__(self, rows: dict[str, str]) -> None:
        self.rows = rows

    def start(self, source: Sequences) -> "Prefixes":
        return Prefixes([""] * len(source))

    def step(self, tokens: torch.Tensor, state: "Prefixes") -> tuple[torch.Tensor, "Prefixes"]:
        begun = [prefix + " .ab"[token].strip() for prefix, token in zip(state.prefixes, tokens.tolist(), strict=True)]
        chances = [[float(chance) for chance in self.rows.get(one, "1 0 0").split()] for one in begun]
        return torch.tensor([[0.0, *row] for row in chances]).log(), Prefixes(begun)


class Prefixes:
    def __init__(self, prefixes: list[str]) -> None:
        self.prefixes = prefixes

    def select(self, rows: torch.Tensor) -> "Prefixes":
        return Prefixes([self.prefixes[row] for row in rows.tolist()])


def answers_of(rows: dict[str, str], beams: int, alpha: float) -> list[tuple[str, float]]:
    """Answers and their probabilities; the columns of the table are the end, a, and b."""
    how = Search(bos=0, eos=1, beams=beams, length_penalty=alpha, limit=5)
    [found] = search(Table(rows), Sequences.of_ids([[7]]), how)
    return [("".join(" .ab"[token] for token in one.tokens), math.exp(one.log_probability)) for one in found]


def test_a_beam_goes_on_while_something_better_may_come():
    """Two answers have ended after two steps; "aa", which is better than both, ends at the third."""
    rows = {"": ".3 .6 .1", "a": ".4 .55 .05", "aa": ".95 .05 0"}
    found = answers_of(rows, beams=2, alpha=0.0)
    assert [text for text, _ in found] == ["aa", ""]
    assert [chance for _, chance in found] == pytest.approx([0.6 * 0.55 * 0.95, 0.3])


def test_a_penalty_lets_a_beam_wait_for_longer_answers():
    """After two steps "" and "a" have ended; "aa" is behind "a" as it stands, but not at the length it will have."""
    rows = {"": ".5 .5 0", "a": ".52 .48 0", "aa": "0 1 0", "aaa": "0 1 0"}
    assert [text for text, _ in answers_of(rows, beams=2, alpha=1.0)] == ["", "aaaa"]
    assert [text for text, _ in answers_of(rows, beams=2, alpha=0.0)] == ["", "a"]


def test_an_end_counts_only_among_the_best_candidates():
    """The empty answer is third at the first step: a beam of 2 does not see it, although it would win."""
    rows = {"".join(prefix): "0 .5 .5" for length in (1, 2, 3) for prefix in itertools.product("ab", repeat=length)}
    found = answers_of({"": ".1 .5 .4", **rows}, beams=2, alpha=0.0)
    assert [chance for _, chance in found] == pytest.approx([0.0625, 0.0625])
    assert answers_of({"": ".1 .5 .4", **rows}, beams=3, alpha=0.0)[0] == ("", pytest.approx(0.1))


def test_greedy_misses_what_a_beam_finds():
    rows = {"": "0 .6 .4", "a": ".5 .5 0", "b": "1 0 0"}
    assert answers_of(rows, beams=1, alpha=0.0) == [("a", pytest.approx(0.3))]
    assert answers_of(rows, beams=2, alpha=0.0)[0] == ("b", pytest.approx(0.4))


def test_a_length_penalty_favours_longer_answers():
    rows = {"": ".4 .6 0", "a": "0 .6 .4", "aa": "1 0 0", "ab": "1 0 0"}
    assert answers_of(rows, beams=2, alpha=0.0)[0] == ("", pytest.approx(0.4))
    assert answers_of(rows, beams=2, alpha=1.0)[0] == ("aa", pytest.approx(0.36))


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


def test_a_model_without_a_source_goes_on_from_the_last_token():
    """The table's first column is the end; its prompt ends with "a" or "b"."""
    rows = {"a": "0 .4 .6", "ab": "1 0 0", "b": "0 .9 .1", "ba": ".7 .2 .1"}
    for beams in (1, 2):
        how = Search(bos=None, eos=1, beams=beams, length_penalty=0.0, extra_length=3)
        found = search(Table(rows), Sequences.of_ids([[7, 2], [3]]), how)
        assert [answers[0].tokens for answers in found] == [(3,), (2,)]
        assert [math.exp(answers[0].log_probability) for answers in found] == pytest.approx([0.6, 0.63])


def test_limits_count_the_text_that_an_answer_goes_on_from():
    translator, language_model = Search(bos=1, eos=2, limit=7), Search(bos=None, eos=2, limit=7)
    assert [translator.longest(length) for length in (1, 6, 7)] == [7, 7, 7]
    assert [language_model.longest(length) for length in (1, 6)] == [6, 1]
    assert Search(bos=None, eos=2, extra_length=3).longest(1000) == 3
    with pytest.raises(RegardError, match="a text of 7 tokens leaves no room to go on: 7 are the limit"):
        language_model.longest(7)


def test_the_length_penalty_of_the_paper():
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)
    assert length_penalty(100, 0.0) == 1.0
