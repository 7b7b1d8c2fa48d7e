"""How an answer came about: the alternatives at each token, the beam as a tree, and what each token was made from.

What a produced token was made from is followed to the inputs: source words and the words produced so far (Ferrando et
al. 2022, "Towards Opening the Black Box of Neural Machine Translation: Source and Target Interpretations of the
Transformer", section 3, ALTI+). In a decoder without a source it is the text so far (ALTI).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.contribution import alti, alti_layer
from regard.explain.result import Block, Branch, Grid, Result, Table, Tree, numbered
from regard.explain.trace import Trace
from regard.generation.search import Going
from regard.layers.blocks import DecoderLayer, EncoderLayer


@dataclass(frozen=True)
class Produced:
    """One token of the answer."""

    token: int
    text: str
    probability: float
    alternatives: list[tuple[str, float]]
    """The most probable tokens at this place, the answer's own among them if it is one."""


@dataclass(frozen=True)
class Generation(Result):
    """An answer token by token."""

    view: ClassVar[str] = "generation"
    produced: list[Produced]
    inputs: list[str]
    """What the tokens were made from: source tokens, then the tokens of the answer so far."""
    sources: int
    """How many of them are the source's."""
    shares: Float[Tensor, "produced inputs"] | None
    """Each row sums to 1; None for recurrent models."""
    tree: Branch | None
    """The beam, if the search was watched."""

    @property
    def title(self) -> str:
        return f"How the answer came about, {len(self.produced)} tokens"

    def blocks(self) -> list[Block]:
        """Alternatives, shares, tree."""
        count = max((len(one.alternatives) for one in self.produced), default=0)
        rows: list[list[Any]] = [
            [one.text, one.probability, *(f"{text} {probability:.2f}" for text, probability in one.alternatives)]
            for one in self.produced
        ]
        columns = ["token", "probability", *(f"{place}." for place in range(1, count + 1))]
        found: list[Block] = [
            Table("each token with the most probable at its place", columns, rows, shares=frozenset({"probability"}))
        ]
        if self.shares is not None:
            names = [one.text for one in self.produced]
            found.append(Grid("what each token was made from", names, self.inputs, self.shares.tolist()))
            if 0 < self.sources < len(self.inputs):
                of_source = self.shares[:, : self.sources].sum(dim=-1).tolist()
                table: list[list[Any]] = [[name, share] for name, share in zip(names, of_source, strict=True)]
                caption = "share of the source; the rest comes from what was answered before"
                found.append(Table(caption, ["token", "source"], table, shares=frozenset({"source"})))
        if self.tree is not None:
            found.append(Tree("the beams that were followed, with the probability of each step", self.tree))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "produced": [vars(one) for one in self.produced],
            "inputs": self.inputs,
            "source_tokens": self.sources,
            "shares": None if self.shares is None else self.shares.tolist(),
            "tree": None if self.tree is None else _as_dict(self.tree),
        }


@torch.no_grad()
def generation(trace: Trace, seen: Iterable[Going] = (), row: int = 0, count: int = 5) -> Generation:
    """The answer of one text of a trace: of a translator its target, of a language model what it wrote.

    `seen`: the beams of a watched search. Raises RegardError for models that answer no text, and for a trace of a
    language model that covers its prompt only.
    """
    places, tokens = answer_places(trace, row)
    probabilities = trace.logits(slice(places.start, places.stop), row).float().softmax(dim=-1)
    best = probabilities.topk(min(count, probabilities.shape[1]), dim=-1)
    produced = [
        Produced(
            token,
            trace.spell(token),
            float(own[token]),
            [(trace.spell(one), value) for one, value in zip(others, values, strict=True)],
        )
        for token, own, others, values in zip(
            tokens, probabilities, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    shares, inputs, sources = _shares(trace, places, row)
    beams = [(beam, total) for number, beam, total in seen if number == row]
    tree = _tree(beams, tokens, trace) if beams else None
    return Generation(produced, inputs, sources, shares, tree)


def answer_places(trace: Trace, row: int) -> tuple[range, list[int]]:
    """The positions at which the answer's tokens were chosen, and the tokens."""
    if trace.target is not None:
        end = int(trace.model.config.eos_token_id)
        given = trace.target[row].tolist()
        return range(len(given)), [*given[1:], end]
    if trace.prompts is None:
        raise RegardError("this trace covers no generated text: trace a translator, or a language model with `tokens`")
    begin, given = trace.prompts[row], trace.source[row].tolist()
    return range(begin - 1, len(given) - 1), given[begin:]


def _shares(trace: Trace, places: range, row: int) -> tuple[Float[Tensor, "produced inputs"] | None, list[str], int]:
    """What each token was made from, the names of those inputs, and how many are the source's."""
    kinds = [type(trace.model.get_submodule(place)) for place in trace.layers]
    chosen = slice(places.start, places.stop)
    heard = trace.source.values.is_floating_point()  # sound: shares of its 1500 positions would take gigabytes
    if heard or any(not issubclass(kind, EncoderLayer | DecoderLayer) for kind in kinds):
        return None, [], 0
    if trace.target is None:
        names = numbered([trace.spell_source(token) for token in trace.source[row].tolist()])
        return alti(trace, trace.stack(), row)[chosen], names, len(names)
    sources = [trace.spell_source(token) for token in trace.source[row].tolist()]
    targets = [trace.spell(token) for token in trace.target[row].tolist()]
    return source_and_target(trace, row)[chosen], numbered([*sources, *targets]), len(sources)


@torch.no_grad()
def source_and_target(trace: Trace, row: int = 0) -> Float[Tensor, "targets inputs"]:
    """ALTI+: shares of all source tokens, then of all target tokens read so far, in each decoder position."""
    encoded = alti(trace, trace.stack("encoder"), row)
    places = trace.stack("decoder")
    targets = len(trace.entering(places[0], row))
    mixed = torch.cat([encoded.new_zeros(targets, len(encoded)), torch.eye(targets)], dim=1)
    memory = torch.cat([encoded, encoded.new_zeros(len(encoded), targets)], dim=1)
    for place in places:
        mixed = alti_layer(trace, f"{place}.self_attention", row) @ mixed
        crossed = alti_layer(trace, f"{place}.cross_attention", row)
        mixed = crossed[:, :-1] @ memory + crossed[:, -1:] * mixed
    return mixed


def _tree(beams: Sequence[tuple[tuple[int, ...], float]], answer: list[int], trace: Trace) -> Branch:
    """Every beam once, below what it went on from."""
    totals: dict[tuple[int, ...], float] = {(): 0.0, **dict(beams)}
    nodes: dict[tuple[int, ...], Branch] = {(): Branch("(begin)", 1.0, True)}
    for beam in sorted(totals, key=len):
        if beam and beam[:-1] in nodes:
            step = totals[beam] - totals[beam[:-1]]
            chosen = list(beam) == answer[: len(beam)]
            probability = float(torch.tensor(step).exp())
            nodes[beam] = Branch(trace.spell(beam[-1]), probability, chosen, token=beam[-1])
            nodes[beam[:-1]].children.append(nodes[beam])
    return nodes[()]


def _as_dict(branch: Branch) -> dict[str, Any]:
    children = [_as_dict(child) for child in branch.children]
    found = {"token": branch.label, "id": branch.token, "probability": branch.probability, "chosen": branch.chosen}
    return found | {"children": children}
