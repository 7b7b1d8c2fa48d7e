"""The complete process for one query: every number from the embedding to the layer's output.

The order is that of the notes and of Vaswani et al. 2017, sections 3.1 to 3.3: embedding plus position; query, keys,
values; dot product with every key; scale; softmax; weighted sum of the values; all heads side by side; concatenate and
project; add and norm; feed-forward; add and norm. The last line holds the result against the model's own fast run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explain.result import Block, Grid, Note, Result, Table, numbered
from regard.explain.split import check_layers
from regard.explain.trace import Kind, Trace, check_range
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
class Walkthrough(Result):
    """One query's way through one layer. Numbers over keys are joined to words (see regard.explain.words)."""

    view: ClassVar[str] = "walkthrough"
    text: str
    place: str
    """The layer, e.g. `encoder.layers.0`."""
    attention: Literal["self_attention", "cross_attention"]
    """Which of its attentions is shown in full."""
    words: list[Word]
    """The keys: the words of the text and its special tokens; in a decoder those up to the query, it sees no others."""
    word: Word
    """The word that asks."""
    query: int | None
    """Which of the keys it is; None where it is not among them."""
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
    def title(self) -> str:
        side, _, layer = self.place.split(".")
        return f'"{self.word.text}" in "{self.text}", {side} layer {layer}{self.looking}'

    def blocks(self) -> list[Block]:
        """The weights of all heads, and the chosen head's numbers."""
        names = numbered([word.text for word in self.words])
        heads = [f"head {head}" for head in range(self.heads)]
        rows: list[list[Any]] = [
            [name, float(score), float(weight)]
            for name, score, weight in zip(names, self.scaled_scores[self.head], self.weights[self.head], strict=True)
        ]
        table = Table(f"head {self.head}: {self.score()}, softmax", ["word", "score", "weight"], rows,
                      shares=frozenset({"weight"}), digits=3)  # fmt: skip
        proof = f"this walk against the model's own fast run: largest difference {self.difference:.1e}"
        return [Grid("weights", heads, names, self.weights.tolist()), table, Note(proof, holds=self.difference < 1e-4)]

    def to_html(self, name: str = "regard") -> str:
        """The page on which every head and number can be looked at."""
        from regard.explain.render.page import page

        return page(name, [self.text], [""], [self])

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from regard.explain.render.terminal import walkthrough

        yield from walkthrough(self)

    @property
    def before_feed_forward(self) -> str:
        """The residual connection whose output the feed-forward network gets."""
        crossed = "cross_attention_residual" in {name.partition(".")[0] for name in self.steps}
        return "cross_attention_residual" if crossed else "self_attention_residual"

    @property
    def looking(self) -> str:
        """What to say behind the layer: nothing where it looks at its own text."""
        return ", looking at the source" if self.attention == "cross_attention" else ""

    @property
    def entered(self) -> str:
        """Where `entering` goes in."""
        return " this layer" if self.attention == "self_attention" else " its cross-attention"

    @property
    def heads(self) -> int:
        return len(self.weights)

    @property
    def head_width(self) -> int:
        return int(self.steps[f"{self.attention}.queries"].shape[-1])

    @property
    def read(self) -> str:
        """What a sublayer reads."""
        return f"{self.norm}(x)" if self.norm_first else "x"

    @property
    def asking(self) -> str:
        """The token that asks."""
        word = self.word
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
        if "heard" in self.embedding:
            return "x = conv(spectra at ", f") + PE({self.piece})"
        place = {"sinusoids": f"·√{width} + PE({self.piece})", "learned": f" + P[{self.piece}]"}.get(self.positions, "")
        segment = " + S[segment]" if "segments" in self.embedding else ""
        normed = "added" in self.embedding
        return ("x = LayerNorm(E[" if normed else "x = E["), "]" + place + segment + (")" if normed else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "view": self.view,
            "place": self.place,
            "attention": self.attention,
            "query": self.word.text,
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
    query: str | int | None = None,
    layer: int = 0,
    head: int | None = None,
    row: int = 0,
    kind: Kind | None = None,
) -> Walkthrough:
    """Follow one word through one layer: of the stack that reads the source or, as `kind` says, any other attention.

    `query`: the word or the position of a token; of the target side the words that a translator has produced, after
    its start token. By default the first, in a decoder the last. `head`: by default the one that looks most sharply at
    one other word. Raises RegardError for a layer, head or word that is not there, with those that are.
    """
    places = walked_layers(trace) if kind is None else trace.stack("encoder" if kind == "encoder" else "decoder")
    check_layers(trace, places or trace.stack())
    check_range("layer", layer, len(places))
    place, causal = places[layer], places[layer].startswith("decoder.")
    attention: Literal["self_attention", "cross_attention"] = "cross_attention" if kind == "cross" else "self_attention"
    own = trace.words(row, "target" if causal and trace.target is not None else "source")
    asking, piece = _asking(own, query, causal)
    words = trace.words(row) if kind == "cross" else own[: asking + 1] if causal else own
    part: Any = trace.model.get_submodule(place)
    if not hasattr(part, attention):
        raise RegardError(f"{place} has no cross-attention: translators' decoders do")
    chosen = slice(piece, piece + 1)
    steps = trace.steps(place, chosen, row)
    placed = steps[f"{attention}.scaled_scores"] + steps.get(f"{attention}.added_scores", 0.0)
    weights = join_keys(steps[f"{attention}.weights"][:, 0], words)
    head = _sharpest(weights, words, -1 if kind == "cross" else asking) if head is None else head
    check_range("head", head, len(weights))
    heads: Any = getattr(part, attention)
    residual: Any = getattr(part, f"{attention}_residual")
    begins = "decoder.embedding" if causal and trace.target is not None else trace.places[0]
    entering = steps["self_attention_residual.output"][0] if kind == "cross" else trace.entering(place, row)[piece]
    return Walkthrough(
        text=trace.text(row),
        place=place,
        attention=attention,
        words=words,
        word=own[asking],
        query=None if kind == "cross" else asking,
        piece=piece,
        head=head,
        steps=steps,
        embedding=trace.steps(begins, chosen, row),
        positions=_positions(trace.model, begins),
        scores=steps[f"{attention}.scores"][:, 0],
        scaled_scores=join_scores(placed[:, 0], words),
        weights=weights,
        norm="RMSNorm" if isinstance(residual.norm, nn.RMSNorm) else "LayerNorm",
        norm_first=isinstance(residual, PreNorm),
        scale=heads.head_width**-0.5 if heads.scale is None else heads.scale,
        biases={
            "projection": heads.projection.bias is not None,
            "output": heads.output.bias is not None,
            "feed_forward": part.feed_forward.output.bias is not None,
        },
        activation=part.feed_forward.activation,
        entering=entering,
        difference=trace.proof(place, chosen, row),
    )


