"""SentencePiece models as tokenizers: the same pieces as the library itself finds, whatever the text."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import RegardError
from regard.hub.sentencepiece import Pieces, byte_pairs, read_pieces, unigram

SEEN = "the cat dog house runs quickly slowly ein Hund läuft schnell ﬁne Ångström 12 345 . , ! -"
WORDS = SEEN.split()
LETTERS = st.sampled_from([*"abcdehinorstuä ,.!7ﬁÅ½\t 猫", "the", " cat", "läuft", "  "])


@pytest.fixture(scope="module", params=["unigram", "bpe", "bpe-bytes", "unigram-bytes"])
def trained(request, tmp_path_factory):
    """The library's own processor, and the pieces read from its file."""
    kind, _, fallback = request.param.partition("-")
    texts = [" ".join(WORDS[(start * step) % len(WORDS)] for start in range(9)) for step in range(1, 60)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, model_type=kind, vocab_size=90 + 256 * bool(fallback),
        byte_fallback=bool(fallback), minloglevel=2, character_coverage=0.99, hard_vocab_limit=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("spm") / "model.spm"
    path.write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue()), read_pieces(path)


def tokenizer_of(pieces: Pieces):
    build = unigram if pieces.unigram else byte_pairs
    return build(pieces.names, pieces.scores, pieces.kinds, pieces.normalization)


def test_pieces_are_those_of_the_library(trained):
    library, pieces = trained
    ours = tokenizer_of(pieces)

    @settings(max_examples=200)
    @given(st.lists(LETTERS, min_size=1, max_size=12).map("".join))
    def check(text):
        assert ours.encode(text, add_special_tokens=False).ids == library.encode(text)

    check()


def test_texts_come_back(trained):
    library, pieces = trained
    for text in ("the cat runs quickly.", "ein Hund runs, the house"):
        ids = library.encode(text)
        assert tokenizer_of(pieces).decode(ids) == library.decode(ids)


def test_what_is_no_model_is_told(tmp_path):
    path = tmp_path / "a.spm"
    path.write_bytes(b"\x0anot a model")
    with pytest.raises(RegardError, match="damaged or not a SentencePiece model"):
        read_pieces(path)
    path.write_bytes(b"")
    with pytest.raises(RegardError, match="it has no pieces"):
        read_pieces(path)
