"""One word in several texts: how its contextual embedding parts, layer by layer, and what it is mixed from.

The notes write it as an equation: e(Python) = 0.4 e(Python) + 0.4 e(crawls) + 0.2 e(quickly). Here the weights are the
model's: those of one head, or the mean over a layer's heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.errors import RegardError
from regard.explain.result import Block, Equation, Lines, Note, Result, Table
from regard.explain.split import check_layers, split_by_token
from regard.explain.trace import Trace, check_range
from regard.explain.walkthrough import walked_layers
from regard.explain.words import Word, find_word, join_keys, join_rows, shared_word
from regard.layers.blocks import PreNorm


@dataclass(frozen=True)
class Context(Result):
    """A word's vectors in each text, compared layer by layer."""

    view: ClassVar[str] = "context"
    word: str
    texts: list[str]
    mixtures: list[Equation]
    """For each text the words whose values make up the new embedding of `word`, and how much."""
    layer: int
    head: int | None
    """None: the mean over all heads."""
    cosines: Tensor
    """(layers + 1, texts, texts): entry 0 is embedding plus position, entry n the output of layer n - 1.

    The last one is the memory: in a pre-norm model it has passed the last norm, so its distance is on another scale.
    """
    side: str
    """The stack: `encoder` or `decoder`."""
    norm_last: bool
    """Whether a last norm stands before the memory (pre-norm models)."""
    distances: Tensor
    """Euclidean, same shape."""
    pushes: list[list[tuple[str, float]]]
    """For each text what moved the word's last vector apart from that in the first text (the first: from that in the
    second): each word of the text, what the embedding, the feed-forward networks and the biases did. The share of each
    part along the line between the two vectors."""
    gaps: list[float]
    """How long that line is: for each text the pushes less those of the text it is held against add up to it."""

    @property
    def title(self) -> str:
        return f'"{self.word}" in each text: what its new embedding is mixed from'

    def blocks(self) -> list[Block]:
        """The notes' equation for each text, how the vectors part, and what pushed them."""
        heads = "the mean of all heads" if self.head is None else f"head {self.head}"
        found: list[Block] = [Note(f"weights of {self.side} layer {self.layer}, {heads}; e(x) is the value of x")]
        found += self.mixtures
        names = ["start", *(f"layer {number}" for number in range(len(self.cosines) - 1))]
        if self.norm_last:
            names[-1] += ", last norm"
        others = [(number, f"text {number + 1}") for number in range(1, len(self.texts))]
        for kind, values in (("cosine", self.cosines), ("distance", self.distances)):
            lines = {name: values[:, 0, number].tolist() for number, name in others}
            found.append(Lines(f'{kind} of "{self.word}" to that in text 1, layer by layer', names, lines, "after"))
        for number, pushes in enumerate(self.pushes):
            rows: list[list[Any]] = [[name, value] for name, value in pushes]
            against = 1 if number else 2
            caption = f'what moved "{self.word}" in text {number + 1} along the line from text {against} to it'
            found.append(Table(caption, ["from", "push"], rows))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": "context",
            "word": self.word,
            "texts": self.texts,
            "layer": self.layer,
            "head": self.head,
            "equations": [
                {"word": one.word, "words": one.words, "weights": one.weights, "text": str(one)}
                for one in self.mixtures
            ],
            "cosines": self.cosines.tolist(),
            "distances": self.distances.tolist(),
            "pushes": [[{"from": name, "push": value} for name, value in one] for one in self.pushes],
            "gaps": self.gaps,
        }


def compare(
    trace: Trace,
    texts: Sequence[str],
    word: str | None = None,
    layer: int = 0,
    head: int | None = None,
) -> Context:
    """Compare the embedding of a word that all texts of the trace have.

    By default the first such word; where words see only what came before them, the last.
    """
    places = walked_layers(trace)
    if len(texts) < 2:
        raise RegardError("the context of a word is compared between texts: give two or more that share a word")
    check_layers(trace, places or trace.stack())
    check_range("layer", layer, len(places))
    part: Any = trace.model.get_submodule(places[layer])
    if head is not None:
        check_range("head", head, part.self_attention.heads)
    words = [trace.words(row) for row in range(len(texts))]
    name = shared_word(words, word, last=places[layer].startswith("decoder."))
    found = [find_word(text, name) for text in words]
    vectors = torch.stack(
        [
            torch.stack([join_rows(hidden, text)[place] for hidden in _residuals(trace, places, row)])
            for row, (text, place) in enumerate(zip(words, found, strict=True))
        ],
        dim=1,
    )
    cosines = F.cosine_similarity(vectors[:, :, None], vectors[:, None], dim=-1)
    mixtures = []
    for row, (text, place) in enumerate(zip(words, found, strict=True)):
        weights = trace.steps(places[layer], row=row)["self_attention.weights"]
        chosen = weights.mean(dim=0) if head is None else weights[head]
        joined = join_rows(join_keys(chosen, text), text)[place]
        mixtures.append(Equation(texts[row], text[place].text, [one.text for one in text], joined.tolist()))
    norm_last = isinstance(part.self_attention_residual, PreNorm)
    pushes, gaps = _pushes(trace, words, found)
    side, distances = places[layer].split(".")[0], torch.cdist(vectors, vectors)
    return Context(name, list(texts), mixtures, layer, head, cosines, side, norm_last, distances, pushes, gaps)


def _pushes(
    trace: Trace, words: Sequence[Sequence[Word]], found: Sequence[int]
) -> tuple[list[list[tuple[str, float]]], list[float]]:
    """For each text the parts of the word's last vector along the line from its vector in another text to it."""
    splits = [
        split_by_token(trace, text[place].places[-1], row)
        for row, (text, place) in enumerate(zip(words, found, strict=True))
    ]
    pushes, gaps = [], []
    for row, (text, one) in enumerate(zip(words, splits, strict=True)):
        line = one.whole - splits[0 if row else 1].whole
        gap = float(line.norm())
        along = one.parts @ (line / max(gap, 1e-12))
        joined = join_keys(along[1:-2], text).tolist()
        named = zip(["its embedding", *(word.text for word in text), "feed-forward", "biases"],
                    [float(along[0]), *joined, *along[-2:].tolist()], strict=True)  # fmt: skip
        pushes.append(list(named))
        gaps.append(gap)
    return pushes, gaps


def _residuals(trace: Trace, places: list[str], row: int) -> list[Tensor]:
    """The residual stream of one text as it enters each layer, and what the stack gave in the end."""
    last = trace.output if trace.memory is None else trace.memory
    return [*(trace.entering(place, row) for place in places), last[row]]