def _asking(words: Sequence[Word], query: str | int | None, causal: bool) -> tuple[int, int]:
    """Which word asks, and which of its tokens: the first or, where nobody sees what follows, the last."""
    if isinstance(query, int):
        check_range("token", query, words[-1].places[-1] + 1)
        return next(number for number, word in enumerate(words) if query in word.places), query
    if query is not None:
        found = find_word(words, query)
    else:
        own = [number for number, word in enumerate(words) if word.number is not None]
        found = own[-1] if causal and own else 0
    return found, words[found].places[-1 if causal else 0]


def _sharpest(weights: Float[Tensor, "heads words"], words: Sequence[Word], asking: int) -> int:
    """The head that looks most sharply at one word other than the one that asks."""
    others = weights.clone()
    for number, word in enumerate(words):
        if number == asking or word.number is None:
            others[:, number] = 0
    return int(others.max(dim=-1).values.argmax())


def _positions(model: Any, begins: str) -> Positions:
    """Of the stack whose embedding this is: Whisper's two differ."""
    own = getattr(model, "target_positions" if begins.startswith("decoder.") else "positions", None)
    parts = [own] if isinstance(own, nn.Module) and type(own) in _KINDS else model.modules()
    found = [_KINDS[type(part)] for part in parts if type(part) in _KINDS]
    return found[0] if found else "none"


def walked_layers(trace: Trace) -> list[str]:
    """The layers of self-attention that read the source; none in a recurrent model."""
    return [place for place in trace.layers if isinstance(trace.model.get_submodule(place), EncoderLayer)]
