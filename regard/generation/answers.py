"""Answers to many texts: tokenised, the longest first, filled up as answers end, by a worker for each core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue

import torch

from regard.generation.engine import Engine
from regard.generation.search import search_waiting
from regard.generation.second_opinion import SecondOpinion
from regard.generation.settings import Generator, Hypothesis, Search
from regard.generation.speculative import Draft
from regard.generation.waiting import Waiting
from regard.modalities.subwords import SubwordCodec
from regard.modalities.text import Codec
from regard.sequences import Sequences

TEXTS, ROWS = 64, 128
"""Most texts, and most beams, that are answered at a time: more need more memory and are no faster (docs/log.md)."""


def answer(
    model: Generator,
    codec: Codec | SubwordCodec,
    texts: Sequence[str],
    how: Search,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
    draft: Draft | None = None,
    numbers: Sequence[int] | None = None,
    opinion: SecondOpinion | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Answers with the numbers of their texts, in the fastest order: the longest first, alike ones together.

    What is drawn for a text depends on its number in `numbers` (by default 0, 1, ...), not on its place in a batch.
    With an `opinion` the answers of a beam search are ranked by it before the `n_best` are taken.
    """
    encoded = codec.source.encode_many(texts)
    if opinion is None or how.beams == 1:
        yield from searched(model, encoded, how, batch_tokens, device, draft, numbers)
        return
    assert isinstance(codec, Codec)
    found = searched(model, encoded, replace(how, n_best=None), batch_tokens, device, draft, numbers)
    while some := list(islice(found, ROWS)):
        ranked = opinion.rank(codec, [encoded[place] for place, _ in some], [answers for _, answers in some])
        for (place, _), answers in zip(some, ranked, strict=True):
            yield place, answers[: how.n_best]


def searched(
    model: Generator,
    sources: Sequence[Sequence[int]],
    how: Search,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
    draft: Draft | None = None,
    numbers: Sequence[int] | None = None,
    most: int | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The same for texts that are token ids already; a worker has at most so many rows (beams, samples) at a time."""
    workers = _workers(model, len(sources))
    rows, share = max(how.beams, how.answers), -(-len(sources) // workers)
    together = min(TEXTS, ROWS // rows) if most is None else most // rows
    waiting = Waiting(
        lambda chosen: Sequences.of_ids([sources[place] for place in chosen], device),
        sorted(range(len(sources)), key=lambda place: -len(sources[place])),
        range(len(sources)) if numbers is None else numbers,
        # As many tokens as fit, and no worker without a text.
        lambda place: min(batch_tokens // (len(sources[place]) * rows), together, share),
    )
    if workers == 1:
        yield from search_waiting(model, waiting, how, draft=draft)
        return
    assert isinstance(model, Engine)
    yield from _by_workers(model, waiting, how, draft, workers)


def _by_workers(
    model: Engine, waiting: Waiting, how: Search, draft: Draft | None, workers: int
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """One thread each is faster than all threads on every step: nobody waits for anybody. They share the weights."""
    found: SimpleQueue[tuple[int, list[Hypothesis]] | None] = SimpleQueue()
    threads, single = torch.get_num_threads(), model.with_threads(1)

    def work() -> None:
        try:
            for one in search_waiting(single, waiting, how, draft=draft):
                found.put(one)
        finally:
            found.put(None)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(work) for _ in range(workers)]
            try:
                for _ in range(workers):
                    yield from iter(found.get, None)
            finally:  # also if a worker failed, or nobody wants the rest
                waiting.close()
            for future in futures:
                future.result()
    finally:
        torch.set_num_threads(threads)


def _workers(model: Generator, texts: int) -> int:
    """Native code lets Python go on beside it; a model's own steps would only wait for each other."""
    if not isinstance(model, Engine):
        return 1
    return max(1, min(model.threads or torch.get_num_threads(), texts // 2))
