"""Which words of the text an answer hangs on, by gradients and by leaving words out, with the `captum` library.

- `integrated_gradients` (Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"): from an empty text
  (embeddings of zeros) to the real one; the attributions add up to the difference of the two scores.
- `gradient_x_input` (Shrikumar et al. 2016): the gradient times the embedding.
- `occlusion` (Zeiler & Fergus 2014): by how much the score falls when a word's embedding is zero.

The score is a logit: of a next token, of a word of a translation, or of a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import unknown
from regard.explain.after_embedding import after_embedding
from regard.explain.recording import evaluating
from regard.explain.result import Block, Note, Result, Table
from regard.explain.trace import Trace, check_range

Method = Literal["integrated_gradients", "gradient_x_input", "occlusion"]
Score = Callable[[Tensor], Tensor]
"""Embeddings of the text, (rows, tokens, width), to the score of the answer, (rows,)."""


@dataclass(frozen=True)
class Attribution(Result):
    """How much each word speaks for the answer (above zero) or against it (below)."""

    view: ClassVar[str] = "attribution"
    method: str
    answer: str
    """The word or class whose score is explained."""
    score: float
    """Its logit."""
    baseline: float
    """The logit for a text of zeros."""
    words: list[str]
    values: list[float]

    @property
    def title(self) -> str:
        return f'Which words speak for "{self.answer}" ({self.method.replace("_", " ")})'

    def blocks(self) -> list[Block]:
        """One row a word, and for integrated gradients the proof that they add up."""
        rows: list[list[Any]] = [[word, value] for word, value in zip(self.words, self.values, strict=True)]
        caption = f'of the logit of "{self.answer}", {self.score:.3f}'
        found: list[Block] = [Table(caption, ["word", "attribution"], rows, digits=3)]
        if self.method == "integrated_gradients":
            gap = abs(sum(self.values) - (self.score - self.baseline))
            difference = self.score - self.baseline
            line = f"the sum is {sum(self.values):.3f}, the logit less that of an empty text {difference:.3f}"
            found.append(Note(line, holds=gap < 0.05 * max(1.0, abs(self.score - self.baseline))))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "method": self.method,
            "answer": self.answer,
            "score": self.score,
            "baseline": self.baseline,
            "words": self.words,
            "values": self.values,
        }


def attribution(
    trace: Trace,
    query: str | int | None = None,
    answer: int | None = None,
    method: str = "integrated_gradients",
    row: int = 0,
    steps: int = 64,
) -> Attribution:
    """Attribution over the words of the source.

    `query`: of translators the produced word to explain, by default the first; `answer`: the token or class, by
    default the model's own. Raises RegardError for an unknown method, and for recurrent models.
    """
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    embedded, logits = after_embedding(trace, query, row)
    with evaluating(trace.model), torch.no_grad():
        found = logits(embedded)[0]
        chosen = int(found.argmax()) if answer is None else answer
        check_range("answer", chosen, len(found))
        baseline = float(logits(torch.zeros_like(embedded))[0, chosen])
    with evaluating(trace.model):
        values = _attributed(lambda x: logits(x)[:, chosen], embedded, method, steps)
    words = trace.words(row)
    joined = [float(values[list(word.places)].sum()) for word in words]
    labels = () if trace.target is not None else getattr(trace.model.config, "labels", ())
    name = str(labels[chosen]) if labels else trace.spell(chosen)
    return Attribution(method, name, float(found[chosen]), baseline, [word.text for word in words], joined)


def _attributed(score: Score, embedded: Float[Tensor, "1 tokens width"], method: str, steps: int) -> Tensor:
    """One number a token."""
    from captum.attr import InputXGradient, IntegratedGradients, Occlusion

    x = embedded.detach().requires_grad_(method != "occlusion")
    if method == "occlusion":
        with torch.no_grad():
            values = Occlusion(score).attribute(x, sliding_window_shapes=(1, x.shape[2]))
        found: Tensor = values[0].mean(dim=-1)
    elif method == "gradient_x_input":
        found = InputXGradient(score).attribute(x)[0].sum(dim=-1)
    else:
        found = IntegratedGradients(score).attribute(x, n_steps=steps, internal_batch_size=16)[0].sum(dim=-1)
    return found.detach()
