"""What a draft saves and what attention on request costs: greedy answers of the package's translator, one at a time.

Contenders are the engine as it is, with the source as a draft (speculative decoding), and with the attention of two
heads read for each answer. Texts that are mostly copied (names of files, options, addresses) are made here; `--texts`
takes a file of one's own, a text a line or before a tab.

    python benchmarks/drafts.py --markdown
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from side_by_side import Contender, interleaved, keep, ratio

HEADS = [(1, 0), (1, 2)]
WORDS = [
    "open",
    "close",
    "file",
    "directory",
    "package",
    "version",
    "server",
    "kernel",
    "option",
    "list",
    "remove",
    "install",
]


def copied(count: int) -> list[str]:
    """Lines as messages of programs have them: a few words, and much that stays as it is."""
    draw = random.Random(1)

    def name() -> str:
        parts = [draw.choice(WORDS) for _ in range(draw.randrange(2, 5))]
        return draw.choice([f"/usr/lib/{'/'.join(parts)}.so", f"--{'-'.join(parts)}=%s", f"{'_'.join(parts)}.conf"])

    return [f"{draw.choice(WORDS)} {name()} {name()}: {name()}" for _ in range(count)]


def translator(texts: list[str], precision: str, way: str) -> Callable:
    import regard

    model = regard.load("en-fr", precision=precision)

    def run() -> list[list[int]]:
        found = []
        for text in texts:
            draft = "source" if way == "draft" else None
            answer = model.hypotheses([text], draft=draft)[0][0].tokens
            if way == "heads":
                model.attention(text, answer, HEADS)
            found.append(list(answer))
        return found

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=40, help="texts a round")
    parser.add_argument("--texts", type=Path, help="a file of texts, instead of those made here")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--markdown", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    texts = copied(options.count)
    if options.texts:
        lines = options.texts.read_text(encoding="utf-8").splitlines()
        texts = [line.split("\t")[0] for line in lines if line.strip()][: options.count]
    ways = {"as it is": "", "the source as a draft": "draft", "attention of two heads": "heads"}
    contenders = [Contender(name, translator, texts, options.precision, way) for name, way in ways.items()]
    seconds = interleaved(contenders, options.rounds)
    answers = {one.name: one.result() for one in contenders}
    lines = ["| | ms a text | as fast as without | same answers |", "| - | -: | -: | -: |"]
    for name, found in seconds.items():
        times = ratio(found, seconds["as it is"])
        same = sum(a == b for a, b in zip(answers[name], answers["as it is"], strict=True))
        lines.append(
            f"| {name} | {1000 * statistics.median(found) / len(texts):.1f} | {times:.2f} x | {same} of {len(texts)} |"
        )
    print("\n" + "\n".join(lines))
    if options.markdown:
        command = " ".join(["python benchmarks/drafts.py", *sys.argv[1:]])
        keep("drafts", "Drafts, and attention on request", command, lines)
    for one in contenders:
        one.end()


if __name__ == "__main__":
    main()
