"""`regard run`: answers, one a line; over files also rows of JSONL, CSV and Parquet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Optional, TextIO

import typer

from regard.cli.search_options import prepared, with_search_options

_BLOCK = 512
_SOME_BAD = 3


@with_search_options
def run(
    model: Annotated[str, typer.Argument(help="A model of the package (en-fr, g2p) or a model folder.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT...]", help="Texts to answer; of a Whisper WAV files.")
    ] = None,
    input_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--input", help="A file: text, one a line, .jsonl, .csv, .parquet. Default: standard input."),
    ] = None,
    output_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="Where answers go, in the format of its ending. Default: standard output."),
    ] = None,
    field: Annotated[Optional[str], typer.Option(help="The column of --input that holds the text.")] = None,  # noqa: UP045
    restart: Annotated[bool, typer.Option(help="Begin --output anew, where a run of it was stopped.")] = False,
    beams: Annotated[int, typer.Option(min=1, help="Hypotheses kept; 1 is greedy.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="alpha of the paper; 0: none. Used with --beams.")] = 0.6,
    tokens: Annotated[int, typer.Option(min=1, help="Most new tokens of a language model.")] = 50,
    precision: Annotated[
        str, typer.Option(help="Of the weights: fp32, bf16, or int8, the fastest; on a GPU fp8 instead of int8.")
    ] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto: the accelerator if there is one.")] = "cpu",
    capture: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Steps of fixed shapes: graph (the default on a GPU), compile, or none.", show_default=False),
    ] = None,
    jsonl: Annotated[bool, typer.Option(help="One JSON object a line: source, answers, scores, alignment.")] = False,
    alignment: Annotated[
        Optional[Path], typer.Option(help="Write word alignments (0-0 1-2 ...), one line a text.")  # noqa: UP045
    ] = None,
    search: dict[str, Any] = {},  # noqa: B006 (never changed)
) -> None:
    """Answer texts, one answer a line, in order: a translation, a continuation, a class, hidden words or a vector.

    Pairs of texts, and a question with its text, have a tab between. Labels stand one a line behind their words, and an
    empty line ends a text; a span is followed by where it begins and ends.

    With --input and --output a run that was stopped goes on where it was; records that cannot be answered are told in
    OUTPUT.errors.jsonl, and the exit status is then 3.

    Example: regard run en-fr "Open the file." --beams 4 --must fichier --n-best 2 --jsonl

    Example: regard run en-fr "Open the file." --temperature 0.8 --top-p 0.9 --seed 1
    """
    from regard.cli.console import input_lines, valid_text
    from regard.errors import RegardError
    from regard.pipelines import load
    from regard.pipelines.language_model import LanguageModel
    from regard.pipelines.speech_to_text import SpeechToText
    from regard.pipelines.text_to_text import TextToText

    if texts and input_file:
        raise RegardError("give texts or --input, not both")
    bulk = input_file and output_file and (input_file.is_file() or not input_file.exists())
    if (field or restart) and not bulk:
        raise RegardError(f"{'--field' if field else '--restart'} needs a file to read, --input, and one for --output")
    loaded: Any = load(model, precision, device, capture)
    options, heads = prepared(search)
    if search and not isinstance(loaded, TextToText | LanguageModel):
        raise RegardError(f"{model} cannot generate: leave --{next(iter(search)).replace('_', '-')} out")
    if alignment and not (isinstance(loaded, TextToText) and loaded.aligns):
        raise RegardError(f"--alignment needs a translator with attention; {model} is none")
    if isinstance(loaded, SpeechToText) and bulk:
        raise RegardError(f"{model} hears recordings, given as arguments")
    options |= {"heads": heads} if heads else {}
    own: dict[type, dict[str, Any]] = {
        TextToText: {"beams": beams, "length_penalty": length_penalty, "alignment": jsonl or alignment is not None},
        LanguageModel: {"tokens": tokens, "beams": beams},
        SpeechToText: {"beams": beams},
    }
    options |= own.get(type(loaded), {})
    if input_file and output_file and bulk:
        from regard.cli.file_progress import Shown

        with Shown() as shown:
            ended = loaded.run_file(
                input_file, output_file, shown.tell, field=field, restart=restart, json_lines=jsonl, links=alignment,
                **options,
            )  # fmt: skip
        shown.ended(ended, output_file)
        raise typer.Exit(_SOME_BAD if ended.bad else 0)
    lines: Iterable[str] = (valid_text(text) for text in texts) if texts else input_lines(input_file)
    block = 1 if not texts and input_file is None and sys.stdin.isatty() else _BLOCK
    _print_answers(_blocks(lines, block), loaded, options, jsonl, output_file, alignment)


def _print_answers(
    blocks: Iterable[list[str]],
    loaded: Any,
    options: dict[str, Any],
    jsonl: bool,
    output_file: Path | None,
    alignment: Path | None,
) -> None:
    from regard.data.answer_files import line_of

    with ExitStack() as stack:
        answers = _opened(output_file, stack) or sys.stdout
        links = _opened(alignment, stack)
        begun = 0
        for batch in blocks:
            numbers = range(begun, begun + len(batch))
            begun += len(batch)
            for row in loaded.rows(batch, numbers, **options):
                if links:
                    print(row["alignment"], file=links)
                row.setdefault("answer", line_of(row))
                line = json.dumps(row, ensure_ascii=False) if jsonl else line_of(row)
                print(line, file=answers, flush=len(batch) == 1)


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
