"""Many texts through an encoder: alike lengths together, so many tokens at a time, a thread for each core.

Small batches of whole texts stay in a core's cache, and two threads that each compute a batch of their own are faster
than two that share one (`benchmarks/embed.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from regard.sequences import Sequences

BATCH_TOKENS = 1024


def by_length(
    ids: Sequence[Sequence[int]],
    compute: Callable[[Sequences], Tensor],
    device: torch.device | str = "cpu",
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """What `compute` gives for each text, (texts, ...), in their order; `compute` gives a row a text.

    Called without gradients, on a CPU in several threads at once.
    """
    batches = _batches([len(row) for row in ids], batch_tokens)

    def work(chosen: list[int]) -> Tensor:
        with torch.no_grad():
            return compute(Sequences.of_ids([ids[number] for number in chosen], device))

    threads = min(torch.get_num_threads(), len(batches))
    if threads > 1 and torch.device(device).type == "cpu":
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = list(pool.map(work, batches))
    else:
        found = [work(chosen) for chosen in batches]
    gathered = torch.cat(found)
    order = torch.tensor([number for chosen in batches for number in chosen], device=gathered.device)
    return torch.empty_like(gathered).index_copy_(0, order, gathered)


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Numbers of texts, the longest first; each batch has as many tokens as that, or one text that has more."""
    batches: list[list[int]] = []
    held = batch_tokens + 1
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if held + lengths[number] > batch_tokens:
            batches.append([])
            held = 0
        batches[-1].append(number)
        held += lengths[number]
    return batches
