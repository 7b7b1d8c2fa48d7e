"""Any tokenizer, its words and its special tokens."""

import pytest

from regard import RegardError
from regard.modalities.subwords import Subwords, train_subwords

TEXTS = ["the cat sat on the mat", "The dog's bed isn't there, is it?", "größer als zwei Häuser", "the cats sat"] * 3
KINDS = ("bytes", "wordpiece", "words")


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_its_folder(tmp_path, kind):
    tokenizer = train_subwords(kind, TEXTS, 320)
    tokenizer.save(tmp_path)
    again = Subwords.load(tmp_path)
    assert again.special == tokenizer.special
    assert again.vocab_size == tokenizer.vocab_size <= 320
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_know_their_words(kind):
    text = "the cat, the mats"
    pieces = train_subwords(kind, TEXTS, 320).pieces(text)
    inside = [piece for piece in pieces if piece.word is not None]
    words, chunks = {}, {}
    for piece in inside:
        words.setdefault(piece.word, []).append(piece.text)
        chunks.setdefault(piece.chunk, []).append(piece.text)
    assert list(words) == [0, 1, 2, 3, 4]
    assert list(chunks) == [0, 1, 2, 3]
    if kind != "words":  # there "mats" is unknown, and shows as it stands
        assert ["".join(piece.removeprefix("##") for piece in pieces) for pieces in words.values()] == [
            "the", "cat", ",", "the", "mats",
        ]  # fmt: skip


def test_produced_tokens_know_their_words_too():
    tokenizer = train_subwords("bytes", TEXTS, 320)
    text = "the cat's größer mat"
    ids = tokenizer.encode(text)
    told = [(piece.token, piece.word, piece.chunk) for piece in tokenizer.pieces_of(ids)]
    assert told == [(piece.token, piece.word, piece.chunk) for piece in tokenizer.pieces(text)]


def test_bytes_bring_any_text_back():
    tokenizer = train_subwords("bytes", TEXTS, 300)
    for text in ("unseen Ω words 中文 🙂", "  blanks  stay ", "tab\tand\nline"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_pair_has_two_segments():
    ids, segments = train_subwords("wordpiece", TEXTS, 320).encode_pair("the cat", "the mat")
    assert segments[0] == 0
    assert segments[-1] == 1
    assert sorted(segments) == segments
    assert len(ids) == len(segments)


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(RegardError, match="has no tokenizer.json"):
        Subwords.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RegardError, match="is damaged or not a tokenizer file"):
        Subwords.load(tmp_path)


def test_unigram_tokenizers_are_trained():
    from regard.modalities.subwords import train_subwords
    from regard.modalities.text import train_unigram

    texts = [f"the number {number} is written as {number * 7} here" for number in range(200)]
    tokenizer = train_subwords("unigram", texts, 120)
    assert tokenizer.decode(tokenizer.encode("the number 12 here")) == "the number 12 here"
    assert (tokenizer.encode("the")[0], tokenizer.encode("the")[-1]) == (2, 3)
    codec = train_unigram(texts, 120)
    assert codec.target.decode(codec.source.encode("the number 12 here")) == "the number 12 here"
    assert [piece.chunk for piece in codec.source.pieces("the number")][-2:] == [1, None]
