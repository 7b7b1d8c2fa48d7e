"""Texts alone, with a label, or in labelled pairs: for language models and classifiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regard.data.sources import read_lines
from regard.errors import RegardError


@dataclass(frozen=True)
class Text:
    """A text, the second one of a pair if there is one, and its label ("" where none is asked for)."""

    text: str
    second: str | None = None
    label: str = ""


def read_texts(path: str, text: str = "text", second: str = "", label: str = "") -> Iterator[Text]:
    """Texts from a file or a folder; empty ones are left out.

    - `x.txt`: one text a line. A folder: its `.txt` files, each a text.
    - `x.tsv`: a header line names the columns; `x.jsonl`: one object a line. `text`, `second` and `label` say which.

    Raises RegardError with file and line where a field is missing.
    """
    place = Path(path)
    if place.is_dir():
        rows: Iterator[Text] = (Text("\n".join(read_lines(file))) for file in sorted(place.rglob("*.txt")))
    elif path.endswith(".txt"):
        rows = (Text(line) for line in read_lines(place))
    elif path.endswith(".tsv"):
        rows = _read_tsv(place, text, second, label)
    elif path.endswith(".jsonl"):
        rows = _read_jsonl(place, text, second, label)
    else:
        raise RegardError(
            f"cannot tell the format of {path!r}: give FILE.txt, FILE.tsv, FILE.jsonl or a folder of .txt"
        )
    if label and (place.is_dir() or path.endswith(".txt")):
        raise RegardError(f"{path} has no labels: give FILE.tsv or FILE.jsonl")
    yield from (row for row in rows if row.text.strip())


def _read_tsv(path: Path, text: str, second: str, label: str) -> Iterator[Text]:
    names: list[str] = []
    wanted = [name for name in (text, second, label) if name]
    for number, line in enumerate(read_lines(path), start=1):
        row = line.split("\t")
        if number == 1:
            missing = [name for name in wanted if name not in row]
            if missing:
                raise RegardError(f"{path} has no column {missing[0]!r} (its first line names: {', '.join(row)})")
            names = row
        elif len(row) != len(names):
            raise RegardError(f"{path}, line {number}: {len(row)} columns, the first line names {len(names)}")
        else:
            yield _text_of(dict(zip(names, row, strict=True)), text, second, label)


def _read_jsonl(path: Path, text: str, second: str, label: str) -> Iterator[Text]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            yield _text_of({name: str(row[name]) for name in (text, second, label) if name}, text, second, label)
        except (ValueError, KeyError, TypeError) as error:
            wanted = " and ".join(repr(name) for name in (text, second, label) if name)
            raise RegardError(f"{path}, line {number}: needs an object with {wanted} ({error})") from error


def _text_of(row: dict[str, str], text: str, second: str, label: str) -> Text:
    return Text(row[text], row[second] if second else None, row[label] if label else "")
