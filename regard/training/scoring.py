"""Scores of answers against references: phoneme and word error rate, BLEU and chrF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regard.data.sources import Pair
from regard.generation.answers import answer
from regard.generation.engine import prepare
from regard.generation.search import Search
from regard.generation.second_opinion import SecondOpinion
from regard.modalities.text import Codec
from regard.models.base import Config, Model
from regard.native.matrices import Precision
from regard.training.recipe import Score


@dataclass(frozen=True)
class Result:
    """Named scores; `better` is the one to compare by, larger is better."""

    scores: dict[str, float]
    better: float
    signature: str = ""


def search_of(config: Config, score: Score, beams: int | None = None) -> Search:
    """How the recipe has answers searched; `beams` 1 for greedy."""
    return Search.of_translator(config, beams or score.beams, score.length_penalty)


def score_answers(metric: str, answers: Sequence[str], pairs: Sequence[Pair]) -> Result:
    """`wer`: phoneme and word error rates; `bleu`: BLEU and chrF2 with sacrebleu's signatures."""
    return METRICS[metric](answers, pairs)


def evaluate(
    model: Model,
    codec: Codec,
    pairs: Sequence[Pair],
    metric: str,
    how: Search,
    precision: Precision = "fp32",
    opinion: SecondOpinion | None = None,
) -> tuple[Result, list[str]]:
    """Answer all sources and score the best answers; `precision`: of the weights while answering."""
    training = model.training
    model.eval()
    answers = [""] * len(pairs)
    ready: Any = prepare(model, precision)
    sources = [pair.source for pair in pairs]
    for number, found in answer(ready, codec, sources, how, device=model.device, opinion=opinion):
        answers[number] = codec.target.decode(found[0].tokens)
    model.train(training)
    return score_answers(metric, answers, pairs), answers


def _error_rates(answers: Sequence[str], pairs: Sequence[Pair]) -> Result:
    """Phoneme error rate (edits over phonemes) and word error rate, in percent, without stress marks and with.

    Any listed pronunciation of a word counts as right; PER takes the nearest one.
    """
    scores = {}
    for suffix, strip in (("", True), ("_stress", False)):
        edits = phonemes = wrong = 0
        for answered, pair in zip(answers, pairs, strict=True):
            got = _symbols(answered, strip)
            references = [_symbols(target, strip) for target in pair.targets]
            distance, length = min((edit_distance(got, reference), len(reference)) for reference in references)
            edits, phonemes, wrong = edits + distance, phonemes + length, wrong + (distance > 0)
        scores[f"per{suffix}"] = 100 * edits / max(1, phonemes)
        scores[f"wer{suffix}"] = 100 * wrong / max(1, len(pairs))
    return Result(scores, -scores["wer"])


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that make one the other (Levenshtein 1966)."""
    previous = list(range(len(right) + 1))
    for row, symbol in enumerate(left, start=1):
        current = [row]
        for column, other in enumerate(right, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (symbol != other)))
        previous = current
    return previous[-1]


def _symbols(text: str, strip_stress: bool) -> list[str]:
    return (re.sub(r"\d", "", text) if strip_stress else text).split()


def _bleu(answers: Sequence[str], pairs: Sequence[Pair]) -> Result:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    references = [[pair.target for pair in pairs]]
    bleu, chrf = BLEU(), CHRF()
    scores = {
        "bleu": bleu.corpus_score(list(answers), references).score,
        "chrf": chrf.corpus_score(list(answers), references).score,
    }
    return Result(scores, scores["bleu"], f"BLEU {bleu.get_signature()}; chrF2 {chrf.get_signature()}")


METRICS = {"wer": _error_rates, "bleu": _bleu}
