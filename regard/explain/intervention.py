"""What the model would answer if something inside it were otherwise.

Knock out a head, an edge or a position; set a row of weights by hand; put in a vector of another text (activation
patching, Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2; Zhang & Nanda 2024). One
change gives the answer before and after; a sweep tries all heads, or all layers and positions, and maps the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.edits import Edit, KnockOut, Patch, edited
from regard.explain.lens import answering_position
from regard.explain.recording import evaluating
from regard.explain.result import Block, Grid, Note, Result, Table, numbered
from regard.explain.split import check_layers
from regard.explain.trace import Trace, check_range, scores_of_words
from regard.models.decoder import last_of_each
from regard.sequences import Sequences

Progress = Callable[[int, int], None]
"""Told how many runs of how many are done."""


@dataclass(frozen=True)
class Intervention(Result):
    """One answer, before and after."""

    view: ClassVar[str] = "intervention"
    edits: list[str]
    names: list[str]
    """The words or classes that were most probable before or are now."""
    before: list[float]
    after: list[float]
    """Their probabilities."""
    divergence: float
    """KL(before | after), in nats, over all words or classes."""

    @property
    def title(self) -> str:
        return "What the model answers now: " + "; ".join(self.edits or ["nothing was changed"])

    def blocks(self) -> list[Block]:
        """The probabilities, side by side."""
        rows: list[list[Any]] = [list(row) for row in zip(self.names, self.before, self.after, strict=True)]
        table = Table(
            "probability before and now",
            ["answer", "before", "now"],
            rows,
            shares=frozenset({"before", "now"}),
            digits=3,
        )
        return [table, Note(f"divergence of the two (KL): {self.divergence:.4f} nats")]

    def to_dict(self) -> dict[str, Any]:
        answers = [
            {"answer": name, "before": before, "after": after}
            for name, before, after in zip(self.names, self.before, self.after, strict=True)
        ]
        return {"view": self.view, "edits": self.edits, "answers": answers, "divergence": self.divergence}


@dataclass(frozen=True)
class Sweep(Result):
    """The same change at every place, as a map."""

    view: ClassVar[str] = "intervention"
    what: str
    answer: str
    """The word or class whose log-probability is watched."""
    rows: list[str]
    columns: list[str]
    change: Float[Tensor, "rows columns"]
    """Its log-probability with the change less the one without."""
    before: float
    """Its log-probability without a change."""
    other: float | None
    """With everything taken from the other text; None for knock-outs."""

    @property
    def title(self) -> str:
        return f'{self.what}: change of the log-probability of "{self.answer}"'

    def blocks(self) -> list[Block]:
        """The map, and what it is held against."""
        line = f'log-probability of "{self.answer}" without a change: {self.before:.3f}'
        line += "" if self.other is None else f"; in the other text: {self.other:.3f}"
        grid = Grid(
            "below zero: the change hurts the answer", self.rows, self.columns, self.change.tolist(), signed=True
        )
        return [grid, Note(line)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "what": self.what,
            "answer": self.answer,
            "rows": self.rows,
            "columns": self.columns,
            "change": self.change.tolist(),
            "before": self.before,
            "other": self.other,
        }


def intervene(
    trace: Trace, edits: Sequence[Edit], query: str | int | None = None, row: int = 0, count: int = 8
) -> Intervention:
    """Run one text again with these changes and compare the answer at one place (see `lens`; classes where there are).

    Raises RegardError for places, heads and positions that are not there.
    """
    before = answer_of(trace, [], query, row)
    after = answer_of(trace, edits, query, row)
    best = {
        *before.topk(min(count, len(before))).indices.tolist(),
        *after.topk(min(count, len(after))).indices.tolist(),
    }
    order = sorted(best, key=lambda token: -float(before[token]))
    divergence = float((before.exp() * (before - after)).nan_to_num(0.0).sum())
    return Intervention(
        [str(edit) for edit in edits],
        [answer_name(trace, token) for token in order],
        before[order].exp().tolist(),
        after[order].exp().tolist(),
        divergence,
    )


def sweep_heads(
    trace: Trace,
    query: str | int | None = None,
    kind: Literal["encoder", "decoder", "cross"] | None = None,
    row: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Knock out every head of a stack, one after the other."""
    places = trace.asking(kind)
    check_layers(trace, places)
    name = "cross_attention" if kind == "cross" else "self_attention"
    attentions = [f"{place}.{name}" for place in places]
    heads = trace.model.get_submodule(attentions[0]).heads
    edits = [[KnockOut(place, head) for head in range(heads)] for place in attentions]
    before, answer, change = _swept(trace, edits, query, row, progress)
    columns = [f"head {head}" for head in range(heads)]
    return Sweep("each head knocked out", answer, attentions, columns, change, before, None)


