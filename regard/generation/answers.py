"""Answers to many texts: tokenised, grouped by length, searched in batches, by a worker for each core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from regard.generation.engine import Engine
from regard.generation.search import search
from regard.generation.settings import Generator, Hypothesis, Search
from regard.generation.speculative import Draft
from regard.modalities.subwords import SubwordCodec
from regard.modalities.text import Codec
from regard.sequences import Sequences

_ROWS = 128
"""Beams of one batch at most: more need more memory and are no faster (benchmarks/translate.py)."""


def answer(
    model: Generator,
    codec: Codec | SubwordCodec,
    texts: Sequence[str],
    how: Search,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
    draft: Draft | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Answers with the numbers of their texts, in the fastest order: the longest first, alike ones together.

    What is drawn for a text depends on its number in `numbers` (by default 0, 1, ...), not on its place in a batch.
    """
    encoded = codec.source.encode_many(texts)
    yield from searched(model, encoded, how, batch_tokens, device, draft, numbers)


def searched(
    model: Generator,
    sources: Sequence[Sequence[int]],
    how: Search,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
    draft: Draft | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The same for texts that are token ids already."""
    workers = _workers(model, len(sources))
    batches = _batches([len(one) for one in sources], max(how.beams, how.answers), batch_tokens, workers)

    def answered(worker: Generator, chosen: list[int]) -> Iterator[tuple[int, list[Hypothesis]]]:
        source = Sequences.of_ids([sources[place] for place in chosen], device)
        own = chosen if numbers is None else [numbers[place] for place in chosen]
        return zip(chosen, search(worker, source, how, numbers=own, draft=draft), strict=True)

    if workers == 1:
        for chosen in batches:
            yield from answered(model, chosen)
        return
    assert isinstance(model, Engine)
    # One thread each is faster than all threads on every step: nobody waits for anybody. They share the weights.
    threads, single = torch.get_num_threads(), model.with_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for found in pool.map(lambda chosen: list(answered(single, chosen)), batches):
                yield from found
    finally:
        torch.set_num_threads(threads)


def _workers(model: Generator, texts: int) -> int:
    """Native code lets Python go on beside it; a model's own steps would only wait for each other."""
    if not isinstance(model, Engine):
        return 1
    return max(1, min(model.threads or torch.get_num_threads(), texts // 2))


def _batches(lengths: Sequence[int], rows: int, batch_tokens: int, workers: int) -> list[list[int]]:
    """Numbers of texts by batch: the longest first, and no worker without one."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    share = -(-len(order) // workers)
    found = []
    while order:
        room = min(batch_tokens // (lengths[order[0]] * rows), _ROWS // rows, share)
        found.append(order[: max(1, room)])
        order = order[max(1, room) :]
    return found
