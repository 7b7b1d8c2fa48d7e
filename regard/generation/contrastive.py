"""Contrastive search: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 3.2, equation 5.

Of the k most probable tokens the one is taken whose probability is high and whose hidden state is unlike all those
before it, which keeps a language model from going in circles: (1 - alpha) p(token) - alpha max cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from regard.errors import RegardError
from regard.generation.candidates import check_best
from regard.generation.scores import change
from regard.generation.settings import Hypothesis, Search
from regard.sequences import Sequences


def contrastive_search(model: Any, source: Sequences, how: Search, numbers: Sequence[int]) -> list[list[Hypothesis]]:
    """One answer to each source. The model shows its hidden states: `advance(tokens, state)` and `logits`."""
    if not hasattr(model, "advance"):
        raise RegardError(f"penalty_alpha (contrastive search) needs hidden states; {type(model).__name__} gives none")
    assert how.top_k is not None
    device = source.values.device
    rows, count = len(source), how.top_k
    before = how.before(source)
    answers: list[list[int]] = [[] for _ in range(rows)]
    limits = [how.longest(length) for length in source.lengths]
    state, active = model.start(source), list(range(rows))
    sums, finished = [0.0] * rows, [False] * rows
    seen, there = _read_before(model, source, how)
    hidden = model.advance(how.begin(source)[:, None], state)
    for length in range(1, max(limits) + 1):
        seen = torch.cat([seen, hidden], dim=1)
        there = torch.cat([there, there.new_ones(len(active), 1)], dim=1)
        logits = model.logits(hidden[:, 0]).float()
        own = logits.log_softmax(dim=-1)
        change(logits, how, length, [[*before[row], *answers[row]] for row in active])
        if length <= len(how.given):
            logits.fill_(-torch.inf)[:, how.given[length - 1]] = 0.0
            own = logits
        check_best(logits.amax(dim=-1), [(numbers[row], length) for row in active])
        chances, tokens = logits.softmax(dim=-1).topk(min(count, logits.shape[1]), dim=-1)
        width = tokens.shape[1]
        tried = state.select(torch.arange(len(active), device=device).repeat_interleave(width))
        entering = model.advance(tokens.reshape(-1, 1), tried).view(len(active), width, -1)
        scores = contrast(chances, entering, seen, there, how.penalty_alpha or 0.0)
        best = scores.argmax(dim=-1)
        places = torch.arange(len(active), device=device)
        chosen = tokens[places, best]
        gains = own.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, gain in zip(active, chosen.tolist(), gains, strict=True):
            sums[row] += gain
            finished[row] = token == how.eos
            answers[row] += [] if finished[row] else [token]
        kept = [place for place, row in enumerate(active) if not finished[row] and length < limits[row]]
        if not kept:
            break
        keep = torch.tensor(kept, device=device)
        state = tried.select(keep * width + best[keep])
        hidden, seen, there = entering[keep, best[keep]][:, None], seen[keep], there[keep]
        active = [active[place] for place in kept]
    found = zip(answers, sums, finished, strict=True)
    return [[how.hypothesis(answer, total, done)] for answer, total, done in found]


def contrast(
    chances: Float[Tensor, "rows candidates"],
    entering: Float[Tensor, "rows candidates width"],
    seen: Float[Tensor, "rows positions width"],
    there: Bool[Tensor, "rows positions"],
    alpha: float,
) -> Float[Tensor, "rows candidates"]:
    """Equation 5, for each candidate; its hidden state is held against those of all positions that are there."""
    likeness = F.normalize(entering, dim=-1) @ F.normalize(seen, dim=-1).transpose(1, 2)
    nearest = likeness.masked_fill(~there[:, None], -1.0).amax(dim=-1)
    # A token that may not be chosen has no probability: it must not win by being unlike the others.
    return ((1 - alpha) * chances - alpha * nearest).masked_fill(chances == 0, -torch.inf)


def _read_before(
    model: Any, source: Sequences, how: Search
) -> tuple[Float[Tensor, "rows positions width"], Bool[Tensor, "rows positions"]]:
    """Hidden states of what a text has before its last token, and where they are; none for a translator."""
    if how.bos is not None:
        width = model.config.width
        return source.values.new_zeros(len(source), 0, width, dtype=torch.float32), _places(source, 0)
    read = Sequences.of([row[:-1] for row in source])
    hidden = read.layout.pad(model.hidden(read).values)
    return hidden, read.layout.present


def _places(source: Sequences, count: int) -> Bool[Tensor, "rows positions"]:
    return torch.ones(len(source), count, dtype=torch.bool, device=source.values.device)
