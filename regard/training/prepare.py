"""From a recipe's data to tokenised examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from regard.data.batches import Examples
from regard.data.sources import Pair, read_cmudict, read_pairs
from regard.errors import RegardError
from regard.modalities.text import Codec, symbol_codec, train_bpe
from regard.training.recipe import Recipe


@dataclass(frozen=True)
class Prepared:
    """What a run trains and is measured on."""

    codec: Codec
    train: Examples
    valid: Examples
    valid_pairs: list[Pair]
    test_pairs: list[Pair]
    counts: dict[str, int]


def prepare(recipe: Recipe, begun: Path | None = None) -> Prepared:
    """Read the three parts, train the tokenizers (or take those of a run that was begun), and tokenise."""
    parts = read_parts(recipe)
    for name, pairs in parts.items():
        if not pairs:
            raise RegardError(f"the {name} part of the data is empty")
    codec = Codec.load(begun) if begun else _train_codec(recipe, parts["train"])
    train = tokenise(codec, parts["train"], recipe.data.max_tokens)
    if not len(train):
        raise RegardError(f"no training pair is within data.max_tokens = {recipe.data.max_tokens}")
    longest = recipe.model.max_position_embeddings
    counts = {f"{name}_pairs": len(pairs) for name, pairs in parts.items()}
    valid = tokenise(codec, parts["valid"], longest)
    return Prepared(codec, train, valid, parts["valid"], parts["test"], counts)


def read_parts(recipe: Recipe) -> dict[str, list[Pair]]:
    """`train`, `valid` and `test` pairs."""
    data = recipe.data
    if data.source == "cmudict":
        return read_cmudict()
    return {
        part: [
            pair
            for pair in read_pairs(getattr(data, part), data.source_field, data.target_field)
            if pair.source.strip() and pair.target.strip()
        ]
        for part in ("train", "valid", "test")
    }


def tokenise(codec: Codec, pairs: Iterable[Pair], longest: int) -> Examples:
    """Every (source, target) of the pairs whose sides have at most `longest` tokens."""
    flat = [(pair.source, target) for pair in pairs for target in pair.targets]
    sources = codec.source.encode_many([source for source, _ in flat])
    targets = codec.target.encode_many([target for _, target in flat])
    kept = [both for both in zip(sources, targets, strict=True) if max(map(len, both)) <= longest]
    return Examples([source for source, _ in kept], [target for _, target in kept], codec.target.bos)


def _train_codec(recipe: Recipe, pairs: list[Pair]) -> Codec:
    if recipe.tokenizer.kind == "symbols":
        return symbol_codec((pair.source for pair in pairs), (target for pair in pairs for target in pair.targets))
    texts = (text for pair in pairs for text in (pair.source, pair.target))
    return train_bpe(texts, recipe.tokenizer.vocab_size)
