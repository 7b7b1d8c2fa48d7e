"""Cross-attention as word alignment: which source words the model looked at when it produced each target word.

The weights are those of one decoder layer, averaged over its heads or of one head. At the step that produces target
token t the decoder's input is token t - 1; so row t of the map belongs to the query at position t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.errors import RegardError, unknown
from regard.explain.links import RULES, links_by
from regard.explain.result import Block, Grid, Note, Result
from regard.explain.trace import Trace, check_range
from regard.explain.words import Word, join_keys, join_rows

_WIDEST = 100
"""Columns of the map; of a longer source several words share one."""


@dataclass(frozen=True)
class Alignment(Result):
    """Attention of each produced word over the words of the source."""

    view: ClassVar[str] = "alignment"
    source: list[Word]
    target: list[Word]
    weights: Tensor
    """(target words, source words)."""
    layer: int
    head: int | None
    rule: str = "target"
    """How links are made of weights (see regard.explain.links)."""

    def links(self) -> list[tuple[int, int]]:
        """Hard links (source word, target word) by the rule: by default each target word's largest weight.

        Tokens that belong to no word are left out, on both sides.
        """
        sources = [place for place, word in enumerate(self.source) if word.number is not None]
        targets = [place for place, word in enumerate(self.target) if word.number is not None]
        if not sources or not targets:
            return []
        found = links_by(self.rule, self.weights[targets][:, sources])
        return sorted(
            (int(self.source[sources[a]].number or 0), int(self.target[targets[b]].number or 0)) for a, b in found
        )

    def pharaoh(self) -> str:
        """The links as alignment tools write them: `0-0 1-2 2-1`, source first, words counted from 0."""
        return " ".join(f"{source}-{target}" for source, target in self.links())

    @property
    def title(self) -> str:
        words = [word.text for word in self.source if word.number is not None]
        text = " ".join(words) if len(words) <= _WIDEST else f"{words[0]} ... {words[-1]}"
        return f'Cross-attention: where each produced word looked in "{text}"'

    def blocks(self) -> list[Block]:
        """The weights with the links framed, and the links."""
        heads = "the mean of all heads" if self.head is None else f"head {self.head}"
        links = set(self.links())
        size = -(-len(self.source) // _WIDEST)
        framed = {
            (row, column // size)
            for row, target in enumerate(self.target)
            for column, source in enumerate(self.source)
            if (source.number, target.number) in links
        }
        caption = f"decoder layer {self.layer}, {heads}: rows are produced words, each sums to 1; framed: its link"
        names = [word.text for word in self.target], [word.text for word in self.source[::size]]
        weights = self.weights
        if size > 1:  # a long source, such as a recording: neighbours share a column
            caption += f"; a column is the sum over {size} of the source"
            weights = torch.stack([part.sum(dim=1) for part in weights.split(size, dim=1)], dim=1)
        grid = Grid(caption, *names, weights.tolist(), framed=frozenset(framed))
        return [grid, Note(f"as links (text-produced, counted from 0): {self.pharaoh()}")]

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "source": [word.text for word in self.source],
            "target": [word.text for word in self.target],
            "weights": self.weights.tolist(),
            "layer": self.layer,
            "head": self.head,
            "rule": self.rule,
            "pharaoh": self.pharaoh(),
        }


def align(
    trace: Trace,
    layer: int | None = None,
    head: int | None = None,
    by_chunk: bool = False,
    row: int = 0,
    rule: str = "target",
    after: bool = False,
) -> Alignment:
    """Word alignment of one text of the trace.

    `layer`: by default the one before the last (its cross-attention is the sharpest in translation models, Garg et
    al. 2019, section 3), or the only one; `head`: by default the mean; `by_chunk`: words are what stands between
    blanks, as alignment files count them; `rule`: how links are made (`regard.explain.links.RULES`); `after`: a word's
    row is that of the position that has just read it, not of the one that answers it (Chen et al. 2020, section 3.1).
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if trace.target is None:
        raise RegardError("no attention to align by: it is between source and answer, as in translators and Whisper")
    places = [place for place in trace.layers if place.startswith("decoder.")]
    layer = max(0, len(places) - 2) if layer is None else layer
    check_range("layer", layer, len(places))
    found = trace.steps(places[layer], row=row)
    if "attention.weights" in found:  # Bahdanau's: one head
        chosen = found["attention.weights"]
    elif "cross_attention.weights" in found:
        weights = found["cross_attention.weights"]
        if head is not None:
            check_range("head", head, len(weights))
        chosen = weights.mean(dim=0) if head is None else weights[head]
    else:
        raise RegardError("this model has no attention to align by: its encoder leaves one state for the whole text")
    source_words, target_words = trace.words(row, "source", by_chunk), trace.words(row, "produced", by_chunk)
    if after:  # the end token is read by nobody: it keeps its own row
        chosen = torch.cat([chosen[1:], chosen[-1:]])
    joined = join_rows(join_keys(chosen, source_words), target_words)
    return Alignment(source_words, target_words, joined, layer, head, rule)
