"""Recurrent systems: this package's engine beside the models' own steps (PyTorch), the same weights, in one run.

Of each paper's sizes, with random weights: Seq2Seq (4 layers of width 1000), RNNsearch (1000), AWD-LSTM as in ULMFiT (3
layers of width 1150, 60,000 words). 25 tokens in and 25 out: every answer is cut off there, so that all do equal work.

    python benchmarks/recur.py --markdown
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from typing import Any

from side_by_side import THREADS, Contender, interleaved, keep, ratio

LENGTH, WORDS = 25, 30_000
SYSTEMS = ("seq2seq", "rnnsearch", "awd-lstm")
PRECISIONS = ("own", "fp32", "bf16", "int8")


def built(system: str) -> Any:
    import torch

    from regard.models import rnnsearch, seq2seq, ulmfit

    torch.manual_seed(0)
    if system == "seq2seq":
        config = seq2seq.Seq2SeqConfig(vocab_size=WORDS, target_vocab_size=WORDS)  # the paper's 160,000 and 80,000 less
        return seq2seq.Seq2Seq(config).eval()
    if system == "rnnsearch":
        return rnnsearch.RNNSearch(rnnsearch.PRESETS["rnnsearch-50"]).eval()
    return ulmfit.AwdLstm(ulmfit.PRESETS["ulmfit"]).eval()


def regard(system: str, precision: str) -> Callable[[int, int], list[list[int]]]:
    """`precision` "own": the model's own steps."""
    import torch

    from regard.generation.answers import searched
    from regard.generation.engine import prepare
    from regard.generation.search import Search

    torch.set_num_threads(THREADS)
    model = built(system)
    goes_on = system == "awd-lstm"
    generator = model if precision == "own" else prepare(model, precision)

    def run(count: int, beams: int) -> list[list[int]]:
        draw = random.Random(count)
        texts = [[draw.randrange(10, WORDS) for _ in range(LENGTH)] for _ in range(count)]
        begin, more = (None, LENGTH) if goes_on else (1, 0)
        found = dict(searched(generator, texts, Search(begin, -1, beams, 0.0, extra_length=more)))
        return [list(found[number][0].tokens) for number in range(count)]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 16, 64))
    parser.add_argument("--beams", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    columns = [(count, beams) for count in options.batches for beams in options.beams]
    titles = (f"batch {count}, {'greedy' if beams == 1 else f'beam {beams}'}" for count, beams in columns)
    lines = ["| texts a second | " + " | ".join(titles) + " |", "| - |" + " -: |" * len(columns)]
    for system in options.systems:
        contenders = [Contender(f"{system} {precision}", regard, system, precision) for precision in PRECISIONS]
        seconds = {column: interleaved(contenders, options.rounds, *column) for column in columns}
        own, *others = contenders
        for one in contenders:
            rates = (column[0] / statistics.median(seconds[column][one.name]) for column in columns)
            lines.append(f"| {one.name} | " + " | ".join(f"{rate:,.1f}" for rate in rates) + " |")
        for one in others:
            rows = (f"**{ratio(seconds[column][one.name], seconds[column][own.name]):.2f} x**" for column in columns)
            lines.append(f"| {one.name} beside its own steps | " + " | ".join(rows) + " |")
        for one in contenders:
            one.end()
    print("\n" + "\n".join(lines))
    if options.markdown:
        keep("recur", "Recurrent systems", " ".join(["python benchmarks/recur.py", *sys.argv[1:]]), lines)


if __name__ == "__main__":
    main()
