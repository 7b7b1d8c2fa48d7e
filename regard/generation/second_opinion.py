"""A second opinion on the answers of a beam search: a joint n-gram model of both sides ranks them anew.

The score of an answer is (1 - share) log P(model) + share log P(joint model). Answers that the joint model reads alike,
those that differ in digits only (stress marks), count as one: their probabilities are added up; among them the likelier
stands first. A model has a second opinion if `second_opinion.safetensors` is in its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regard.errors import RegardError
from regard.generation.graphones import Graphones, JointModel
from regard.generation.kneser_ney import KneserNey
from regard.generation.settings import Hypothesis
from regard.modalities.text import Codec

FILE = "second_opinion.safetensors"
Symbols = tuple[str, ...]


@dataclass(frozen=True)
class SecondOpinion:
    """A joint model, and how much it counts."""

    joint: JointModel
    share: float
    """From 0, the model alone, to 1."""

    @classmethod
    def learn(cls, pairs: Sequence[tuple[str, str]], codec: Codec, order: int, share: float) -> SecondOpinion:
        """From sources and targets, symbol by symbol; `order`: longest n-grams."""
        spelt = [_spelt(codec, source) for source in codec.source.encode_many([source for source, _ in pairs])]
        said = [_symbols(target.split()) for _, target in pairs]
        read = dict.fromkeys(zip(spelt, said, strict=True))
        return cls(JointModel.learn(list(read), order), share)

    def rank(
        self, codec: Codec, sources: Sequence[Sequence[int]], found: Sequence[Sequence[Hypothesis]]
    ) -> list[list[Hypothesis]]:
        """The answers to each source (token ids, the end token last), in their new order and with their new scores."""
        alike = [_alike(codec, answers) for answers in found]
        asked = [
            (_spelt(codec, source), said) for source, groups in zip(sources, alike, strict=True) for said in groups
        ]
        second = iter(self.joint.log_probabilities(asked))
        return [self._ranked(list(groups.values()), [next(second) for _ in groups]) for groups in alike]

    def _ranked(self, groups: Sequence[Sequence[Hypothesis]], second: Sequence[float]) -> list[Hypothesis]:
        ranked = []
        for group, other in zip(groups, second, strict=True):
            logs = [one.log_probability for one in group]
            both = (1 - self.share) * float(np.logaddexp.reduce(logs)) + (self.share * other if self.share else 0.0)
            ranked += [replace(one, score=both + one.log_probability - max(logs)) for one in group]
        return sorted(ranked, key=lambda one: -one.score)

    def save(self, folder: Path) -> None:
        """Numbers only; what they number stands in the file's header."""
        from safetensors.numpy import save_file

        graphones = self.joint.graphones
        arrays = {f"ngrams.{name}": value for name, value in self.joint.ngrams.to_arrays().items()}
        arrays |= {"graphones": graphones.known, "probabilities": graphones.probabilities}
        facts = {"share": self.share, "letters": list(graphones.letters), "phonemes": list(graphones.phonemes)}
        save_file(arrays, folder / FILE, {name: json.dumps(value) for name, value in facts.items()})

    @classmethod
    def load(cls, folder: Path) -> SecondOpinion | None:
        """Of a model folder; None if it has none."""
        from safetensors import SafetensorError, safe_open

        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = {name: json.loads(value) for name, value in file.metadata().items()}
            graphones = Graphones(facts["letters"], facts["phonemes"], arrays["graphones"], arrays["probabilities"])
            prefix = "ngrams."
            of_ngrams = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            return cls(JointModel(graphones, KneserNey.from_arrays(of_ngrams)), facts["share"])
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            raise RegardError(f"{path} is damaged: {error}; without it the model answers alone") from error


def _alike(codec: Codec, answers: Sequence[Hypothesis]) -> dict[Symbols, list[Hypothesis]]:
    groups: dict[Symbols, list[Hypothesis]] = {}
    for one in answers:
        groups.setdefault(_symbols(map(codec.target.spell, one.tokens)), []).append(one)
    return groups


def _spelt(codec: Codec, source: Sequence[int]) -> Symbols:
    """The symbols of a source, without its end token."""
    return tuple(map(codec.source.spell, source[:-1]))


def _symbols(names: Iterable[str]) -> Symbols:
    return tuple(re.sub(r"\d", "", name) for name in names)
