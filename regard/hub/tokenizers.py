"""The tokenizer of a Hugging Face folder, in whichever of its files it is kept.

`tokenizer.json` where there is one; else `vocab.txt` (BERT), `vocab.json` with `merges.txt` (GPT-2, RoBERTa).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from regard.errors import RegardError
from regard.modalities.subwords import Special, Subwords
from regard.modalities.text import SOURCE_FILE
from regard.models.base import read_json


def read_tokenizer(folder: Path, config: dict[str, Any]) -> Subwords:
    """Raises RegardError where the folder has no tokenizer, or one in a form that is not read."""
    if (folder / SOURCE_FILE).is_file():
        return _with_special(Subwords.from_file(folder / SOURCE_FILE, Special()), folder, config)
    if (folder / "vocab.txt").is_file():
        inner = _word_pieces(folder)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        inner = _byte_pairs(folder, str(config.get("model_type")))
    else:
        raise RegardError(
            f"{folder} has no tokenizer that can be read: it needs tokenizer.json, vocab.txt, or vocab.json with "
            "merges.txt; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in transformers writes the first"
        )
    return _with_special(Subwords(inner, Special()), folder, config)


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
