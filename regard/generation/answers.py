"""Answers to many texts: tokenised, grouped by length, searched in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from regard.generation.search import Generator, Hypothesis, Search, search
from regard.modalities.subwords import SubwordCodec
from regard.modalities.text import Codec
from regard.sequences import Sequences


def answer(
    model: Generator,
    codec: Codec | SubwordCodec,
    texts: Sequence[str],
    how: Search,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Answers with the numbers of their texts, in the fastest order: the longest first, alike ones together."""
    encoded = codec.source.encode_many(texts)
    order = sorted(range(len(texts)), key=lambda number: -len(encoded[number]))
    while order:
        room = max(1, batch_tokens // (len(encoded[order[0]]) * how.beams))
        chosen, order = order[:room], order[room:]
        source = Sequences.of_ids([encoded[number] for number in chosen], device)
        yield from zip(chosen, search(model, source, how), strict=True)
