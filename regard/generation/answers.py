"""Answers to many texts: tokenised, grouped by length, searched in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from regard.generation.search import search
from regard.generation.settings import Generator, Hypothesis, Search
from regard.generation.speculative import Draft
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
    draft: Draft | None = None,
    first_number: int = 0,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Answers with the numbers of their texts, in the fastest order: the longest first, alike ones together.

    What is drawn for a text depends on its number, counted from `first_number`, and not on its place in a batch.
    """
    encoded = codec.source.encode_many(texts)
    order = sorted(range(len(texts)), key=lambda number: -len(encoded[number]))
    while order:
        room = max(1, batch_tokens // (len(encoded[order[0]]) * max(how.beams, how.answers)))
        chosen, order = order[:room], order[room:]
        source = Sequences.of_ids([encoded[number] for number in chosen], device)
        numbers = [first_number + number for number in chosen]
        yield from zip(chosen, search(model, source, how, numbers=numbers, draft=draft), strict=True)
