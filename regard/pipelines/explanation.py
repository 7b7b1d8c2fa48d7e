"""What `regard explain` shows of any model: one word's way through a layer, its contexts, answers and alignments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from regard.errors import RegardError
from regard.explain.alignment import Alignment
from regard.explain.context import Context, compare
from regard.explain.recurrence import Reading, read
from regard.explain.result import Result, Results
from regard.explain.trace import Trace
from regard.explain.walkthrough import Walkthrough, walk, walked_layers


@dataclass(frozen=True)
class Explanation:
    """One text's walkthrough (attention) or reading (recurrence), the comparison of several, answers, alignments."""

    model: str
    texts: list[str]
    answers: list[str]
    walkthrough: Walkthrough | Reading
    context: Context | None
    """None for a single text, and where there is no attention."""
    alignments: list[Alignment] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        """All of them, in the order in which they are shown."""
        return [self.walkthrough, *([] if self.context is None else [self.context]), *self.alignments]

    def _repr_html_(self) -> str:
        return Results(self.results)._repr_html_()

    def to_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "texts": self.texts,
            "answers": self.answers,
            "walkthrough": self.walkthrough.to_dict(),
            "context": self.context.to_dict() if self.context else None,
            "alignments": [one.to_dict() for one in self.alignments],
        }


def explain_traced(
    name: str,
    trace: Trace,
    texts: Sequence[str],
    answers: Sequence[str],
    query: str | int | None = None,
    layer: int = 0,
    head: int | None = None,
) -> Explanation:
    """The first text's walk, and with several texts also the context of a word that they share."""
    if not walked_layers(trace):
        if head is not None:
            raise RegardError(f"{name} has no attention heads: leave --head out")
        return Explanation(name, list(texts), list(answers), read(trace, query, layer), None)
    if len(texts) > 1 and isinstance(query, int):
        raise RegardError("a position is asked for in one text: with several, name a word that they share")
    context = None
    if len(texts) > 1:
        context = compare(trace, texts, None if query is None else str(query), layer, head)
        query = context.word
    return Explanation(name, list(texts), list(answers), walk(trace, query, layer, head), context)
