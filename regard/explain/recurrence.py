"""How a recurrent layer reads a text: what each gate lets through at each word.

LSTM: input, forget and output gates and the cell (Hochreiter & Schmidhuber 1997); GRU: reset and update gates (Cho et
al. 2014). A gate's mean over its units tells how far it stands open: 0 shut, 1 open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from regard.errors import RegardError
from regard.explain.result import Block, Grid, Note, Result, numbered
from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, find_word, join_rows
from regard.layers.recurrence import GRU, LSTM, Bidirectional
from regard.models.rnnsearch import AttentiveLayer


@dataclass(frozen=True)
class Reading(Result):
    """One recurrent layer over the words of a text."""

    view: ClassVar[str] = "reading"
    text: str
    place: str
    words: list[Word]
    query: int
    """Which word is shown in full."""
    gates: dict[str, Tensor]
    """By name, the mean over units at each word: (words,)."""
    steps: dict[str, Tensor]
    """Every value of the layer at the first piece of the query, by name: (width,)."""
    difference: float
    """Largest difference between these steps and the model's own fast run."""

    @property
    def title(self) -> str:
        return f'How {self.place} reads "{self.text}", word by word'

    def blocks(self) -> list[Block]:
        """The mean of each gate at each word; of Bahdanau's decoder also where it looked."""
        names = numbered([word.text for word in self.words])
        found: list[Block] = []
        if self.gates:
            rows = [[float(gate[place]) for gate in self.gates.values()] for place in range(len(names))]
            columns = [gate.replace("_", " ") for gate in self.gates]
            found.append(Grid("mean of each gate over its units: 0 shut, 1 open", names, columns, rows))
        proof = f"these steps against the model's own fast run: largest difference {self.difference:.1e}"
        return [*found, Note(proof, holds=self.difference < 1e-4)]

    def to_html(self, name: str = "regard") -> str:
        """The page on which every value at one word can be looked at."""
        from regard.explain.render.page import page

        return page(name, [self.text], [""], [self])

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from regard.explain.render.terminal import reading

        yield from reading(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "view": self.view,
            "place": self.place,
            "query": self.words[self.query].text,
            "words": [{"text": word.text, "pieces": list(word.pieces)} for word in self.words],
            "gates": {name: value.tolist() for name, value in self.gates.items()},
            "steps": {name: value.tolist() for name, value in self.steps.items()},
            "difference_from_fast_run": self.difference,
        }


def read(
    trace: Trace,
    query: str | int | None = None,
    layer: int = 0,
    row: int = 0,
    side: Literal["encoder", "decoder"] | None = None,
) -> Reading:
    """Follow one recurrent layer: of the stack that reads the source or, as `side` says, the decoder's.

    `query`: the word, or the position of a token, that is shown in full; by default the first.
    Raises RegardError for a layer or word that is not there, and for layers that are not recurrent.
    """
    places = trace.stack(side)
    check_range("layer", layer, len(places))
    part = trace.model.get_submodule(places[layer])
    if not isinstance(part, LSTM | GRU | Bidirectional | AttentiveLayer):
        raise RegardError(f"{places[layer]} is not recurrent: ask for its walkthrough")
    words = trace.words(row, "target" if side == "decoder" and trace.target is not None else "source")
    if isinstance(query, int):
        check_range("token", query, words[-1].places[-1] + 1)
        asking, token = next(place for place, word in enumerate(words) if query in word.places), query
    else:
        asking = find_word(words, query) if query is not None else 0
        token = words[asking].places[0]
    steps = trace.steps(places[layer], row=row)
    gates = {name: join_rows(value, words).mean(dim=-1) for name, value in steps.items() if name.endswith("_gate")}
    tokens = words[-1].places[-1] + 1
    here = {name: value[token] for name, value in steps.items() if len(value) == tokens and value.dim() == 2}
    return Reading(trace.text(row), places[layer], words, asking, gates, here, trace.proof(places[layer], row=row))
