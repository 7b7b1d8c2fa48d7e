"""SentencePiece models (Kudo & Richardson 2018) as tokenizers of the `tokenizers` library: unigram and BPE.

A `.spm` or `.model` file holds pieces with scores, and a table that says how characters are normalised. Read with
SentencePiece's own definition of the format (`pip install 'regard[hub]'`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from regard.errors import RegardError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces."""
_BLANK = "▁"
_UNIGRAM, _BPE = 1, 2


@dataclass(frozen=True)
class Pieces:
    """What a SentencePiece model file says."""

    names: list[str]
    scores: list[float]
    kinds: list[int]
    unigram: bool
    normalization: bytes
    """The table of how characters are replaced; empty if they stay as they are."""


def read_pieces(path: Path) -> Pieces:
    """Raises RegardError where the file is damaged, or of a kind that is not read."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise RegardError(f"{path}: to read SentencePiece models, pip install 'regard[hub]'") from error
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise RegardError(f"{path} is damaged or not a SentencePiece model: {error}") from error
    if not model.pieces:
        raise RegardError(f"{path} is damaged or not a SentencePiece model: it has no pieces")
    kind = model.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        raise RegardError(f"{path} is neither unigram nor BPE: only these SentencePiece models are read")
    return Pieces(
        [piece.piece for piece in model.pieces],
        [piece.score for piece in model.pieces],
        [piece.type for piece in model.pieces],
        kind == _UNIGRAM,
        model.normalizer_spec.precompiled_charsmap,
    )


def unigram(names: Sequence[str], scores: Sequence[float], kinds: Sequence[int], normalization: bytes) -> Tokenizer:
    """The most probable cut (Kudo 2018, section 3.2); ids are places in the list."""
    fallback = BYTE in kinds
    inner = Tokenizer(models.Unigram(list(zip(names, scores, strict=True)), kinds.index(UNKNOWN), fallback))
    inner.normalizer = _normalizer(normalization)
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="always")
    inner.decoder = _decoder()
    return inner


def byte_pairs(
    names: Sequence[str], scores: Sequence[float], kinds: Sequence[int], normalization: bytes = b""
) -> Tokenizer:
    """BPE in which the pair whose union has the highest score is merged first; ids are places in the list."""
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = []
    for name, score, kind in zip(names, scores, kinds, strict=True):
        if kind == NORMAL and len(name) > 1:
            pairs = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
            known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
            known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
            merges += [(score, pair) for pair in known]
    merges.sort(key=lambda merge: -merge[0])
    unknown = names[kinds.index(UNKNOWN)] if UNKNOWN in kinds else None
    inner = Tokenizer(
        models.BPE(
            vocabulary,
            [pair for _, pair in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=BYTE in kinds,
        )
    )
    before = [_normalizer(normalization)] if normalization else []
    inner.normalizer = normalizers.Sequence([*before, normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    inner.decoder = _decoder()
    return inner


def _normalizer(normalization: bytes) -> Any:
    """Characters by the table; blanks at the ends go, several become one."""
    table = [normalizers.Precompiled(normalization)] if normalization else []
    return normalizers.Sequence([*table, normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])


def _decoder() -> Any:
    return decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
