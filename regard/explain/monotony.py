"""How monotone attention is: whether what it looks at moves on with what asks.

Spelling and pronunciation run side by side, so a head of cross-attention that tells which letter makes which sound
moves from left to right. (Raffel et al. 2017, "Online and Linear-Time Attention by Enforcing Monotonic Alignments",
build this in; here it is only measured.)

    >>> monotony(trace["decoder.layers.1.cross_attention.weights"])   # one number a head
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError


def monotony(weights: Float[Tensor, "*heads queries keys"]) -> Float[Tensor, "*heads"]:
    """Spearman's rank correlation between a query's place and that of the key it looks at most.

    1: each query looks later than all before it; -1: earlier; about 0: the order of queries says nothing. A head that
    rests on one key all the time does not move, and has 0. Of keys with equal weights the first counts.

    `weights`: rows over the keys, of one head or of several: (heads, queries, keys) gives (heads). Raises RegardError
    for fewer than two queries or without a key: there is no order in them.

    Source: Spearman 1904, "The proof and measurement of association between two things"; ties have their mean rank.
    """
    queries, keys = weights.shape[-2:]
    if queries < 2 or keys < 1:
        raise RegardError(f"an order needs at least two queries and one key, not {queries} and {keys}")
    looked_at = _centred_ranks(weights.argmax(dim=-1))
    places = _centred_ranks(torch.arange(queries, device=weights.device))
    spread = looked_at.norm(dim=-1) * places.norm()
    correlation: Tensor = (looked_at @ places) / spread
    return correlation.where(spread > 0, torch.zeros_like(spread))


def _centred_ranks(places: Int[Tensor, "*heads queries"]) -> Float[Tensor, "*heads queries"]:
    """Half of how many are less minus how many are more: ranks with their mean taken off, equals sharing one."""
    return (places[..., :, None] - places[..., None, :]).sign().sum(dim=-1).float() / 2
