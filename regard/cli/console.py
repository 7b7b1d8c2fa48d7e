"""What the commands share: the terminal, and text that comes from outside."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from regard.errors import RegardError


def output_console() -> Console:
    """Standard output. Into a pipe or file it is plain text of a fixed width, so that nothing is cut or wrapped."""
    if sys.stdout.isatty():
        return Console(highlight=False, width=max(80, shutil.get_terminal_size().columns))
    return Console(highlight=False, width=160)


def valid_text(text: str) -> str:
    """A text given as argument; RegardError where its bytes were not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RegardError(f"the text {text!a} is not valid UTF-8") from error
    return text


def input_lines(path: Path | None) -> Iterator[str]:
    """Lines of a file, or of standard input if there is none; RegardError names an empty or invalid line."""
    from regard.data.tables import read_lines

    for number, line in enumerate(read_lines(path) if path else _standard_input(), start=1):
        if not line.strip():
            raise RegardError(f"{path or 'standard input'}, line {number}: the text is empty")
        yield line


def _standard_input() -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            yield raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RegardError(f"standard input, line {number}: not valid UTF-8 (byte {error.start + 1})") from error
