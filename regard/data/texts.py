"""Texts alone, with a label, or in labelled pairs: for language models and classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regard.data.tables import KINDS, is_table, read_lines, read_rows
from regard.errors import RegardError


@dataclass(frozen=True)
class Text:
    """A text, the second one of a pair if there is one, and its label ("" where none is asked for)."""

    text: str
    second: str | None = None
    label: str = ""


def read_texts(path: str, text: str = "text", second: str = "", label: str = "") -> Iterator[Text]:
    """Texts from a file, a folder or the hub, one at a time; empty ones are left out.

    - `x.txt`: one text a line. A folder: its `.txt` files, each a text.
    - What has fields (`regard.data.tables`): `text`, `second` and `label` say which.

    Raises RegardError with file and line where a field is missing.
    """
    place = Path(path)
    plain = place.is_dir() or path.endswith(".txt")
    if label and plain:
        raise RegardError(f"{path} has no labels: give FILE.tsv or FILE.jsonl")
    if second and plain:
        raise RegardError(f"{path} has no pairs: give FILE.tsv or FILE.jsonl")
    if place.is_dir():
        rows: Iterator[Text] = (Text("\n".join(read_lines(file))) for file in sorted(place.rglob("*.txt")))
    elif plain:
        rows = (Text(line) for line in read_lines(place))
    elif is_table(path):
        wanted = [name for name in (text, second, label) if name]
        rows = (
            Text(row.text(text), row.text(second) if second else None, row.text(label) if label else "")
            for row in read_rows(path, wanted)
        )
    else:
        raise RegardError(f"cannot tell the format of {path!r}: give FILE.txt, a folder of .txt, {KINDS}")
    yield from (row for row in rows if row.text.strip())
