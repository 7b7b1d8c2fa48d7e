"""Hidden words in the paper's shares; pairs of texts that follow each other or not."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import Sequences
from regard.data.masked_words import mask_words, sentence_pairs

CLS, SEP, MASK = 1, 2, 3


def test_the_shares_are_those_of_the_paper():
    tokens = Sequences.of([torch.randint(10, 1000, (400,)) for _ in range(100)])
    masked = mask_words(tokens, 1000, MASK, (CLS, SEP), torch.Generator().manual_seed(1))
    assert len(masked.places) == 100 * 60  # 15 % of each text
    shown, before = masked.tokens.values[masked.places], tokens.values[masked.places]
    assert torch.equal(masked.answers, before)
    assert (shown == MASK).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (shown == before).float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert shown[shown != MASK].unique().numel() > 300
    assert (masked.places / tokens.layout.tokens).mean().item() == pytest.approx(0.5, abs=0.02)


@given(
    rows=st.lists(st.lists(st.sampled_from([CLS, SEP, 10, 11, 12, 13, 14]), max_size=30), min_size=1, max_size=5),
    seed=st.integers(0, 9),
)
def test_only_words_are_hidden_and_some_of_each_text(rows, seed):
    tokens = Sequences.of_ids(rows)
    masked = mask_words(tokens, 15, MASK, (CLS, SEP), torch.Generator().manual_seed(seed))
    again = mask_words(tokens, 15, MASK, (CLS, SEP), torch.Generator().manual_seed(seed))
    assert torch.equal(masked.tokens.values, again.tokens.values)
    assert not torch.isin(masked.answers, torch.tensor([CLS, SEP])).any()
    untouched = torch.ones(tokens.layout.tokens, dtype=torch.bool)
    untouched[masked.places] = False
    assert torch.equal(masked.tokens.values[untouched], tokens.values[untouched])
    found = tokens.layout.rows[masked.places].bincount(minlength=len(rows)).tolist()
    for row, count in zip(rows, found, strict=True):
        words = sum(token > 9 for token in row)
        assert count == min(words, max(1, round(words * 0.15)))


def documents() -> list[list[list[int]]]:
    """Every token tells its document and its place there."""
    draw = random.Random(3)
    found = []
    for number in range(1, 30):
        tokens = iter(range(1000 * number, 1000 * number + 900))
        found.append([[next(tokens) for _ in range(draw.randint(2, 9))] for _ in range(draw.randint(1, 60))])
    return found


def test_half_of_the_pairs_follow_each_other():
    pairs = sentence_pairs(documents(), CLS, SEP, 32, random.Random(5))
    assert 0.4 < sum(pair.unrelated for pair in pairs) / len(pairs) < 0.6
    for pair in pairs:
        assert len(pair.tokens) == len(pair.segments) <= 32
        assert pair.tokens[0] == CLS
        assert pair.tokens[-1] == SEP
        middle = pair.segments.index(1)
        assert pair.segments == [0] * middle + [1] * (len(pair.tokens) - middle)
        left, right = pair.tokens[1 : middle - 1], pair.tokens[middle:-1]
        assert pair.tokens[middle - 1] == SEP
        assert left
        assert right
        for text in (left, right):  # contiguous
            assert text == list(range(text[0], text[0] + len(text)))
        assert (left[0] // 1000 == right[0] // 1000) == (not pair.unrelated)
        if not pair.unrelated:
            assert left[-1] < right[0]


def test_unrelated_texts_need_another_document():
    with pytest.raises(ValueError, match="two documents"):
        sentence_pairs([[[1], [2]]], CLS, SEP, 16, random.Random(0))