def sweep_patches(
    trace: Trace,
    other: int,
    query: str | int | None = None,
    row: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Put what enters each layer at each position in the text `other` of the trace into the text `row`.

    The texts must have equally many tokens. The answer watched is that of the other text: where the change lifts it,
    what tells the texts apart passes by. Raises RegardError for texts of unequal length.
    """
    places = trace.stack()
    check_layers(trace, places)
    check_range("text", other, len(trace.source))
    lengths = trace.source.lengths[row], trace.source.lengths[other]
    if lengths[0] != lengths[1]:
        raise RegardError(f"patching needs texts of equally many tokens, not {lengths[0]} and {lengths[1]}")
    positions = range(lengths[0])
    edits = [[Patch(place, here, trace.entering(place, other)[here]) for here in positions] for place in places]
    there = answer_of(trace, [], query if isinstance(query, int) else None, other)
    chosen = int(there.argmax())
    before, answer, change = _swept(trace, edits, query, row, progress, chosen)
    columns = numbered([trace.spell_source(token) for token in trace.source[row].tolist()])
    what = f"what enters each layer taken from text {other + 1}"
    return Sweep(what, answer, places, columns, change, before, float(there[chosen]))


@torch.no_grad()
def answer_of(
    trace: Trace, edits: Sequence[Edit], query: str | int | None = None, row: int = 0
) -> Float[Tensor, "answers"]:
    """Log-probabilities of the classes, or of the words at one place, of one text under edits."""
    model: Any = trace.model
    source = Sequences.of([trace.source[row]])
    with evaluating(model), edited(model, edits):
        if trace.target is not None:
            hidden = model.decode(Sequences.of([trace.target[row]]), model.encode(source))
        else:
            segments = None if trace.run.segments is None else trace.source.with_values(trace.run.segments)[row]
            hidden = model.hidden(source, *(() if segments is None else (segments,)))
        if "classification" in getattr(model.config, "heads", ()):
            scores = model.answer("classification", hidden)[0]
        elif getattr(model, "classifier", None) is not None:
            scores = model.score(last_of_each(hidden))[0]
        else:
            place, _ = answering_position(trace, query, row)
            scores = scores_of_words(model)(hidden.values[place : place + 1])[0]
    found: Tensor = scores.float().log_softmax(dim=-1)
    return found


def answer_name(trace: Trace, answer: int) -> str:
    """A class by its label, a word as it reads."""
    labels = () if trace.target is not None else getattr(trace.model.config, "labels", ())
    return str(labels[answer]) if labels else trace.spell(answer)


def _swept(
    trace: Trace,
    edits: Sequence[Sequence[Edit]],
    query: str | int | None,
    row: int,
    progress: Progress | None,
    chosen: int | None = None,
) -> tuple[float, str, Tensor]:
    """The log-probability of the answer before, the answer's name, and its change under each edit."""
    before = answer_of(trace, [], query, row)
    answer = int(before.argmax()) if chosen is None else chosen
    total, done = sum(len(row) for row in edits), 0
    change = torch.zeros(len(edits), len(edits[0]))
    for line, row_of_edits in enumerate(edits):
        for place, edit in enumerate(row_of_edits):
            change[line, place] = answer_of(trace, [edit], query, row)[answer] - before[answer]
            done += 1
            if progress is not None:
                progress(done, total)
    return float(before[answer]), answer_name(trace, answer), change
