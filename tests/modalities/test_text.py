"""Text to ids and back."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard import RegardError
from regard.modalities.text import Codec, Tokenizer, symbol_codec, train_bpe

TEXTS = ["Python executes quickly.", "Le fichier n'est pas trouvé (erreur 42).", "--help show this help and exit"] * 3
CODEC = train_bpe(TEXTS, vocab_size=420)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="▁")))
def test_any_text_comes_back(text):
    back = CODEC.source.decode(CODEC.source.encode(text))
    expected = unicodedata.normalize("NFC", text)
    assert back.replace("\u00a0", " ").strip() == expected.replace("\u00a0", " ").strip()


def test_two_ways_to_write_a_letter_are_one():
    assert CODEC.source.encode("trouve\u0301") == CODEC.source.encode("trouv\u00e9")


def test_what_was_seen_often_is_one_piece_and_digits_stand_alone():
    pieces = [piece.text for piece in CODEC.source.pieces("Python (2024)")]
    assert pieces[0] == "Python"
    assert len(pieces) == 1 + 1 + 4 + 1 + 1  # a sign and each digit by itself, the end token


def test_ids_are_the_same_alone_and_in_a_batch():
    assert CODEC.source.encode_many(TEXTS[:3]) == [CODEC.source.encode(text) for text in TEXTS[:3]]
    assert CODEC.source.encode("Python")[-1] == CODEC.source.eos


def test_spellings_are_letters_and_answers_symbols():
    codec = symbol_codec(["python", "cat"], ["P AY1 TH AA0 N", "K AE1 T"])
    assert codec.source.encode("Cät") == codec.source.encode("cat")
    assert len(codec.source.encode("cat")) == 4
    assert codec.target.decode(codec.target.encode("K AE1 T")) == "K AE1 T"
    assert codec.source.vocab_size == codec.target.vocab_size
    assert codec.source.pieces("c?")[1].text == "<unk>"


@pytest.mark.parametrize("codec", [CODEC, symbol_codec(["cat"], ["K AE1 T"])], ids=["bpe", "symbols"])
def test_a_folder_gives_the_same_codec_back(codec, tmp_path):
    codec.save(tmp_path)
    back = Codec.load(tmp_path)
    assert back.source.encode("cat") == codec.source.encode("cat")
    assert back.target.encode("K AE1 T") == codec.target.encode("K AE1 T")
    assert (back.source is back.target) == (codec.source is codec.target)


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(RegardError, match=r"has no tokenizer\.json"):
        Codec.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RegardError, match="damaged or not a tokenizer file"):
        Codec.load(tmp_path)
    import tokenizers

    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(RegardError, match="has no token </s>"):
        Tokenizer(bare)
