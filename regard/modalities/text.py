"""Text to token ids and back, with the `tokenizers` library.

Two kinds are trained here: byte-pair encoding (Sennrich et al. 2016) over words marked with a leading "▁", for
sentences; and single symbols, for spellings and phonemes. Any other `tokenizer.json` is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from regard.errors import RegardError

_BLANK = "▁"
PAD, BOS, EOS, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SOURCE_FILE, TARGET_FILE = "tokenizer.json", "target_tokenizer.json"


@dataclass(frozen=True)
class Piece:
    """One token of a text: its id, how it reads, and where it belongs (None: to no word, such as the end token)."""

    token: int
    text: str
    word: int | None
    """Number of its word: a run of letters and digits; any other sign is a word of its own."""
    chunk: int | None
    """Number of its chunk: what stands between blanks, as alignment files count words."""


class Tokenizer:
    """One `tokenizer.json`: text to ids that end in the end token, and back."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self.inner = inner
        self.eos, self.bos, self.pad = (self._special(name) for name in (EOS, BOS, PAD))

    def _special(self, name: str) -> int:
        token = self.inner.token_to_id(name)
        if token is None:
            raise RegardError(f"the tokenizer has no token {name}")
        return token

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids, the end token last."""
        return [*self.inner.encode(text, add_special_tokens=False).ids, self.eos]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.inner.encode_batch(list(texts), add_special_tokens=False)
        return [[*encoding.ids, self.eos] for encoding in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens are left out."""
        text: str = self.inner.decode(list(ids), skip_special_tokens=True)
        return text

    def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text as `encode` makes them, the end token last."""
        return self.pieces_of(self.encode(text))

    def pieces_of(self, ids: Sequence[int]) -> list[Piece]:
        """What each id reads as, and which word it belongs to."""
        marked = self.inner.token_to_id(_BLANK) is not None
        names = [self.inner.id_to_token(token) or UNKNOWN for token in ids]
        pieces: list[Piece] = []
        word = chunk = -1
        before, joins_before = "", False
        for token, name, joins in zip(ids, names, _in_word(names), strict=True):
            if token in (self.pad, self.bos, self.eos):
                pieces.append(Piece(token, name, None, None))
                continue
            new_chunk = name.startswith(_BLANK) or not marked or not before
            chunk += new_chunk
            word += new_chunk or not (before == _BLANK or (joins_before and joins))
            pieces.append(Piece(token, name.removeprefix(_BLANK) or _BLANK, word, chunk))
            before, joins_before = name, joins
        return pieces

    def spell(self, token: int) -> str:
        """How one token of the vocabulary reads."""
        name = self.inner.id_to_token(token) or UNKNOWN
        return name.removeprefix(_BLANK) or _BLANK

    def to_json(self) -> str:
        text: str = self.inner.to_str(pretty=True)
        return text + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`; RegardError where there is none or it is damaged."""
        if not path.is_file():
            raise RegardError(f"{path.parent} is not a model folder: it has no {path.name}")
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for every kind of damage
            raise RegardError(f"{path} is damaged or not a tokenizer file: {error}") from error
        return cls(inner)


@dataclass(frozen=True)
class Codec:
    """How a model reads and writes: one tokenizer, or two where source and target are written in other alphabets.

    Both number their tokens from one vocabulary, so that source and target share an embedding matrix.
    """

    source: Tokenizer
    target: Tokenizer

    def save(self, folder: Path) -> None:
        (folder / SOURCE_FILE).write_text(self.source.to_json(), encoding="utf-8")
        if self.target is not self.source:
            (folder / TARGET_FILE).write_text(self.target.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Codec:
        source = Tokenizer.from_file(folder / SOURCE_FILE)
        separate = (folder / TARGET_FILE).exists()
        return cls(source, Tokenizer.from_file(folder / TARGET_FILE) if separate else source)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Codec:
    """One byte-pair vocabulary over source and target texts. Characters never seen fall back to bytes."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True))
    inner.normalizer = normalizers.NFC()
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    # Punctuation and digits stand alone, so that a word's pieces are a word's and numbers are read digit by digit.
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.Split(Regex(r"▁?\p{N}|▁?[^\p{L}\p{M}\p{N}▁]"), "isolated")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *byte_tokens],
        show_progress=False,
        limit_alphabet=1000,
        min_frequency=2,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(_bytes_are_text(inner, byte_tokens))
    return Codec(tokenizer, tokenizer)


def train_unigram(texts: Iterable[str], vocab_size: int) -> Codec:
    """One Unigram vocabulary (Kudo 2018) over source and target texts: the pieces that make the texts most likely."""
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="always")
    inner.decoder = decoders.Metaspace(replacement=_BLANK, prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), unk_token=UNKNOWN, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(inner)
    return Codec(tokenizer, tokenizer)


def symbol_codec(sources: Iterable[str], targets: Iterable[str]) -> Codec:
    """Spellings letter by letter, targets symbol by symbol (separated by blanks), over one vocabulary."""
    letters = sorted({letter for text in sources for letter in _SPELLING.normalize_str(text) if not letter.isspace()})
    symbols = sorted({symbol for text in targets for symbol in text.split()} - set(letters))
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *letters, *symbols])}
    source = _word_level(vocabulary)
    source.normalizer = _SPELLING
    source.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S"), "removed", invert=True)
    target = _word_level(vocabulary)
    target.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Codec(Tokenizer(source), Tokenizer(target))


_SPELLING = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])


def _word_level(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.add_special_tokens(list(SPECIAL))
    return inner


def _bytes_are_text(inner: tokenizers.Tokenizer, byte_tokens: list[str]) -> tokenizers.Tokenizer:
    """Let the byte tokens be ordinary ones again: the trainer only reserves ids for special tokens."""
    state = json.loads(inner.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in byte_tokens]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _in_word(names: Sequence[str]) -> list[bool]:
    """For each token, whether it is part of a run of letters and digits. Byte tokens are read as what they spell."""
    found: list[bool] = []
    for are_bytes, run in groupby(names, key=lambda name: _byte(name) is not None):
        if not are_bytes:
            found += [any(letter.isalnum() for letter in name) for name in run]
            continue
        spelt = bytes(_byte(name) or 0 for name in run).decode("utf-8", errors="surrogateescape")
        for letter in spelt:
            found += [letter.isalnum()] * len(letter.encode("utf-8", errors="surrogateescape"))
    return found


def _byte(name: str) -> int | None:
    """The value of a byte token such as `<0xE6>`."""
    return int(name[3:5], 16) if len(name) == 6 and name.startswith("<0x") and name.endswith(">") else None
