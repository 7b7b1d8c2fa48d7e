"""`regard evaluate`: scores of a model on data with known answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A model of the package (en-fr, g2p) or a model folder.")],
    data: Annotated[
        str,
        typer.Argument(help="FILE.tsv, FILE.jsonl, FILE.en,FILE.fr, hub:NAME, or cmudict (its test part)."),
    ],
    metric: Annotated[
        Optional[str], typer.Option(help="bleu (with chrF) or wer (with PER). Default: wer for cmudict.")  # noqa: UP045
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses kept; 1 is greedy.")] = 4,
    length_penalty: Annotated[float, typer.Option(help="alpha of the paper; 0: none.")] = 0.6,
    precision: Annotated[str, typer.Option(help="Of the weights: fp32, bf16, or int8, the fastest.")] = "fp32",
    second_opinion: Annotated[
        bool, typer.Option(help="Let the joint model rank the answers of the beams, where the model has one.")
    ] = True,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Use only the first so many examples.")] = None,  # noqa: UP045
    output_file: Annotated[
        Optional[Path], typer.Option("--output", help="Write source, answer and reference, tab-separated.")  # noqa: UP045
    ] = None,
) -> None:
    """Score a model: BLEU and chrF with sacrebleu's signature, or phoneme and word error rate.

    Example: regard evaluate g2p cmudict --limit 500
    """
    from itertools import islice

    from regard.data.sources import read_cmudict, read_pairs
    from regard.errors import RegardError, unknown
    from regard.files import written_aside
    from regard.pipelines import load_text_to_text
    from regard.training.scoring import METRICS, score_answers

    loaded = load_text_to_text(model, precision)
    if not second_opinion:
        loaded.opinion = None
    metric = metric or ("wer" if data == "cmudict" else "bleu")
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    pairs = list(islice(read_cmudict()["test"] if data == "cmudict" else read_pairs(data), limit))
    if not pairs:
        raise RegardError(f"{data} holds no examples")
    answers = loaded.translate([pair.source for pair in pairs], beams, length_penalty)
    result = score_answers(metric, answers, pairs)
    for name, value in result.scores.items():
        print(f"{name}\t{value:.2f}")
    if result.signature:
        print(result.signature, file=sys.stderr)
    if output_file is not None:
        with written_aside(output_file) as aside:
            rows = (f"{pair.source}\t{got}\t{pair.target}\n" for pair, got in zip(pairs, answers, strict=True))
            aside.write_text("".join(rows), encoding="utf-8")
