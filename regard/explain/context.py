"""One word in several texts: how its contextual embedding parts, layer by layer, and what it is mixed from.

The notes write it as an equation: e(Python) = 0.4 e(Python) + 0.4 e(crawls) + 0.2 e(quickly). Here the weights are the
model's: those of one head, or the mean over a layer's heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.explain.trace import Trace, check_range
from regard.explain.walkthrough import walked_layers
from regard.explain.words import find_word, join_keys, join_rows, shared_word
from regard.layers.blocks import PreNorm


@dataclass(frozen=True)
class Mixture:
    """The notes' equation for one text: which words' values make up the new embedding of `word`, and how much."""

    word: str
    words: list[str]
    weights: list[float]

    def __str__(self) -> str:
        terms = " + ".join(f"{weight:.2f} e({word})" for word, weight in zip(self.words, self.weights, strict=True))
        return f"e({self.word}) = {terms}"


@dataclass(frozen=True)
class Context:
    """A word's vectors in each text, compared layer by layer."""

    word: str
    texts: list[str]
    mixtures: list[Mixture]
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
        mixtures.append(Mixture(text[place].text, [one.text for one in text], joined.tolist()))
    norm_last = isinstance(part.self_attention_residual, PreNorm)
    side = places[layer].split(".")[0]
    return Context(name, list(texts), mixtures, layer, head, cosines, side, norm_last, torch.cdist(vectors, vectors))


def _residuals(trace: Trace, places: list[str], row: int) -> list[Tensor]:
    """The residual stream of one text as it enters each layer, and what the stack gave in the end."""
    last = trace.output if trace.memory is None else trace.memory
    return [*(trace.entering(place, row) for place in places), last[row]]
