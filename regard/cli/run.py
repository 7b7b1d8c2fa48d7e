"""`regard run`: answers, one a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TextIO

import typer

if TYPE_CHECKING:
    from regard.pipelines.language_model import LanguageModel
    from regard.pipelines.text_reader import TextReader
    from regard.pipelines.text_to_text import TextToText

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
    tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a language model.")] = 50,
    jsonl: Annotated[bool, typer.Option(help="One JSON object a line: source, answers, scores, alignment.")] = False,
    alignment: Annotated[
        Optional[Path], typer.Option(help="Write word alignments (0-0 1-2 ...), one line a text.")  # noqa: UP045
    ] = None,
) -> None:
    """Answer texts, one answer a line, in order: a translation, a continuation, a class, hidden words or a vector.

    Pairs of texts, and a question with its text, have a tab between. Labels stand one a line behind their words, and an
    empty line ends a text; a span is followed by where it begins and ends.

    Example: regard run en-fr "Open the file." --beams 4
    """
    from regard.cli.console import input_lines, valid_text
    from regard.errors import RegardError
    from regard.pipelines import load
    from regard.pipelines.language_model import LanguageModel
    from regard.pipelines.text_to_text import TextToText

    if texts and input_file:
        raise RegardError("give texts or --input, not both")
    loaded = load(model)
    if alignment and not (isinstance(loaded, TextToText) and loaded.aligns):
        raise RegardError(f"--alignment needs a translator with attention; {model} is none")
    lines: Iterable[str] = (valid_text(text) for text in texts) if texts else input_lines(input_file)
    block = 1 if not texts and input_file is None and sys.stdin.isatty() else _BLOCK
    with ExitStack() as stack:
        answers = _opened(output_file, stack) or sys.stdout
        links = _opened(alignment, stack)
        for batch in _blocks(lines, block):
            if isinstance(loaded, TextToText):
                found = _translated(loaded, batch, beams, length_penalty, jsonl or links is not None)
            elif isinstance(loaded, LanguageModel):
                found = _continued(loaded, batch, tokens, beams)
            else:
                found = _read(loaded, batch)
            for row in found:
                if links:
                    print(row["alignment"], file=links)
                # One answer a line: line breaks within one are blanks here, and themselves in JSON.
                line = json.dumps(row, ensure_ascii=False) if jsonl else _plain(row)
                print(line, file=answers, flush=len(batch) == 1)


def _translated(
    loaded: TextToText, texts: list[str], beams: int, alpha: float, aligned: bool
) -> Iterator[dict[str, Any]]:
    """The answers of a translator."""
    for text, found in zip(texts, loaded.hypotheses(texts, beams, alpha), strict=True):
        listed = [
            {"text": loaded.codec.target.decode(one.tokens), "score": one.score, "log_p": one.log_probability}
            for one in found
        ]
        row: dict[str, Any] = {"source": text, "answer": listed[0]["text"], "hypotheses": listed}
        if aligned and loaded.aligns:
            row["alignment"] = loaded.align(text, found[0].tokens).pharaoh()
        yield row


def _continued(loaded: LanguageModel, texts: list[str], tokens: int, beams: int) -> Iterator[dict[str, Any]]:
    """What a language model writes after each text, the text before it."""
    for text, found in zip(texts, loaded.hypotheses(texts, tokens, beams), strict=True):
        listed = [{"text": text + loaded.continuation(text, one.tokens), "log_p": one.log_probability} for one in found]
        yield {"source": text, "answer": listed[0]["text"], "hypotheses": listed}


def _read(loaded: TextReader, texts: list[str]) -> Iterator[dict[str, Any]]:
    """Classes, labels, spans, hidden words or vectors, whichever the model is for."""
    from regard.pipelines.text_reader import parts_of

    if "classify" in loaded.abilities:
        for text, classes in zip(texts, loaded.classify(texts), strict=True):
            listed = [asdict(one) for one in classes]
            yield {"source": text, "answer": f"{classes[0].text}\t{classes[0].probability:.4f}", "classes": listed}
    elif "label" in loaded.abilities:
        for text, labelled in zip(texts, loaded.label(texts), strict=True):
            yield {
                "source": text,
                "answer": " ".join(f"{one.word}/{one.label}" for one in labelled),
                "words": [asdict(one) for one in labelled],
            }
    elif "find" in loaded.abilities:
        for text in texts:
            found = loaded.find(*parts_of(text))
            shown = "" if found is None else f"{found.text}\t{found.begin}\t{found.end}\t{found.probability:.4f}"
            yield {"source": text, "answer": shown, "span": None if found is None else asdict(found)}
    elif "fill" in loaded.abilities:
        for text in texts:
            words = [[asdict(one) for one in choices] for choices in loaded.fill(text)]
            yield {"source": text, "answer": loaded.answers([text])[0], "words": words}
    else:
        for text, vector in zip(texts, loaded.embed(texts).tolist(), strict=True):
            yield {"source": text, "answer": " ".join(f"{value:.6f}" for value in vector), "embedding": vector}


def _plain(row: dict[str, Any]) -> str:
    """An answer in one line; of labelled words a line each, and an empty one behind them."""
    if row.get("words") and "label" in row["words"][0]:
        return "".join(f"{one['word']}\t{one['label']}\n" for one in row["words"])
    return " ".join(str(row["answer"]).splitlines())


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
