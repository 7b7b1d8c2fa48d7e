"""Any `tokenizer.json`: what a pre-trained model was taught with, special tokens and all.

It asks nothing of the vocabulary: words are found from where each token stands in the text, so WordPiece, byte-level
BPE and Unigram all read alike. Four kinds are trained here, for language models and classifiers: byte-level BPE
(GPT-2), WordPiece (BERT), Unigram and whole words (AWD-LSTM); those of the translators are in `text.py`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from regard.errors import RegardError
from regard.modalities.text import SOURCE_FILE, TARGET_FILE, Piece
from regard.models.base import read_json

_SPECIAL_FILE = "special_tokens_map.json"
_KINDS = ("bos", "eos", "pad", "mask")
# A word is a run of letters, marks and digits; any other sign but a blank is a word of its own (as in text.py).
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens; None where the model has none of the kind."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    mask: int | None = None


class Subwords:
    """A tokenizer with the special tokens its model expects."""

    def __init__(self, inner: tokenizers.Tokenizer, special: Special) -> None:
        inner.no_padding()
        inner.no_truncation()
        self.inner, self.special = inner, special

    @classmethod
    def from_file(cls, path: Path, special: Special) -> Subwords:
        """Read a `tokenizer.json`; RegardError where it is damaged."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), special)
        except Exception as error:  # the library raises plain Exception for every kind of damage
            raise RegardError(f"{path} is damaged or not a tokenizer file: {error}") from error

    @classmethod
    def load(cls, folder: Path) -> Subwords:
        """The tokenizer of a model folder, special tokens as `save` noted them."""
        path = folder / SOURCE_FILE
        if not path.is_file():
            raise RegardError(f"{folder} is not a model folder: it has no {SOURCE_FILE}")
        tokenizer = cls.from_file(path, Special())
        names = read_json(folder / _SPECIAL_FILE) if (folder / _SPECIAL_FILE).is_file() else {}
        ids = {
            kind: tokenizer.inner.token_to_id(str(names[f"{kind}_token"]))
            for kind in _KINDS
            if f"{kind}_token" in names
        }
        return cls(tokenizer.inner, Special(**ids))

    @property
    def vocab_size(self) -> int:
        """V, special tokens included: one more than the largest id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, second: str | None = None) -> list[int]:
        """Token ids of a text, or of a pair of texts, with the special tokens around them."""
        ids: list[int] = self.inner.encode(text, second).ids
        return ids

    def encode_pair(self, text: str, second: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids, and for each the segment it belongs to (0, or 1 for the second text)."""
        encoding = self.inner.encode(text, second)
        return encoding.ids, encoding.type_ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.inner.encode_batch(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens are left out."""
        text: str = self.inner.decode(list(ids), skip_special_tokens=True)
        return text

    def pieces(self, text: str, second: str | None = None) -> list[Piece]:
        """The tokens of a text, or of a pair of texts, as `encode` makes them; words are counted through both."""
        encoding = self.inner.encode(text, second)
        spans = [None if special else span for span, special in _spans(encoding)]
        if second is not None:  # offsets begin anew in the second text: count on, as if a blank stood between
            after = len(text) + 1
            spans = [
                (span[0] + after, span[1] + after) if span and side == 1 else span
                for span, side in zip(spans, encoding.sequence_ids, strict=True)
            ]
            text = f"{text} {second}"
        return _pieces(text, encoding.ids, spans, encoding.tokens)

    def pieces_of(self, ids: Sequence[int]) -> list[Piece]:
        """The same for ids that a model produced: each token stands where the text grows by it."""
        text, spans = "", []
        names = [self.inner.id_to_token(token) or "" for token in ids]
        special = {token for token, added in self.inner.get_added_tokens_decoder().items() if added.special}
        for place, token in enumerate(ids):
            grown = self.decode(ids[: place + 1])
            spans.append(None if token in special else (len(text), len(grown)))
            text = grown
        return _pieces(text, list(ids), spans, names)

    def spell(self, token: int) -> str:
        """How one token of the vocabulary reads."""
        return self.decode([token]).strip() or self.inner.id_to_token(token) or str(token)

    def save(self, folder: Path) -> None:
        """`tokenizer.json`, and the special tokens in `special_tokens_map.json`, under Hugging Face's names."""
        (folder / SOURCE_FILE).write_text(self.inner.to_str(pretty=True) + "\n", encoding="utf-8")
        ids = {kind: getattr(self.special, kind) for kind in _KINDS}
        names = {f"{kind}_token": self.inner.id_to_token(token) for kind, token in ids.items() if token is not None}
        (folder / _SPECIAL_FILE).write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SubwordCodec:
    """How a translator from elsewhere reads and writes; its tokenizers put the special tokens around a text."""

    source: Subwords
    target: Subwords

    def save(self, folder: Path) -> None:
        if self.target is not self.source:
            self.target.save(folder)
            (folder / SOURCE_FILE).rename(folder / TARGET_FILE)
        self.source.save(folder)


def train_subwords(kind: str, texts: Iterable[str], vocab_size: int) -> Subwords:
    """A tokenizer of a kind, learnt from texts: `bytes` (GPT-2), `wordpiece` (BERT), `words` (AWD-LSTM), `unigram`."""
    build = {"bytes": _byte_pairs, "wordpiece": _word_pieces, "words": _words, "unigram": _unigram}[kind]
    return build(texts, vocab_size)


def _byte_pairs(texts: Iterable[str], vocab_size: int) -> Subwords:
    """Byte-level BPE (Radford et al. 2019): no text is unknown. A text begins with <s> and ends with </s>."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>", "<delimiter>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A <delimiter> $B </s>",
        special_tokens=[(name, inner.token_to_id(name)) for name in ("<s>", "</s>", "<delimiter>")],
    )
    return Subwords(inner, Special(bos=1, eos=2, pad=0))


def _word_pieces(texts: Iterable[str], vocab_size: int) -> Subwords:
    """WordPiece, lower-cased (Devlin et al. 2018, section 3): [CLS] A [SEP] B [SEP], segments 0 and 1."""
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return Subwords(inner, Special(bos=2, eos=3, pad=0, mask=4))


def _words(texts: Iterable[str], vocab_size: int) -> Subwords:
    """Whole words and signs, lower-cased; the rest is <unk>. A text begins with <s>, as in fastai's `xxbos`."""
    inner = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    inner.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return Subwords(inner, Special(bos=1, eos=2, pad=0))


def _unigram(texts: Iterable[str], vocab_size: int) -> Subwords:
    """Unigram (Kudo 2018), with the special tokens of ALBERT (section 3): [CLS] A [SEP] B [SEP]."""
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        texts,
        trainers.UnigramTrainer(vocab_size=vocab_size, special_tokens=special, unk_token="[UNK]", show_progress=False),
    )
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return Subwords(inner, Special(bos=2, eos=3, pad=0, mask=4))


def _spans(encoding: tokenizers.Encoding) -> list[tuple[tuple[int, int], bool]]:
    return list(zip(encoding.offsets, (bool(mask) for mask in encoding.special_tokens_mask), strict=True))


def _pieces(
    text: str, ids: Sequence[int], spans: Sequence[tuple[int, int] | None], names: Sequence[str]
) -> list[Piece]:
    """Words and chunks by where each token begins to show in the text, blanks before it left out."""
    words = [match.start() for match in _WORD.finditer(text)]
    chunks = [match.start() for match in re.finditer(r"\S+", text)]
    found = []
    for token, span, name in zip(ids, spans, names, strict=True):
        if span is None:
            found.append(Piece(token, name, None, None))
            continue
        shown = text[span[0] : span[1]]
        begin = span[0] + len(shown) - len(shown.lstrip())
        word, chunk = max(0, bisect_right(words, begin) - 1), max(0, bisect_right(chunks, begin) - 1)
        found.append(Piece(token, shown.strip() or name, word, chunk))
    return found
