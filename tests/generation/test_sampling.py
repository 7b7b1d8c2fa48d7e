"""Sampling: by the model's chances, the same for a seed and a text's number whatever is beside it."""

import math
from collections import Counter

import pytest
import torch
from generation.families import Table, built
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from regard import Sequences
from regard.generation.search import Search, search

TEXTS = [[5, 6, 7], [9, 4, 3, 8], [10], [3, 3, 3, 3, 3], [8, 7]]


@examples(max_examples=8)
@given(
    chosen=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 99),
    samples=st.sampled_from([1, 3]),
)
def test_a_seed_gives_the_same_text_whatever_the_batch(chosen, seed, samples):
    model = built("llama")
    how = Search(None, 2, extra_length=8, temperature=1.5, top_p=0.95, seed=seed, n_best=samples)
    together = search(model, Sequences.of_ids([TEXTS[number] for number in chosen]), how, numbers=chosen)
    for number, answers in zip(chosen, together, strict=True):
        [alone] = search(model, Sequences.of_ids([TEXTS[number]]), how, numbers=[number])
        assert [one.tokens for one in answers] == [one.tokens for one in alone]


def test_other_seeds_numbers_and_samples_give_other_texts():
    model, source = built("llama"), Sequences.of_ids([TEXTS[0]])
    hows = [Search(None, 2, extra_length=12, temperature=3.0, seed=seed) for seed in range(5)]
    found = {search(model, source, how, numbers=[number])[0][0].tokens for how in hows for number in range(5)}
    assert len(found) > 20
    [samples] = search(model, source, Search(None, 2, extra_length=12, temperature=3.0, seed=1, n_best=9))
    assert len({one.tokens for one in samples}) > 6
    unseeded = [search(model, source, Search(None, 2, extra_length=12, sample=True))[0][0].tokens for _ in range(9)]
    assert len(set(unseeded)) > 1


def test_texts_are_drawn_as_often_as_they_are_probable():
    def chances(text):
        return torch.tensor([0.0, 0.0, 0.2, 0.5, 0.3] if len(text) < 2 else [0.0, 0.0, 1.0, 0.0, 0.0])

    count = 4000
    [found] = search(Table(chances), Sequences.of_ids([[7]]), Search(1, 2, sample=True, seed=5, n_best=count))
    counted = Counter(one.tokens for one in found)
    expected = {(): 0.2, (3,): 0.1, (4,): 0.06, (3, 3): 0.25, (3, 4): 0.15, (4, 3): 0.15, (4, 4): 0.09}
    assert counted.keys() == expected.keys()
    for text, chance in expected.items():
        assert counted[text] / count == pytest.approx(chance, abs=4 * math.sqrt(chance / count))
    for one in found:
        assert math.exp(one.log_probability) == pytest.approx(expected[one.tokens], abs=1e-5)


def test_what_is_cut_off_is_never_drawn():
    def chances(text):
        return torch.tensor([0.0, 0.0, 0.1, 0.5, 0.25, 0.15])

    def drawn(**changes):
        [found] = search(Table(chances), Sequences.of_ids([[7]]), Search(1, 2, limit=1, seed=3, n_best=300, **changes))
        return {token for one in found for token in (one.tokens or (2,))}

    assert drawn(sample=True) == {2, 3, 4, 5}
    assert drawn(top_k=2) == {3, 4}
    assert drawn(top_p=0.6) == {3, 4}
    assert drawn(min_p=0.3) == {3, 4, 5}
    assert drawn(temperature=0.01) == {3}
    assert drawn(top_k=3, must_not=((3,),)) == {2, 4, 5}
