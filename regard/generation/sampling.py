"""Ancestral sampling: each token is drawn by its probability, from all or from the more probable ones.

A text's chance depends on the seed, its number and which of its samples it is: neither on the batch it is in, nor on
what is drawn for others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.generation.settings import Search

_COLDEST = 1e-30
"""Below it float32 has no numbers to divide by; nothing but the most probable token is drawn long before."""


def chances(how: Search, number: int, sample: int = 0) -> random.Random:
    """The stream of numbers from 0 to 1 for one sample of one text; without a seed another one each time."""
    return random.Random(None if how.seed is None else f"{how.seed}/{number}/{sample}")


def draw(logits: Float[Tensor, "rows vocabulary"], how: Search, drawn: Sequence[random.Random]) -> Int[Tensor, "rows"]:
    """One token a row."""
    return pick(probabilities(logits, how), [one.random() for one in drawn])


def pick(chance: Float[Tensor, "rows vocabulary"], places: Sequence[float]) -> Int[Tensor, "rows"]:
    """The token at each place of 0 to 1, where every token is as wide as it is probable."""
    ends = chance.double().cumsum(dim=-1)
    aims = torch.tensor(places, dtype=torch.float64, device=chance.device) * ends[:, -1]
    return torch.searchsorted(ends, aims[:, None], right=True)[:, 0].clamp_max(chance.shape[-1] - 1)


def probabilities(logits: Float[Tensor, "rows vocabulary"], how: Search) -> Float[Tensor, "rows vocabulary"]:
    """What tokens are drawn by: temperature first, then what is left of the less probable."""
    scores = logits.float()
    if how.temperature is not None:
        # The best score first becomes 0, so that no temperature makes it infinite.
        scores = (scores - scores.amax(dim=-1, keepdim=True)) / max(how.temperature, _COLDEST)
    if how.top_k is not None and how.top_k < scores.shape[-1]:
        least = scores.topk(how.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if how.top_p is not None and how.top_p < 1:
        scores = _most(scores, how.top_p)
    chance = scores.softmax(dim=-1)
    if how.min_p is not None:
        chance = chance.masked_fill(chance < how.min_p * chance.amax(dim=-1, keepdim=True), 0.0)
        chance = chance / chance.sum(dim=-1, keepdim=True)
    return chance


def _most(scores: Float[Tensor, "rows vocabulary"], share: float) -> Float[Tensor, "rows vocabulary"]:
    """The most probable tokens that together reach the share; the one that reaches it is kept, the first always."""
    ordered, order = scores.sort(dim=-1, descending=True)
    chance = ordered.softmax(dim=-1)
    beyond = chance.cumsum(dim=-1) - chance >= share
    beyond[:, 0] = False
    return scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
