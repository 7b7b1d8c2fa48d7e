"""Graphones and their n-grams against plain code that tries every cut, and counts one by one."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.generation.graphones import SHAPES, Graphones, JointModel, Word
from regard.generation.kneser_ney import KneserNey

WORDS: list[Word] = [
    ("phone", ("F", "OW", "N")),
    ("phi", ("F", "AY")),
    ("hen", ("HH", "EH", "N")),
    ("one", ("W", "AH", "N")),
    ("no", ("N", "OW")),
    ("ax", ("AE", "K", "S")),
    ("pen", ("P", "EH", "N")),
]


def cuts(letters: str, phonemes: tuple[str, ...]) -> list[list[Word]]:
    """Every way to cut a word, one by one."""
    if not letters and not phonemes:
        return [[]]
    return [
        [(letters[:many], phonemes[:said]), *rest]
        for many, said in SHAPES
        if many <= len(letters) and said <= len(phonemes)
        for rest in cuts(letters[many:], phonemes[said:])
    ]


def test_expectation_maximisation_is_that_over_all_cuts():
    chances: dict[Word, float] = defaultdict(lambda: 1.0)
    likelihoods = []
    for _ in range(4):
        counts: Counter[Word] = Counter()
        likelihood = 0.0
        for word in WORDS:
            ways = cuts(*word)
            shares = [math.prod(chances[one] for one in way) for way in ways]
            likelihood += math.log(sum(shares))
            for way, share in zip(ways, shares, strict=True):
                for one in way:
                    counts[one] += share / sum(shares)
        likelihoods.append(likelihood)
        chances = defaultdict(float, {one: count / sum(counts.values()) for one, count in counts.items()})
    graphones, found_likelihoods = Graphones.learn(WORDS, rounds=4)
    assert found_likelihoods == pytest.approx(likelihoods[1:])
    found = graphones.probabilities[graphones.probabilities > 0]
    assert sorted(found) == pytest.approx(sorted(chance for chance in chances.values() if chance))
    # The best cut has the likelihood of the best of all cuts.
    for word, cut in zip(WORDS, graphones.cut(WORDS), strict=True):
        assert cut is not None
        best = max(math.prod(chances[one] for one in way) for way in cuts(*word))
        assert math.prod(graphones.probabilities[cut]) == pytest.approx(best)


def test_what_cannot_be_cut_and_what_was_never_seen():
    graphones, _ = Graphones.learn(WORDS)
    impossible, strange, none = graphones.cut([("a", ("AE", "K", "S")), ("zoo", ("Z", "UW")), ("a", ())])
    assert impossible is None
    assert strange is not None
    assert -1 in strange
    assert none is not None
    assert len(none) == 1
    assert JointModel.learn(WORDS, order=3).log_probabilities([("a", ("AE", "K", "S"))]) == [-math.inf]


def test_the_likelihood_never_falls():
    _, likelihoods = Graphones.learn(WORDS, rounds=8)
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(likelihoods))


def test_the_joint_model_prefers_what_it_has_seen():
    model = JointModel.learn(WORDS * 3, order=3)
    right, wrong = model.log_probabilities([("phone", ("F", "OW", "N")), ("phone", ("P", "OW", "N"))])
    assert right > wrong


sequences = st.lists(st.lists(st.integers(3, 6), max_size=6), min_size=1, max_size=12).filter(any)


@settings(max_examples=40, deadline=None)
@given(sequences, st.integers(1, 4), st.lists(st.integers(2, 7), max_size=5))
def test_n_grams_are_those_counted_one_by_one(learnt: list[list[int]], order: int, asked: list[int]):
    model = KneserNey.learn(learnt, order, unknown=-9.0)
    expected = sum(
        plainly(learnt, order, ["s"] * (order - 1) + asked[:place], token) for place, token in enumerate([*asked, "e"])
    )
    assert model.log_probabilities([asked, [3]])[0] == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(sequences, st.integers(1, 4), st.lists(st.integers(3, 6), max_size=4))
def test_the_formula_gives_probabilities_that_add_up_to_one(learnt: list[list[int]], order: int, before: list[int]):
    tokens = sorted({token for one in learnt for token in one})
    context = ["s"] * (order - 1) + [token for token in before if token in tokens]
    total = sum(math.exp(plainly(learnt, order, context, token)) for token in [*tokens, "e"])
    assert total == pytest.approx(1)


def plainly(learnt: list[list[int]], order: int, context: list, token: object) -> float:
    """log P of one token by the formula, with dictionaries. What the model gives is held to it, and it to its sum."""
    known = {token for one in learnt for token in one} | {"e"}
    if token not in known:
        return -9.0
    texts = [["s"] * (order - 1) + one + ["e"] for one in learnt]
    grams = [
        Counter(tuple(text[end - size : end]) for text in texts for end in range(order, len(text) + 1))
        for size in range(1, order + 1)
    ]
    chance = 1 / len(known)
    for size in range(1, order + 1):
        counts = grams[size - 1]
        if size < order:
            longer = Counter(one[1:] for one in grams[size])
            counts = Counter({one: count if one[0] == "s" else longer[one] for one, count in counts.items()})
        ones, twos, threes, fours = (max(1, sum(c == number for c in counts.values())) for number in (1, 2, 3, 4))
        share = ones / (ones + 2 * twos)
        found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
        discounts = [0.0, *np.clip(found, 0.05, [1, 2, 3])]
        before = tuple(context[len(context) - size + 1 :])
        follow = {one: count for one, count in counts.items() if one[:-1] == before}
        if not follow:
            break
        total, left = sum(follow.values()), sum(discounts[min(count, 3)] for count in follow.values())
        count = follow.get((*before, token), 0)
        chance = max(count - discounts[min(count, 3)], 0) / total + left / total * chance
    return math.log(chance)
