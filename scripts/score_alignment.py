"""Score word alignment by attention on links made by hand.

    python scripts/score_alignment.py runs/bible-transformer runs/bible-rnnsearch runs/bible-guided

Each model reads the source and the given target (forced decoding). Layer, head (or their mean), rule and row (the
position that answers a word, or the one that has just read it) are chosen on the valid part and reported on the test
part. Prints a table with alignment error rates, and the diagonal beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import regard
from regard.data.sources import Pair, read_pairs
from regard.explain.alignment import align
from regard.explain.links import RULES, links_by

Links = list[tuple[int, int]]
Choice = tuple[int, int | None, bool, str]
"""Layer, head, whether the row is that after the word, and the rule."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model or run folders")
    parser.add_argument("--data", default="corpus/bible", help="FILES.valid.tsv, FILES.valid.links and so on")
    options = parser.parse_args()
    valid, test = (read(options.data, part) for part in ("valid", "test"))
    print("| | chosen on valid | AER valid | AER test |\n| - | - | -: | -: |")
    print(
        f"| diagonal | | {rate(map(diagonal, valid[0]), valid[1]):.3f} | {rate(map(diagonal, test[0]), test[1]):.3f} |"
    )
    for name in options.models:
        model = regard.load(name)
        found = rates(model, *valid)
        best = min(found, key=lambda choice: found[choice])
        on_test = rates(model, *test, [best])[best]
        layer, head, after, rule = best
        heads = "mean of the heads" if head is None else f"head {head}"
        rows = "after the word" if after else "before the word"
        print(f"| {Path(name).name} | layer {layer}, {heads}, {rows}, {rule} | {found[best]:.3f} | {on_test:.3f} |")


def read(data: str, part: str) -> tuple[list[Pair], list[Links]]:
    lines = Path(f"{data}.{part}.links").read_text(encoding="utf-8").splitlines()
    links = [[(int(a), int(b)) for a, b in (pair.split("-") for pair in line.split())] for line in lines]
    return list(read_pairs(f"{data}.{part}.tsv")), links


def rates(model: Any, pairs: list[Pair], gold: list[Links], only: list[Choice] | None = None) -> dict[Choice, float]:
    """AER of every choice, or of some."""
    found: dict[Choice, list[set[tuple[int, int]]]] = {}
    for pair in track(pairs, description="aligning", transient=True):
        answer = model.codec.target.encode(pair.target)[:-1]
        trace = model.trace([pair.source], [answer])
        for choice in only or choices(trace):
            layer, head, after, rule = choice
            links = align(trace, layer, head, by_chunk=True, rule=rule, after=after).links()
            found.setdefault(choice, []).append(set(links))
    return {choice: rate(links, gold) for choice, links in found.items()}


def choices(trace: Any) -> list[Choice]:
    """Every layer and head, both rows, every rule."""
    layers = [place for place in trace.layers if place.startswith("decoder.")]
    found: list[Choice] = []
    for number, place in enumerate(layers):
        cross = getattr(trace.model.get_submodule(place), "cross_attention", None)
        heads = [None, *range(cross.heads)] if cross is not None else [None]
        found += [(number, head, after, rule) for head in heads for after in (False, True) for rule in RULES]
    return found


def rate(found: Iterable[Iterable[tuple[int, int]]], gold: list[Links]) -> float:
    """AER of all verses together."""
    hits = size = 0
    for links, sure in zip(found, gold, strict=True):
        hits += 2 * len(set(links) & set(sure))
        size += len(set(links)) + len(set(sure))
    return 1 - hits / size


def diagonal(pair: Pair) -> set[tuple[int, int]]:
    """Each target word to the source word as far along."""
    sources, targets = len(pair.source.split()), len(pair.target.split())
    near = torch.arange(sources)[None] / sources - torch.arange(targets)[:, None] / targets
    return links_by("target", -near.abs())


if __name__ == "__main__":
    main()
