"""The complete process for one query: every number from the embedding to the layer's output.

The order is that of the notes and of Vaswani et al. 2017, sections 3.1 to 3.3: embedding plus position; query, keys,
values; dot product with every key; scale; softmax; weighted sum of the values; all heads side by side; concatenate and
project; add and norm; feed-forward; add and norm. The last line holds the result against the model's own fast run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, find_word, join_keys, join_scores
from regard.layers.blocks import EncoderLayer, PreNorm
from regard.layers.positions import LearnedPositions, RelativePositions, RotaryPositions, SinusoidalPositions

Positions = Literal["sinusoids", "learned", "rotary", "relative", "none"]
_KINDS: dict[type, Positions] = {
    SinusoidalPositions: "sinusoids",
    LearnedPositions: "learned",
    RotaryPositions: "rotary",
    RelativePositions: "relative",
}


@dataclass(frozen=True)
class Walkthrough:
    """One query's way through one layer. Numbers over keys are joined to words (see regard.explain.words)."""

    place: str
    """The layer, e.g. `encoder.layers.0`."""
    words: list[Word]
    """The keys: the words of the text and its special tokens; in a decoder those up to the query, it sees no others."""
    query: int
    """Which word asks."""
    piece: int
    """Which token asks: the first piece of that word; in a decoder the last, which has seen the whole word."""
    head: int
    """The head that is shown in full."""
    steps: dict[str, Tensor]
    """Every intermediate value of this query, by name; keys are tokens here."""
    embedding: dict[str, Tensor]
    """What the residual stream begins with, by name; `output` is the whole: (1, width)."""
    positions: Positions
    """How the model knows the place in the text: something is added to the embedding, queries and keys are turned
    (rotary), distances are added to the scores (relative), or nothing of the kind."""
    scores: Tensor
    """q.k of each piece: (heads, tokens)."""
    scaled_scores: Tensor
    """What goes into the softmax, joined to words: (heads, words)."""
    weights: Tensor
    """Joined to words: (heads, words); each row sums to 1."""
    norm: Literal["LayerNorm", "RMSNorm"]
    norm_first: bool
    """Pre-norm: each sublayer reads the norm of x, and its output is added to x as it is."""
    scale: float
    """What the dot products are multiplied by."""
    biases: dict[str, bool]
    """Whether the linear maps have biases: `projection`, `output` and `feed_forward`."""
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
    def read(self) -> str:
        """What a sublayer reads."""
        return f"{self.norm}(x)" if self.norm_first else "x"

    @property
    def asking(self) -> str:
        """The token that asks."""
        word = self.words[self.query]
        return word.pieces[word.places.index(self.piece)]

    @property
    def gated(self) -> bool:
        """Whether the feed-forward network has a gate."""
        return "feed_forward.gate" in self.steps

    def score(self, dot: str = "q·k", distance: str = "r") -> str:
        """The formula of what goes into the softmax; r is the number of the distance, where positions are relative."""
        usual = abs(self.scale - self.head_width**-0.5) < 1e-9
        scaled = f"{dot} / √{self.head_width}" if usual else dot if self.scale == 1 else f"{dot} · {self.scale:.3g}"
        return f"{scaled} + {distance}" if self.positions == "relative" else scaled

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
        place = {"sinusoids": f"·√{width} + PE({self.piece})", "learned": f" + P[{self.piece}]"}.get(self.positions, "")
        segment = " + S[segment]" if "segments" in self.embedding else ""
        normed = "added" in self.embedding
        return ("x = LayerNorm(E[" if normed else "x = E["), "]" + place + segment + (")" if normed else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "view": "walkthrough",
            "place": self.place,
            "query": self.words[self.query].text,
            "query_piece": self.asking,
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
    query: str | None = None,
    layer: int = 0,
    head: int | None = None,
    row: int = 0,
) -> Walkthrough:
    """Follow one word of the source through one layer: of the encoder, or of the only stack there is.

    `query`: the word, by default the first, in a decoder the last; `head`: by default the one that looks most sharply
    at one other word.
    Raises RegardError for a layer, head or word that is not there, with those that are.
    """
    places = walked_layers(trace)
    check_range("layer", layer, len(places))
    words = trace.words(row)
    place = places[layer]
    causal = place.startswith("decoder.")
    asking = _default_query(words, causal) if query is None else find_word(words, query)
    piece = words[asking].places[-1 if causal else 0]
    words = words[: asking + 1] if causal else words
    part: Any = trace.model.get_submodule(place)
    chosen = slice(piece, piece + 1)
    steps = trace.steps(place, chosen, row)
    placed = steps["self_attention.scaled_scores"] + steps.get("self_attention.added_scores", 0.0)
    scaled_scores = join_scores(placed[:, 0], words)
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
        norm="RMSNorm" if isinstance(part.self_attention_residual.norm, nn.RMSNorm) else "LayerNorm",
        norm_first=isinstance(part.self_attention_residual, PreNorm),
        scale=part.self_attention.head_width**-0.5 if part.self_attention.scale is None else part.self_attention.scale,
        biases={
            "projection": part.self_attention.projection.bias is not None,
            "output": part.self_attention.output.bias is not None,
            "feed_forward": part.feed_forward.output.bias is not None,
        },
        activation=part.feed_forward.activation,
        entering=trace.entering(place, row)[piece],
        difference=trace.proof(place, chosen, row),
    )


def _default_query(words: Sequence[Word], causal: bool) -> int:
    """The first word; the last of the text's own, where none sees what follows."""
    own = [number for number, word in enumerate(words) if word.number is not None]
    return own[-1] if causal and own else 0


def _positions(model: Any) -> Positions:
    found = [_KINDS[type(part)] for part in model.modules() if type(part) in _KINDS]
    return found[0] if found else "none"


def walked_layers(trace: Trace) -> list[str]:
    """The layers of self-attention that read the source; none in a recurrent model."""
    return [place for place in trace.layers if isinstance(trace.model.get_submodule(place), EncoderLayer)]
