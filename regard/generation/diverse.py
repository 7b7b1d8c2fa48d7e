"""Diverse beam search: Vijayakumar et al. 2016, "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence
Models", section 4, with Hamming diversity.

Beams stand in groups that search one after the other: a token costs `diversity_penalty` for each beam of an earlier
group that has just taken it. The penalty decides what is followed; log P stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard.generation.candidates import Candidates, certain, log_probabilities
from regard.generation.scores import Texts
from regard.generation.settings import Search

_USUAL = 0.5


def best_of_groups(
    logits: Float[Tensor, "rows_beams vocabulary"],
    sums: Float[Tensor, "rows beams"],
    how: Search,
    length: int,
    texts: Texts,
    sources: Sequence[int],
) -> Candidates:
    """Each row is a group; `sources` tell whose. Groups of one source stand together, the first first."""
    if length <= len(how.given):
        return certain(sums, how.given[length - 1])
    rows, beams = sums.shape
    totals = sums[:, :, None] + log_probabilities(logits, how, length, texts).view(rows, beams, -1)
    vocabulary = totals.shape[-1]
    penalty = _USUAL if how.diversity_penalty is None else how.diversity_penalty
    found, taken = [], logits.new_zeros(vocabulary, dtype=torch.float32)
    for row, source in enumerate(sources):
        if not row or source != sources[row - 1]:
            taken = torch.zeros_like(taken)
        ranks, places = (totals[row] - penalty * taken).flatten().topk(min(2 * beams, beams * vocabulary))
        tokens = places % vocabulary
        found.append(Candidates(totals[row].flatten()[places], places // vocabulary, tokens, ranks))
        followed = tokens[(tokens != how.eos) & ranks.isfinite()][:beams]
        taken = taken.index_add(0, followed, torch.ones_like(followed, dtype=taken.dtype))
    return Candidates(*(torch.stack(parts) for parts in zip(*found, strict=True)))
