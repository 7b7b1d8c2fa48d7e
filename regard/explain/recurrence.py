"""How a recurrent layer reads a text: what each gate lets through at each word.

LSTM: input, forget and output gates and the cell (Hochreiter & Schmidhuber 1997); GRU: reset and update gates (Cho et
al. 2014). A gate's mean over its units tells how far it stands open: 0 shut, 1 open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, find_word, join_rows


@dataclass(frozen=True)
class Reading:
    """One recurrent layer over the words of a text."""

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

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "view": "reading",
            "place": self.place,
            "query": self.words[self.query].text,
            "words": [{"text": word.text, "pieces": list(word.pieces)} for word in self.words],
            "gates": {name: value.tolist() for name, value in self.gates.items()},
            "steps": {name: value.tolist() for name, value in self.steps.items()},
            "difference_from_fast_run": self.difference,
        }


def read(trace: Trace, query: str | None = None, layer: int = 0, row: int = 0) -> Reading:
    """Follow one recurrent layer of the source. Raises RegardError for a layer or word that is not there."""
    places = [place for place in trace.layers if trace.target is None or place.startswith("encoder.")]
    check_range("layer", layer, len(places))
    words = trace.words(row)
    asking = find_word(words, query) if query is not None else 0
    steps = trace.steps(places[layer], row=row)
    gates = {name: join_rows(value, words).mean(dim=-1) for name, value in steps.items() if name.endswith("_gate")}
    here = {name: value[words[asking].places[0]] for name, value in steps.items()}
    return Reading(places[layer], words, asking, gates, here, trace.proof(places[layer], row=row))
