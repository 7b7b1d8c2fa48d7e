"""The tokenizer of a Hugging Face folder, in whichever of its files it is kept.

`tokenizer.json` where there is one; else `vocab.txt` (BERT), `vocab.json` with `merges.txt` (GPT-2, RoBERTa, BART),
`source.spm`, `target.spm` and `vocab.json` (Marian), `spiece.model` (T5).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from regard.errors import RegardError
from regard.hub.sentencepiece import NORMAL, read_pieces, unigram
from regard.hub.sentencepiece import UNKNOWN as UNKNOWN_PIECE
from regard.modalities.subwords import Special, SubwordCodec, Subwords
from regard.modalities.text import EOS, PAD, SOURCE_FILE, TARGET_FILE, UNKNOWN, Codec, Tokenizer
from regard.models.base import read_json

_LANGUAGE = re.compile(r">>.+<<")  # Marian's models of several languages are told by such a token which one to write


def read_tokenizer(folder: Path, config: dict[str, Any]) -> Subwords:
    """Raises RegardError where the folder has no tokenizer, or one in a form that is not read."""
    if (folder / SOURCE_FILE).is_file():
        return _with_special(Subwords.from_file(folder / SOURCE_FILE, Special()), folder, config)
    if (folder / "vocab.txt").is_file():
        inner = _word_pieces(folder)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        inner = _byte_pairs(folder, str(config.get("model_type")))
    elif (folder / "spiece.model").is_file() and config.get("model_type") == "t5":
        inner = _of_t5(folder)
    else:
        raise RegardError(
            f"{folder} has no tokenizer that can be read: it needs tokenizer.json, vocab.txt, or vocab.json with "
            "merges.txt; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in transformers writes the first"
        )
    return _with_special(Subwords(inner, Special()), folder, config)


def read_codec(folder: Path, config: dict[str, Any]) -> SubwordCodec:
    """The tokenizers of a translator, source and target; most families have one for both."""
    if (folder / "source.spm").is_file() and not (folder / SOURCE_FILE).is_file():
        return _of_marian(folder, config)
    source = read_tokenizer(folder, config)
    if not (folder / TARGET_FILE).is_file():
        return SubwordCodec(source, source)
    return SubwordCodec(source, _with_special(Subwords.from_file(folder / TARGET_FILE, Special()), folder, config))


def subword_codec(codec: Codec) -> SubwordCodec:
    """Our own tokenizers with the end token put on by the tokenizer itself, as other programs expect it."""
    source = _ended(codec.source)
    return SubwordCodec(source, source if codec.target is codec.source else _ended(codec.target))


def _ended(tokenizer: Tokenizer) -> Subwords:
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    _end_with(inner, EOS, tokenizer.eos)
    return Subwords(inner, Special(tokenizer.bos, tokenizer.eos, tokenizer.pad))


def _end_with(inner: tokenizers.Tokenizer, name: str, token: int) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {name}", pair=f"$A {name} $B {name}", special_tokens=[(name, token)]
    )


def _of_marian(folder: Path, config: dict[str, Any]) -> SubwordCodec:
    """Two SentencePiece models whose pieces are numbered by one `vocab.json`."""
    vocabulary = read_json(folder / "vocab.json")
    sides = []
    for name in ("source.spm", "target.spm"):
        pieces = read_pieces(folder / name)
        scores = dict(zip(pieces.names, pieces.scores, strict=True))
        names = sorted(vocabulary, key=lambda piece: int(vocabulary[piece]))
        if [vocabulary[piece] for piece in names] != list(range(len(names))) or UNKNOWN not in vocabulary:
            raise RegardError(f"{folder / 'vocab.json'} does not number its pieces from 0, or has no {UNKNOWN}")
        # A piece that only the other side has is taken where nothing else fits.
        least = min(pieces.scores) - 1000.0
        kinds = [UNKNOWN_PIECE if piece == UNKNOWN else NORMAL for piece in names]
        inner = unigram(names, [scores.get(piece, least) for piece in names], kinds, pieces.normalization)
        special = [piece for piece in names if piece in (EOS, PAD, UNKNOWN) or _LANGUAGE.fullmatch(piece)]
        inner.add_special_tokens(special)
        if EOS not in vocabulary:
            raise RegardError(f"{folder / 'vocab.json'} has no token {EOS}")
        _end_with(inner, EOS, vocabulary[EOS])
        sides.append(Subwords(inner, Special(None, vocabulary[EOS], vocabulary.get(PAD))))
    return SubwordCodec(*sides)


def _of_t5(folder: Path) -> tokenizers.Tokenizer:
    """One SentencePiece model, and a hundred tokens more that stand for what was left out of a text."""
    pieces = read_pieces(folder / "spiece.model")
    inner = unigram(pieces.names, pieces.scores, pieces.kinds, pieces.normalization)
    inner.add_special_tokens([piece for piece in (EOS, PAD, UNKNOWN) if piece in pieces.names])
    inner.add_special_tokens([f"<extra_id_{99 - number}>" for number in range(100)])
    _end_with(inner, EOS, pieces.names.index(EOS))
    return inner


def _with_special(tokenizer: Subwords, folder: Path, config: dict[str, Any]) -> Subwords:
    """Ids of the special tokens: by the names that the tokenizer's own files give, else from the configuration."""
    named: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            named |= read_json(folder / name)

    def identify(*keys: str) -> int | None:
        for key in keys:
            value = named.get(f"{key}_token")
            text = value.get("content") if isinstance(value, dict) else value
            found = tokenizer.inner.token_to_id(text) if isinstance(text, str) else None
            if found is None:
                found = config.get(f"{key}_token_id")
            if isinstance(found, int):
                return found
        return None

    mask = identify("mask")
    if mask is None:
        mask = tokenizer.inner.token_to_id("[MASK]") or tokenizer.inner.token_to_id("<mask>")
    return Subwords(tokenizer.inner, Special(identify("bos", "cls"), identify("eos", "sep"), identify("pad"), mask))


def _word_pieces(folder: Path) -> tokenizers.Tokenizer:
    """BERT's `vocab.txt`, one token a line."""
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {token: number for number, token in enumerate(lines)}
    for needed in ("[UNK]", "[CLS]", "[SEP]"):
        if needed not in vocabulary:
            raise RegardError(f"{folder / 'vocab.txt'} has no token {needed}")
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.add_special_tokens([token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token in vocabulary])
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    inner.decoder = decoders.WordPiece()
    return inner


def _byte_pairs(folder: Path, family: str) -> tokenizers.Tokenizer:
    """GPT-2's and RoBERTa's byte-level byte-pair encoding."""
    if family == "openai-gpt":
        raise RegardError(f"{folder}: GPT-1's vocab.json without tokenizer.json is not read; save it with transformers")
    try:
        vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises plain Exception for every kind of damage
        raise RegardError(f"{folder}: vocab.json and merges.txt cannot be read: {error}") from error
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    known = [token for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>") if token in vocabulary]
    inner.add_special_tokens(known)
    if family in ("roberta", "bart"):
        inner.post_processor = processors.RobertaProcessing(
            ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), trim_offsets=True, add_prefix_space=False
        )
    return inner
