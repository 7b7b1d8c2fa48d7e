"""`regard run`: answers, one a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TextIO

import typer

if TYPE_CHECKING:
    from regard.text_to_text import TextToText

_BLOCK = 512


def run(
    model: Annotated[str, typer.Argument(help="A model of the package (en-fr, g2p) or a model folder.")],
    texts: Annotated[Optional[list[str]], typer.Argument(metavar="[TEXT...]", help="Texts to answer.")] = None,  # noqa: UP045
    input_file: Annotated[
        Optional[Path], typer.Option("--input", help="A file, one text a line. Default: standard input.")  # noqa: UP045
    ] = None,
    output_file: Annotated[
        Optional[Path], typer.Option("--output", help="Where answers go. Default: standard output.")  # noqa: UP045
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses kept; 1 is greedy.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="alpha of the paper; 0: none. Used with --beams.")] = 0.6,
    jsonl: Annotated[bool, typer.Option(help="One JSON object a line: source, answers, scores, alignment.")] = False,
    alignment: Annotated[
        Optional[Path], typer.Option(help="Write word alignments (0-0 1-2 ...), one line a text.")  # noqa: UP045
    ] = None,
) -> None:
    """Answer texts: one answer a line, in order.

    Example: regard run en-fr "Open the file." --beams 4
    """
    from regard.cli.console import input_lines, valid_text
    from regard.errors import RegardError
    from regard.text_to_text import load

    if texts and input_file:
        raise RegardError("give texts or --input, not both")
    loaded = load(model)
    lines: Iterable[str] = (valid_text(text) for text in texts) if texts else input_lines(input_file)
    block = 1 if not texts and input_file is None and sys.stdin.isatty() else _BLOCK
    with ExitStack() as stack:
        answers = _opened(output_file, stack) or sys.stdout
        links = _opened(alignment, stack)
        for batch in _blocks(lines, block):
            _answer(loaded, batch, beams, length_penalty, jsonl, answers, links)


def _answer(
    loaded: TextToText, texts: list[str], beams: int, alpha: float, jsonl: bool, answers: TextIO, links: TextIO | None
) -> None:
    """Answer one block of lines and write it out."""
    for text, found in zip(texts, loaded.hypotheses(texts, beams, alpha), strict=True):
        best = found[0]
        aligned = loaded.align(text, best.tokens).pharaoh() if links or jsonl else ""
        if links:
            print(aligned, file=links)
        if jsonl:
            listed = [
                {"text": loaded.codec.target.decode(one.tokens), "score": one.score, "log_p": one.log_probability}
                for one in found
            ]
            row = {"source": text, "answer": listed[0]["text"], "hypotheses": listed, "alignment": aligned}
            print(json.dumps(row, ensure_ascii=False), file=answers)
        else:
            print(loaded.codec.target.decode(best.tokens), file=answers, flush=len(texts) == 1)


def _blocks(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(lines)
    while block := list(islice(remaining, size)):
        yield block


def _opened(path: Path | None, stack: ExitStack) -> TextIO | None:
    """A file to write, whole or not at all."""
    if path is None:
        return None
    from regard.files import written_aside

    aside = stack.enter_context(written_aside(path))
    return stack.enter_context(aside.open("w", encoding="utf-8"))
