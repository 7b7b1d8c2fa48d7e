"""One answer token by token, as it is written; it may begin as one likes, and be drawn instead of chosen.

Greedy by default. With a temperature tokens are drawn from softmax(logits / temperature), among the fewest that have
`top_p` of the probability together (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.generation.search import Generator, Search
from regard.sequences import Sequences

_COLDEST = 1e-4
"""Below it nothing but the most probable token is ever drawn, and float32 would overflow."""


@dataclass(frozen=True)
class Draw:
    """How a token is chosen: the most probable at temperature 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise RegardError("temperature is 0 (greedy) or more, top_p above 0 and at most 1")


@torch.inference_mode()
def stream(
    model: Generator, source: Sequences, how: Search, begin: Sequence[int] = (), draw: Draw | None = None
) -> Iterator[int]:
    """The tokens of the answer to one source, without the end token; those of `begin` come first and as they are.

    The limits of `how` hold. Raises RegardError for more than one source.
    """
    if len(source) != 1:
        raise RegardError(f"one text is answered token by token, not {len(source)}")
    draw = draw or Draw()
    noise = torch.Generator()
    if draw.seed is not None:
        noise.manual_seed(draw.seed)
    else:
        noise.seed()
    state, tokens = model.start(source), how.begin(source)
    for length in range(1, how.longest(source.lengths[0]) + 1):
        logits, state = model.step(tokens, state)
        given = length <= len(begin)
        token = begin[length - 1] if given else _next(logits[0], how, length, draw, noise)
        if token == how.eos:
            return
        yield token
        tokens = torch.tensor([token], device=logits.device)


def _next(logits: Float[Tensor, "vocabulary"], how: Search, length: int, draw: Draw, noise: torch.Generator) -> int:
    """The first token where it is given, else one of those that are allowed."""
    if length == 1 and how.first is not None:
        return how.first
    log_probabilities = logits.float().log_softmax(dim=-1)
    if banned := how.banned(length):
        log_probabilities[list(banned)] = -torch.inf
    return _chosen(log_probabilities, draw, noise)


def _chosen(log_probabilities: Float[Tensor, "vocabulary"], draw: Draw, noise: torch.Generator) -> int:
    if draw.temperature < _COLDEST:
        return int(log_probabilities.argmax())
    scores = (log_probabilities - log_probabilities.max()) / draw.temperature
    probabilities, order = scores.softmax(dim=-1).cpu().sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill(before >= draw.top_p, 0.0)
    kept[0] = probabilities[0]
    return int(order[torch.multinomial(kept, 1, generator=noise)])
