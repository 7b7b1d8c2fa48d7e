"""How much better the answers of a g2p model are, ranked anew together with a joint model of spelling and sound.

python scripts/second_opinion.py g2p             # test part; --part valid: what order and share were chosen on

The model's n best answers by beam search are ranked by (1 - share) log P(model) + share log P(joint model); the joint
model (regard.training.graphones) learns from the training part of CMUdict first.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.data.sources import read_cmudict
from regard.generation.answers import answer
from regard.generation.engine import prepare
from regard.generation.matrices import PRECISIONS, Precision
from regard.generation.search import Search
from regard.modalities.text import Codec
from regard.models.catalog import load_model
from regard.pretrained import find
from regard.training.graphones import JointModel
from regard.training.scoring import score_answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="g2p, the folder of such a model, or of a run")
    parser.add_argument("--part", choices=["valid", "test"], default="test")
    parser.add_argument("--limit", type=int, help="use only the first so many words")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--order", type=int, default=7, help="of the joint model's n-grams")
    parser.add_argument("--share", type=float, default=0.25, help="of the joint model in the score")
    options = parser.parse_args()
    dictionary = read_cmudict()
    pairs = dictionary[options.part][: options.limit]
    words = [pair.source for pair in pairs]
    answers = best_answers(find(options.model), words, options.beams, options.precision)
    learnt = [(pair.source, said) for pair in dictionary["train"] for said in spoken(pair.targets)]
    ranked = ranked_answers(answers, JointModel(learnt, options.order), words, options.share)
    for name, chosen in (
        ("alone", [next(iter(one)) for one in answers]),
        ("both", [max(one, key=one.get) for one in ranked]),
    ):
        scores = score_answers("wer", chosen, pairs).scores
        print(name, *(f"{score} {value:.2f}" for score, value in scores.items()), sep="\t")


def best_answers(folder: Path, words: Sequence[str], beams: int, precision: Precision) -> list[dict[str, float]]:
    """The n best answers to each word, the best first, and log P of each."""
    model, codec = load_model(folder).eval(), Codec.load(folder)
    ready: Any = prepare(model, precision)
    found: list[dict[str, float]] = [{} for _ in words]
    for number, answers in answer(ready, codec, words, Search.of_translator(model.config, beams, 0.6)):
        found[number] = {codec.target.decode(one.tokens): one.log_probability for one in answers}
    return found


def ranked_answers(
    answers: Sequence[dict[str, float]], joint: JointModel, words: Sequence[str], share: float
) -> list[dict[str, float]]:
    """The score of both models for each answer. Those that differ in stress only count as one: the likelier of them."""
    best: list[dict[tuple[str, ...], tuple[str, float]]] = []
    for one in answers:
        merged: dict[tuple[str, ...], tuple[str, float]] = {}
        for text, score in sorted(one.items(), key=lambda both: -both[1]):
            (said,) = spoken([text])
            first, total = merged.get(said, (text, -np.inf))
            merged[said] = (first, float(np.logaddexp(total, score)))
        best.append(merged)
    flat = [(word, said) for word, merged in zip(words, best, strict=True) for said in merged]
    second = dict(zip(flat, joint.log_probabilities(flat), strict=True))
    return [
        {
            text: (1 - share) * score + (share * second[word, said] if share else 0)
            for said, (text, score) in merged.items()
        }
        for word, merged in zip(words, best, strict=True)
    ]


def spoken(targets: Iterable[str]) -> list[tuple[str, ...]]:
    """Phonemes without stress marks, each pronunciation once."""
    return list(dict.fromkeys(tuple(re.sub(r"\d", "", text).split()) for text in targets))


if __name__ == "__main__":
    main()
