"""The complete process for one query: every number from the embedding to the layer's output.

The order is that of the notes and of Vaswani et al. 2017, sections 3.1 to 3.3: embedding plus position; query, keys,
values; dot product with every key; scale; softmax; weighted sum of the values; all heads side by side; concatenate and
project; add and norm; feed-forward; add and norm. The last line holds the result against the model's own fast run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, find_word, join_keys, join_scores, words_of
from regard.layers.blocks import EncoderLayer, PreNorm
from regard.layers.positions import LearnedPositions, SinusoidalPositions
from regard.modalities.text import Piece


@dataclass(frozen=True)
class Walkthrough:
    """One query's way through one layer. Numbers over keys are joined to words (see regard.explain.words)."""

    place: str
    """The layer, e.g. `encoder.layers.0`."""
    words: list[Word]
    """The keys: the words of the text, then the end token."""
    query: int
    """Which word asks."""
    piece: int
    """Which token asks: the first piece of that word."""
    head: int
    """The head that is shown in full."""
    steps: dict[str, Tensor]
    """Every intermediate value of this query, by name; keys are tokens here."""
    embedding: dict[str, Tensor]
    """What the residual stream begins with, by name; `output` is the whole: (1, width)."""
    positions: Literal["sinusoids", "learned", "none"]
    """What is added to the embedding to tell the place in the text."""
    scores: Tensor
    """q.k of each piece: (heads, tokens)."""
    scaled_scores: Tensor
    """Joined to words: (heads, words)."""
    weights: Tensor
    """Joined to words: (heads, words); each row sums to 1."""
    norm_first: bool
    """Pre-norm: each sublayer reads LayerNorm(x), and its output is added to x as it is."""
    activation: str
    """The feed-forward network's non-linearity."""
    entering: Tensor
    """The residual stream of this query as it enters the layer: (width,)."""
    difference: float
    """Largest difference between this walk's result and the model's own fast run."""

    @property
    def heads(self) -> int:
        return len(self.weights)

    @property
    def head_width(self) -> int:
        return int(self.steps["self_attention.queries"].shape[-1])

    @property
    def embedding_rows(self) -> list[tuple[str, str]]:
        """What to call each part of the embedding, and its name."""
        labels = {"lookup": "embedding", "words": "embedding", "encoding": "position", "positions": "position"}
        labels |= {"segments": "segment", "added": "sum", "output": "norm" if "added" in self.embedding else "sum"}
        rows = [(labels.get(name, name), name) for name in self.embedding]
        return rows if len(rows) > 1 else [("embedding", name) for _, name in rows]

    @property
    def embedding_formula(self) -> tuple[str, str]:
        """What stands before and after the word in the formula of the embedding."""
        width = int(self.embedding["output"].shape[-1])
        place = {"sinusoids": f"·√{width} + PE({self.piece})", "learned": f" + P[{self.piece}]", "none": ""}[
            self.positions
        ]
        segment = " + S[segment]" if "segments" in self.embedding else ""
        normed = "added" in self.embedding
        return ("x = LayerNorm(E[" if normed else "x = E["), "]" + place + segment + (")" if normed else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "view": "walkthrough",
            "place": self.place,
            "query": self.words[self.query].text,
            "query_piece": self.words[self.query].pieces[0],
            "head": self.head,
            "norm_first": self.norm_first,
            "words": [{"text": word.text, "pieces": list(word.pieces)} for word in self.words],
            "embedding": {name: value[0].tolist() for name, value in self.embedding.items()},
            "scores": self.scores.tolist(),
            "scaled_scores": self.scaled_scores.tolist(),
            "weights": self.weights.tolist(),
            "steps": {name: value.tolist() for name, value in self.steps.items()},
            "difference_from_fast_run": self.difference,
        }


def walk(
    trace: Trace,
    pieces: Sequence[Piece],
    query: str | None = None,
    layer: int = 0,
    head: int | None = None,
    row: int = 0,
) -> Walkthrough:
    """Follow one word of the source through one layer: of the encoder, or of the only stack there is.

    `query`: the word, by default the first; `head`: by default the one that looks most sharply at one other word.
    Raises RegardError for a layer, head or word that is not there, with those that are.
    """
    places = walked_layers(trace)
    check_range("layer", layer, len(places))
    words = words_of(pieces)
    asking = find_word(words, query) if query is not None else 0
    piece = words[asking].places[0]
    place = places[layer]
    part: Any = trace.model.get_submodule(place)
    chosen = slice(piece, piece + 1)
    steps = trace.steps(place, chosen, row)
    scaled_scores = join_scores(steps["self_attention.scaled_scores"][:, 0], words)
    weights = join_keys(steps["self_attention.weights"][:, 0], words)
    if head is None:
        others = weights.clone()
        for number, word in enumerate(words):
            if number == asking or word.number is None:
                others[:, number] = 0
        head = int(others.max(dim=-1).values.argmax())
    check_range("head", head, len(weights))
    return Walkthrough(
        place=place,
        words=words,
        query=asking,
        piece=piece,
        head=head,
        steps=steps,
        embedding=trace.steps(trace.places[0], chosen, row),
        positions=_positions(trace.model),
        scores=steps["self_attention.scores"][:, 0],
        scaled_scores=scaled_scores,
        weights=weights,
        norm_first=isinstance(part.self_attention_residual, PreNorm),
        activation=part.feed_forward.activation,
        entering=trace.entering(place, row)[piece],
        difference=trace.proof(place, chosen, row),
    )


def _positions(model: Any) -> Literal["sinusoids", "learned", "none"]:
    kinds = {type(part) for part in model.modules()}
    return "sinusoids" if SinusoidalPositions in kinds else "learned" if LearnedPositions in kinds else "none"


def walked_layers(trace: Trace) -> list[str]:
    """The layers of self-attention that read the source; none in a recurrent model."""
    return [place for place in trace.layers if isinstance(trace.model.get_submodule(place), EncoderLayer)]
