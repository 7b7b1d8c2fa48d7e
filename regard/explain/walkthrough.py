"""The complete process for one query: every number from the embedding to the layer's output.

The order is that of the notes and of Vaswani et al. 2017, sections 3.1 to 3.3: embedding plus position; query, keys,
values; dot product with every key; scale; softmax; weighted sum of the values; all heads side by side; concatenate and
project; add and norm; feed-forward; add and norm. The last line holds the result against the model's own fast run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, find_word, join_keys, join_scores, words_of
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
    """`lookup`, `encoding` (position) and `output`, their sum: (1, width)."""
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
    """Follow one word of the source through one encoder layer.

    `query`: the word, by default the first; `head`: by default the one that looks most sharply at one other word.
    Raises RegardError for a layer, head or word that is not there, with those that are.
    """
    depth, heads = len(trace.model.encoder.layers), trace.model.config.attention_heads
    check_range("layer", layer, depth)
    words = words_of(pieces)
    asking = find_word(words, query) if query is not None else 0
    piece = words[asking].places[0]
    place = f"encoder.layers.{layer}"
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
    check_range("head", head, heads)
    return Walkthrough(
        place=place,
        words=words,
        query=asking,
        piece=piece,
        head=head,
        steps=steps,
        embedding=trace.steps("encoder.embedding", chosen, row),
        scores=steps["self_attention.scores"][:, 0],
        scaled_scores=scaled_scores,
        weights=weights,
        norm_first=trace.model.config.normalize_before,
        activation=trace.model.config.activation_function,
        entering=trace.entering(place, row)[piece],
        difference=trace.proof(place, chosen, row),
    )
