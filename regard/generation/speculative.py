"""Speculative decoding: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".

A draft proposes several tokens, the model reads them all at once, which costs hardly more than one, and keeps those
that it would have chosen itself: greedy gives the text that it gives without a draft, sampling draws from the same
distribution (algorithm 1). The draft is a smaller model with the same vocabulary, or the source: where much is copied,
what followed the last few tokens before is likely to follow them again (Saxena 2023, "Prompt Lookup Decoding").

One text after the other: this makes one answer fast, a batch makes many.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError
from regard.generation.candidates import check_best, choose
from regard.generation.sampling import chances, pick, probabilities
from regard.generation.scores import change
from regard.generation.settings import Hypothesis, Search
from regard.sequences import Sequences


@runtime_checkable
class Extendable(Protocol):
    """A model that reads several tokens at once; its state has a `length`, and `cut(length)` takes back the rest."""

    config: Any

    def start(self, source: Sequences) -> Any: ...

    def extend(
        self, tokens: Int[Tensor, "rows count"], state: Any
    ) -> tuple[Float[Tensor, "rows count vocabulary"], Any]: ...


@runtime_checkable
class Draft(Protocol):
    """What proposes tokens."""

    def proposer(self, source: Sequences, how: Search) -> Proposer: ...


@runtime_checkable
class Proposer(Protocol):
    """The same for one source."""

    def propose(self, text: list[int], count: int, drawn: random.Random | None) -> list[Proposal]: ...


Proposal = tuple[int, Float[Tensor, "vocabulary"] | None]
"""A token, and the distribution it was drawn from; None where it is simply named."""


def speculate(
    model: Any, source: Sequences, how: Search, draft: Draft, numbers: Sequence[int]
) -> list[list[Hypothesis]]:
    """For each source one answer, or so many samples."""
    if not isinstance(model, Extendable):
        kind = type(model).__name__
        raise RegardError(f"a draft is for models that read several tokens at once, as a Transformer: {kind} does not")
    if how.beams > 1 or how.contrasts:
        raise RegardError("a draft is for greedy search and sampling: leave beams and penalty_alpha out")
    found = []
    for row, number in zip(source, numbers, strict=True):
        one = Sequences.of([row])
        drawn = [chances(how, number, sample) if how.samples else None for sample in range(how.answers)]
        found.append([_answer(model, one, how, draft.proposer(one, how), number, chance) for chance in drawn])
    return found


def _answer(
    model: Any, source: Sequences, how: Search, proposer: Proposer, number: int, drawn: random.Random | None
) -> Hypothesis:
    state, before = model.start(source), how.before(source)[0]
    limit = how.longest(source.lengths[0])
    written: list[int] = []
    total, begun = 0.0, state.length
    while len(written) < limit:
        proposals = proposer.propose([*before, *written], min(how.draft_tokens, limit - len(written) - 1), drawn)
        reading = [(written or before)[-1], *(token for token, _ in proposals)]
        logits, state = model.extend(torch.tensor([reading], device=source.values.device), state)
        for place, following in enumerate(logits[0]):
            proposal = proposals[place] if place < len(proposals) else None
            token, gain, kept = _next(following[None], how, [*before, *written], len(before), proposal, drawn, number)
            total += gain
            if token == how.eos:
                return how.hypothesis(written, total, True)
            written.append(token)
            if not kept:
                break
        state.cut(begun + len(written))
    return how.hypothesis(written, total, False)


def _next(
    logits: Float[Tensor, "1 vocabulary"],
    how: Search,
    text: list[int],
    begun: int,
    proposal: Proposal | None,
    drawn: random.Random | None,
    number: int,
) -> tuple[int, float, bool]:
    """The next token, its log-probability, and whether it is the proposed one, so that what follows counts too."""
    length = len(text) - begun + 1
    if drawn is None or length <= len(how.given) or proposal is None:
        best, tokens = choose(logits, how, length, [text], [] if drawn is None else [drawn])
        check_best(best, [(number, length)])
        token = int(tokens[0])
        return token, float(best[0]), proposal is not None and token == proposal[0]
    scores = logits.float().clone()
    change(scores, how, length, [text])
    check_best(scores.amax(dim=-1), [(number, length)])
    chance = probabilities(scores, how)[0]
    token, kept = accept(chance, proposal, drawn)
    return token, float(logits.float().log_softmax(dim=-1)[0, token]), kept


def accept(chance: Float[Tensor, "vocabulary"], proposal: Proposal, drawn: random.Random) -> tuple[int, bool]:
    """Algorithm 1: the proposed token with probability min(1, p / q), else one drawn from what p has more than q."""
    token, proposed = proposal
    share = 1.0 if proposed is None else float(proposed[token])
    if drawn.random() * share < float(chance[token]):
        return token, True
    if proposed is None:
        rest = chance.clone()
        rest[token] = 0.0
    else:
        rest = (chance - proposed).clamp_min(0.0)
    if float(rest.sum()) <= 0.0:  # p and q are the same but for rounding
        return token, True
    return int(pick(rest[None], [drawn.random()])[0]), False


# --- drafts -----------------------------------------------------------------------------------------------------------


class ModelDraft:
    """A smaller model with the same vocabulary."""

    def __init__(self, model: Any, for_model: Any) -> None:
        if not isinstance(model, Extendable):
            raise RegardError(f"a {type(model).__name__} cannot be a draft: it reads one token at a time")
        ours, theirs = (int(one.config.vocab_size) for one in (for_model, model))
        if ours != theirs:
            raise RegardError(f"a draft needs the vocabulary of its model: {theirs} tokens are not {ours}")
        self.model = model

    def proposer(self, source: Sequences, how: Search) -> Proposer:
        return _ModelProposer(self.model, source, how)


class SourceDraft:
    """The source, and what was written so far: what followed the same tokens there is proposed."""

    def proposer(self, source: Sequences, how: Search) -> Proposer:
        return _SourceProposer(source, how)


class _ModelProposer:
    def __init__(self, model: Any, source: Sequences, how: Search) -> None:
        self.model, self.how, self.device = model, how, source.values.device
        self.state = model.start(source)
        self.begun = self.state.length  # what it read before the first token that a step takes
        self.before = len(how.before(source)[0])
        self.known: list[int] = []
        config = model.config
        self.room = int(getattr(config, "n_positions", 0) or config.max_position_embeddings)

    def propose(self, text: list[int], count: int, drawn: random.Random | None) -> list[Proposal]:
        """Goes on from the text; what it has read of it already is not read again."""
        reading = text[self.before - 1 :]
        same = 0
        while same < min(len(self.known), len(reading) - 1) and self.known[same] == reading[same]:
            same += 1
        self.state.cut(self.begun + same)
        self.known = list(reading[:same])
        found: list[Proposal] = []
        entering, text = reading[same:], list(text)
        while len(found) < count and self.begun + len(self.known) + len(entering) <= self.room:
            logits, self.state = self.model.extend(torch.tensor([entering], device=self.device), self.state)
            self.known += entering
            token, chance = self._next(logits[0, -1:], text, drawn)
            found.append((token, chance))
            if token == self.how.eos:
                break
            text.append(token)
            entering = [token]
        return found

    def _next(
        self, logits: Float[Tensor, "1 vocabulary"], text: list[int], drawn: random.Random | None
    ) -> tuple[int, Float[Tensor, "vocabulary"] | None]:
        length = len(text) - self.before + 1
        if drawn is None or length <= len(self.how.given):
            return int(choose(logits, self.how, length, [text], [])[1][0]), None
        scores = logits.float().clone()
        change(scores, self.how, length, [text])
        chance = probabilities(scores, self.how)
        return int(pick(chance, [drawn.random()])[0]), chance[0]


class _SourceProposer:
    longest = 3  # so many tokens are looked for first

    def __init__(self, source: Sequences, how: Search) -> None:
        self.source = source.values.tolist() if how.bos is not None else []

    def propose(self, text: list[int], count: int, drawn: random.Random | None) -> list[Proposal]:
        """What followed the last tokens where they stood before: the latest place, the longest match."""
        whole = [*self.source, *text]
        for size in range(min(self.longest, len(text)), 0, -1):
            last = text[-size:]
            for place in range(len(whole) - size - 1, -1, -1):
                if whole[place : place + size] == last:
                    following = whole[place + size : place + size + count]
                    return [(token, None) for token in following]
        # A copy begins as its source does.
        return [(token, None) for token in self.source[:count]] if len(text) == 1 else []
