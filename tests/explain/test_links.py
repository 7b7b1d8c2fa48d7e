"""Links by rules, worked by hand and by their properties; the error rate as its paper has it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.explain.links import RULES, alignment_error_rate, links_by

WEIGHTS = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])
PAIRS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)))


def test_rules_by_hand():
    assert links_by("target", WEIGHTS) == {(0, 0), (0, 1), (2, 2), (2, 3)}
    assert links_by("source", WEIGHTS) == {(0, 0), (1, 1), (2, 3)}
    assert links_by("intersection", WEIGHTS) == {(0, 0), (2, 3)}
    assert links_by("union", WEIGHTS) == {(0, 0), (0, 1), (1, 1), (2, 2), (2, 3)}
    assert links_by("threshold", WEIGHTS) == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)}
    assert links_by("grow-diag-final", WEIGHTS) == {(0, 0), (0, 1), (1, 1), (2, 2), (2, 3)}
    assert links_by("itermax", WEIGHTS) == {(0, 0), (0, 1), (2, 2), (2, 3)}


@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 1000),
)
def test_rules_lie_between_intersection_and_union(sizes, seed):
    weights = torch.rand(sizes, generator=torch.Generator().manual_seed(seed))
    inner, outer = links_by("intersection", weights), links_by("union", weights)
    assert inner
    for rule in ("target", "source", "grow-diag-final"):
        assert inner <= links_by(rule, weights) <= outer
    assert inner <= links_by("itermax", weights)
    for rule in RULES:
        for source, target in links_by(rule, weights):
            assert 0 <= target < sizes[0]
            assert 0 <= source < sizes[1]
    turned = {(b, a) for a, b in links_by("source", weights.T)}
    assert turned == links_by("target", weights)


@given(found=PAIRS, sure=PAIRS, more=PAIRS)
def test_the_error_rate(found, sure, more):
    rate = alignment_error_rate(found, sure)
    assert 0 <= rate <= 1
    assert alignment_error_rate(sure, sure) == 0
    if found or sure:
        precision = len(found & sure) / len(found) if found else 0
        recall = len(found & sure) / len(sure) if sure else 0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        assert rate == pytest.approx(1 - f1)  # with sure links alone it is 1 - F1
    assert alignment_error_rate(found, sure, more) <= rate + 1e-12


def test_the_papers_formula_with_possible_links():
    found, sure, possible = {(0, 0), (1, 1), (2, 2)}, {(0, 0), (3, 3)}, {(1, 1)}
    assert alignment_error_rate(found, sure, possible) == pytest.approx(1 - (1 + 2) / (3 + 2))


def test_an_unknown_rule_is_told():
    with pytest.raises(RegardError, match="no rule 'max'; did you mean"):
        links_by("max", WEIGHTS)
