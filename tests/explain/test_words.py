"""Pieces joined to words: shares add up, scores join so that softmax still gives the shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.explain.words import find_word, join_keys, join_scores, shared_word, words_of
from regard.modalities.text import Piece, symbol_codec, train_bpe

CODEC = train_bpe(["Python executes quickly. It's fine, really!"] * 3 + ["crawls"], vocab_size=330)


def words(text: str, by_chunk: bool = False) -> list[str]:
    return [word.text for word in words_of(CODEC.source.pieces(text), by_chunk)]


def test_words_are_runs_of_letters_and_digits_and_signs_stand_alone():
    assert words("Python crawls, quickly!") == ["Python", "crawls", ",", "quickly", "!", "</s>"]
    assert words("it's (2017)") == ["it", "'", "s", "(", "2017", ")", "</s>"]


def test_chunks_are_what_stands_between_blanks():
    assert words("Python crawls, quickly!", by_chunk=True) == ["Python", "crawls,", "quickly!", "</s>"]


def test_a_letter_the_vocabulary_lacks_is_joined_from_its_bytes():
    assert words("Pythön 蛇") == ["Pythön", "蛇", "</s>"]


def test_every_symbol_of_a_spelling_is_a_word():
    codec = symbol_codec(["python"], ["P AY1 TH AA0 N"])
    assert [word.text for word in words_of(codec.source.pieces("pyth"))] == ["p", "y", "t", "h", "</s>"]
    produced = codec.target.pieces_of(codec.target.encode("P AY1"))
    assert [word.text for word in words_of(produced)] == ["P", "AY1", "</s>"]


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_every_token_is_in_exactly_one_word(text):
    pieces = CODEC.source.pieces(text)
    for by_chunk in (False, True):
        places = [place for word in words_of(pieces, by_chunk) for place in word.places]
        assert places == list(range(len(pieces)))


@given(st.integers(0, 1000))
def test_joined_scores_give_the_joined_weights(seed):
    found = words_of(CODEC.source.pieces("Python executes crawls"))
    tokens = sum(len(word.places) for word in found)
    scores = 3 * torch.randn(5, tokens, generator=torch.Generator().manual_seed(seed))
    joined = join_keys(scores.softmax(-1), found)
    assert torch.allclose(join_scores(scores, found).softmax(-1), joined, atol=1e-6)
    assert torch.allclose(joined.sum(-1), torch.ones(5))


def test_a_missing_word_is_told_with_those_there_are():
    found = words_of(CODEC.source.pieces("Python crawls"))
    assert find_word(found, "Python") == 0
    assert find_word(found, "CRAWLS") == 1
    with pytest.raises(RegardError, match="no word 'Pyton'; did you mean Python"):
        find_word(found, "Pyton")


def test_texts_without_a_common_word_are_refused():
    texts = [words_of(CODEC.source.pieces(text)) for text in ("Python crawls", "it executes")]
    with pytest.raises(RegardError, match="share no word"):
        shared_word(texts)


def test_pieces_of_no_word_that_read_as_nothing_go_on_with_the_one_before():
    pieces = [Piece(0, "0.00 s", 0, 0), Piece(1, "silence", None, None), Piece(2, "", None, None)]
    pieces += [Piece(3, "", None, None), Piece(4, "<end>", None, None)]
    assert [(word.text, word.places) for word in words_of(pieces)] == [
        ("0.00 s", (0,)),
        ("silence", (1, 2, 3)),
        ("<end>", (4,)),
    ]
