"""The logit lens: what each layer would answer now, and which part of the model speaks for the answer.

nostalgebraist 2020, "interpreting GPT: the logit lens": the residual stream after each layer, through the last norm and
the map to words. Where that map is linear, a word's logit is the exact sum of what each head, feed-forward network and
bias contributes to it (direct logit attribution, Elhage et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.explain.result import Block, Lines, Note, Result, Table
from regard.explain.split import check_layers, split
from regard.explain.trace import Side, Trace, check_range, scores_of_words
from regard.explain.words import find_word

_SHOWN_PARTS = 16


@dataclass(frozen=True)
class Guess:
    """A word that a layer would answer with."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class Lens:
    """One position, layer by layer."""

    guesses: list[list[Guess]]
    """After 0 layers, 1 layer, ...: the most probable words, the best first."""
    probabilities: list[float]
    """Of the last layer's word, after each layer."""
    ranks: list[int]
    """Its place among all words; 1 is the first."""


@dataclass(frozen=True)
class LensView(Result):
    """The lens at one position, and the parts that speak for a word."""

    view: ClassVar[str] = "lens"
    at: str
    """The token at which the model answers."""
    token: int
    word: str
    """The word that is followed: the model's answer, or one that was asked for."""
    lens: Lens
    parts: list[tuple[str, float]]
    """What each part contributes to the word's logit; empty where the map to words is not linear."""
    logit: float
    difference: float
    """Between the sum of the parts and the logit."""

    @property
    def title(self) -> str:
        return f'What each layer would answer at "{self.at}"'

    def blocks(self) -> list[Block]:
        """The answers by layer, the word's way up, and the parts that speak for it."""
        names = ["embedding", *(f"layer {number}" for number in range(len(self.lens.guesses) - 1))]
        count = max(len(row) for row in self.lens.guesses)
        rows: list[list[Any]] = [
            [name, *(f"{guess.text} {guess.probability:.2f}" for guess in row), rank]
            for name, row, rank in zip(names, self.lens.guesses, self.lens.ranks, strict=True)
        ]
        columns = ["after", *(f"{place}." for place in range(1, count + 1)), f'rank of "{self.word}"']
        found: list[Block] = [
            Table("the most probable words after each layer", columns, rows),
            Lines(f'probability of "{self.word}"', names, {self.word: self.lens.probabilities}),
        ]
        if self.parts:
            largest = sorted(self.parts, key=lambda part: -abs(part[1]))[:_SHOWN_PARTS]
            rest = self.logit - sum(value for _, value in largest)
            shown: list[list[Any]] = [[name, value] for name, value in largest]
            caption = f'what adds up to the logit of "{self.word}", {self.logit:.2f}: the largest parts'
            found.append(Table(caption, ["part", "logit"], [*shown, ["all others", rest]]))
            line = f"all parts together against the fast run: difference {self.difference:.1e}"
            found.append(Note(line, holds=self.difference < 1e-3))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "at": self.at,
            "word": self.word,
            "token": self.token,
            "layers": [[vars(guess) for guess in row] for row in self.lens.guesses],
            "probabilities": self.lens.probabilities,
            "ranks": self.lens.ranks,
            "logit": self.logit,
            "parts": [{"part": name, "logit": value} for name, value in self.parts],
            "difference_from_fast_run": self.difference,
        }


@torch.no_grad()
def lens(
    trace: Trace, query: str | int | None = None, token: int | None = None, row: int = 0, count: int = 5
) -> LensView:
    """What each layer would answer at a position.

    `query`: a word of the text, of translators one they produced, or a position; by default the last one of a text, the
    first of an answer, the hidden word of a masked model. `token`: the word whose way is followed, by default the
    answer. Raises RegardError where a model scores no words, and for recurrent models: their layers share no stream.
    """
    score = scores_of_words(trace.model)
    check_layers(trace, _answering_stack(trace))
    position, at = answering_position(trace, query, row)
    places = _answering_stack(trace)
    side: Any = places[0].split(".")[0]
    stack: Any = trace.model.get_submodule(side)
    norm = stack.norm if isinstance(getattr(stack, "norm", None), nn.LayerNorm | nn.RMSNorm) else nn.Identity()
    streams = torch.stack([trace.hidden(layer, row, side)[position] for layer in range(len(places) + 1)])
    logits = score(norm(streams)).float()
    chosen = int(logits[-1].argmax()) if token is None else token
    check_range("token of the vocabulary", chosen, logits.shape[1])
    parts, difference = _speakers(trace, score, position, chosen, row, float(logits[-1, chosen]))
    return LensView(at, chosen, trace.spell(chosen), _lens(logits, chosen, count, trace.spell), parts,
                    float(logits[-1, chosen]), difference)  # fmt: skip


def _lens(logits: Float[Tensor, "layers vocabulary"], token: int, count: int, spell: Callable[[int], str]) -> Lens:
    probabilities = logits.softmax(dim=-1)
    best = probabilities.topk(min(count, logits.shape[1]), dim=-1)
    guesses = [
        [Guess(one, spell(one), value) for one, value in zip(tokens, values, strict=True)]
        for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    own = probabilities[:, token]
    return Lens(guesses, own.tolist(), ((probabilities > own[:, None]).sum(dim=-1) + 1).tolist())


def answering_position(trace: Trace, query: str | int | None = None, row: int = 0) -> tuple[int, str]:
    """Where the model answers, and how that place reads. A translator answers a word one place before it stands."""
    side: Side = "source" if trace.target is None else "produced"
    words = trace.words(row, side)
    tokens = trace.words(row, side)[-1].places[-1] + 1
    if isinstance(query, int):
        check_range("token", query, tokens)
        return query, next(word.text for word in words if query in word.places)
    if query is not None:
        word = words[find_word(words, query)]
        return word.places[0 if side == "produced" else -1], word.text
    if side == "produced":  # what the answer was made to begin with is no answer
        first = next((word for word in words if word.number is not None), words[0])
        return first.places[0], first.text
    masked = [word for word in words if word.text in ("[MASK]", "<mask>")]
    own = [word for word in words if word.number is not None]
    chosen = masked[0] if masked else own[-1] if own else words[-1]
    return chosen.places[-1], chosen.text


def _answering_stack(trace: Trace) -> list[str]:
    return trace.stack("decoder" if "decoder" in trace.stacks else "encoder")


def _speakers(
    trace: Trace, score: Any, position: int, token: int, row: int, logit: float
) -> tuple[list[tuple[str, float]], float]:
    """What each part adds to the logit. Nothing where the map to words is not linear."""
    if not hasattr(trace.model, "logits"):
        return [], 0.0
    found = split(trace, position, row)
    nothing = score(torch.zeros_like(found.whole)[None])[0, token]
    added = score(found.parts)[:, token] - nothing
    parts = list(zip(found.names, added.tolist(), strict=True))
    if float(nothing):
        parts.append(("output bias", float(nothing)))
    return parts, abs(sum(value for _, value in parts) - logit)
