"""Which words are closest: by dot product and by cosine, in the embedding table and layer by layer in their contexts.

The notes begin here: two words are alike when the dot product of their embeddings is large. In the table a word has one
vector; in each layer every occurrence has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.result import Block, Grid, Result, Table
from regard.explain.trace import Trace, check_range
from regard.explain.words import find_word, join_rows


@dataclass(frozen=True)
class Neighbour:
    """A word of the vocabulary, and how alike its embedding is."""

    text: str
    dot: float
    cosine: float


@dataclass(frozen=True)
class Similarity(Result):
    """One word's neighbours, and all words of the texts against each other in one layer."""

    view: ClassVar[str] = "similarity"
    word: str
    token: str
    """The piece whose row of the table is looked at: the first of the word."""
    table: list[Neighbour]
    """The nearest rows of the embedding table, by cosine."""
    words: list[str]
    """The words of all texts, each with the number of its text where there are several."""
    near: list[list[tuple[str, float]]]
    """After 0, 1, ... layers: the words of the texts nearest to the chosen one, by cosine."""
    layer: int
    dots: Float[Tensor, "words words"]
    cosines: Float[Tensor, "words words"]
    """Between all words after `layer` layers."""

    @property
    def title(self) -> str:
        return f'Which words are close to "{self.word}"'

    def blocks(self) -> list[Block]:
        """The table's neighbours, those of each layer, and the matrices of one layer."""
        rows: list[list[Any]] = [[one.text, one.cosine, one.dot] for one in self.table]
        count = max((len(row) for row in self.near), default=0)
        by_layer: list[list[Any]] = [
            ["embedding" if layer == 0 else f"layer {layer - 1}", *(f"{text} {cosine:.2f}" for text, cosine in row)]
            for layer, row in enumerate(self.near)
        ]
        after = "in the embeddings" if self.layer == 0 else f"after layer {self.layer - 1}"
        places = [f"{place}." for place in range(1, count + 1)]
        return [
            Table(f'the vocabulary nearest to "{self.token}" in the embedding table', ["word", "cosine", "dot"], rows),
            Table(f'the words nearest to "{self.word}" here, layer by layer (cosine)', ["after", *places], by_layer),
            Grid(f"cosine of all words {after}", self.words, self.words, self.cosines.tolist(), signed=True),
            Grid(
                f"dot product of all words {after}", self.words, self.words, self.dots.tolist(), signed=True, digits=1
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "word": self.word,
            "token": self.token,
            "table": [vars(one) for one in self.table],
            "words": self.words,
            "layers": [[{"word": text, "cosine": cosine} for text, cosine in row] for row in self.near],
            "layer": self.layer,
            "cosines": self.cosines.tolist(),
            "dots": self.dots.tolist(),
        }


@torch.no_grad()
def similarity(trace: Trace, query: str | None = None, layer: int | None = None, count: int = 8) -> Similarity:
    """Neighbours of one word of the first text, by default its first. `layer`: after so many layers; default all.

    Raises RegardError for a word or layer that is not there, and for a count below 1.
    """
    if count < 1:
        raise RegardError(f"count is 1 or more, not {count}")
    places = trace.stack()
    layer = len(places) if layer is None else layer
    check_range("layer", layer, len(places) + 1)
    texts = [trace.words(row) for row in range(len(trace.source))]
    own = next((number for number, word in enumerate(texts[0]) if word.number is not None), 0)
    chosen = own if query is None else find_word(texts[0], query)
    names = [
        word.text if len(texts) == 1 else f"{word.text} ({row + 1})" for row, text in enumerate(texts) for word in text
    ]
    vectors = [
        torch.cat([join_rows(trace.hidden(depth, row), words) for row, words in enumerate(texts)])
        for depth in range(len(places) + 1)
    ]
    near = []
    for values in vectors:
        alike = F.cosine_similarity(values[chosen][None], values, dim=-1)
        order = [place for place in alike.argsort(descending=True).tolist() if place != chosen]
        near.append([(names[place], float(alike[place])) for place in order[:count]])
    unit = F.normalize(vectors[layer], dim=-1)
    first = int(trace.source[0][texts[0][chosen].places[0]])
    return Similarity(
        texts[0][chosen].text,
        trace.spell_source(first),
        _nearest(trace, first, count),
        names,
        near,
        layer,
        vectors[layer] @ vectors[layer].T,
        unit @ unit.T,
    )


def _nearest(trace: Trace, token: int, count: int) -> list[Neighbour]:
    """The rows of the embedding table that are most like one of them."""
    table = embedding_table(trace.model).float()
    own = table[token]
    cosines = F.cosine_similarity(own[None], table, dim=-1)
    cosines[token] = -2.0
    best = cosines.topk(min(count, len(table) - 1))
    return [
        Neighbour(trace.spell_source(place), float(table[place] @ own), value)
        for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def embedding_table(model: Any) -> Float[Tensor, "vocabulary width"]:
    """The matrix whose rows are the vectors of the words a model reads."""
    for path in ("embedding", "embeddings.words", "encoder.embedding", "source_embedding"):
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, torch.nn.Embedding):
            return part.weight.detach()
    raise RegardError(f"a {model.config.model_type} has no embedding table")
