"""Error rates and their parts."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data.sources import Pair
from regard.training.scoring import edit_distance, score_answers

words = st.lists(st.sampled_from("abc"), max_size=6)


@given(left=words, right=words)
def test_the_edit_distance_is_the_shortest_way_of_all(left, right):
    @cache
    def shortest(i, j):
        if i == len(left) or j == len(right):
            return len(left) - i + len(right) - j
        if left[i] == right[j]:
            return shortest(i + 1, j + 1)
        return 1 + min(shortest(i + 1, j), shortest(i, j + 1), shortest(i + 1, j + 1))

    assert edit_distance(left, right) == shortest(0, 0) == edit_distance(right, left)


def test_any_listed_pronunciation_counts_and_stress_is_counted_apart():
    pairs = [
        Pair("a", ("AH0", "EY1")),  # answered with the second one
        Pair("to", ("T UW1", "T AH0")),  # right but for the stress
        Pair("hello", ("HH AH0 L OW1",)),  # one phoneme is missing
    ]
    scores = score_answers("wer", ["EY1", "T UW2", "HH AH0 L"], pairs).scores
    assert scores == pytest.approx({"wer": 100 / 3, "per": 100 / 7, "wer_stress": 200 / 3, "per_stress": 200 / 7})


def test_better_is_larger():
    pairs = [Pair("a", ("AH0",)), Pair("b", ("B IY1",))]
    right = score_answers("wer", ["AH0", "B IY1"], pairs)
    wrong = score_answers("wer", ["AH0", "B"], pairs)
    assert right.better > wrong.better
    texts = [Pair("x", ("the cat sat on the mat",))]
    assert score_answers("bleu", ["the cat sat on the mat"], texts).scores["bleu"] == pytest.approx(100)
    assert "nrefs:1" in score_answers("bleu", ["a dog"], texts).signature
