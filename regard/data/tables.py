"""Rows with named fields, one at a time, from TSV, CSV, JSONL, Parquet, gettext catalogs and hub data sets.

Nothing is read whole into memory. A row that cannot be used raises RegardError with the file and
the line (Parquet, hub: the row) number.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import RegardError

KINDS = "FILE.tsv, FILE.csv, FILE.jsonl, FILE.parquet, FILE.po or hub:NAME"


@dataclass(frozen=True)
class Row:
    """The fields of one row, and where it stands, for messages."""

    place: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """A field as text; RegardError where it has none."""
        value = self.fields.get(name)
        if value is None or isinstance(value, list | dict):
            raise RegardError(f"{self.place}: {name!r} holds {_shown(value)}, not a text")
        return str(value)

    def texts(self, name: str) -> list[str]:
        """A field that is a list of texts, or one text with blanks between."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list | tuple):
            return [str(one) for one in value]
        raise RegardError(f"{self.place}: {name!r} holds {_shown(value)}, not a list of texts")


def is_table(path: str) -> bool:
    """Whether `read_rows` knows the format."""
    return path.startswith("hub:") or Path(path).suffix in _READERS


def read_rows(path: str, wanted: Sequence[str]) -> Iterator[Row]:
    """Rows of a file by its ending, of several (`part-*.parquet`), or of the hub; `wanted` names fields that each has.

    - `x.tsv`: cut at tabs and nowhere else; `x.csv`: with quotation marks (RFC 4180). The first line names the columns.
    - `x.jsonl`: one object a line. `x.parquet`: a batch of rows at a time.
    - `x.po`: gettext; translated messages that are not fuzzy, as `msgid` and `msgstr`.
    - `hub:owner/name` or `hub:owner/name@split`: streamed (`train`, if it names no split).
    """
    if path.startswith("hub:"):
        rows = _read_hub(path.removeprefix("hub:"), wanted)
    elif not is_table(path):
        raise RegardError(f"cannot tell the format of {path!r}: give {KINDS}")
    else:
        place = Path(path)
        files = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
        if not files:
            raise RegardError(f"no file is named like {path}")
        rows = (row for file in files for row in _READERS[place.suffix](file, wanted))
    yield from rows


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file, without its byte order mark; RegardError names the line that is not UTF-8."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise RegardError(f"{path}, line {number}: not valid UTF-8 (byte {error.start + 1})") from error
    except OSError as error:
        raise RegardError(f"{path} cannot be read: {error.strerror}") from error


def _read_tsv(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    yield from _named(path, ((number, line.split("\t")) for number, line in enumerate(read_lines(path), 1)), wanted)


def _read_csv(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    lines = csv.reader((line + "\n" for line in read_lines(path)), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        begun = 1
        try:
            for row in lines:
                if row:
                    yield begun, row
                begun = lines.line_num + 1
        except csv.Error as error:
            raise RegardError(f"{path}, line {begun}: not valid CSV ({error})") from error

    longest = csv.field_size_limit(1 << 30)
    try:
        yield from _named(path, rows(), wanted)
    finally:
        csv.field_size_limit(longest)


def _named(path: Path, rows: Iterator[tuple[int, list[str]]], wanted: Sequence[str]) -> Iterator[Row]:
    """The first row names the columns."""
    names: list[str] = []
    for number, row in rows:
        if not names:
            missing = [name for name in wanted if name not in row]
            if missing:
                raise RegardError(f"{path} has no column {missing[0]!r} (its first line names: {', '.join(row)})")
            names = row
        elif len(row) != len(names):
            raise RegardError(f"{path}, line {number}: {len(row)} columns, the first line names {len(names)}")
        else:
            yield Row(f"{path}, line {number}", dict(zip(names, row, strict=True)))


def _read_jsonl(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RegardError(f"{path}, line {number}: needs an object with {_all(wanted)} ({error})") from error
        missing = [name for name in wanted if not isinstance(row, dict) or name not in row]
        if missing or not isinstance(row, dict):
            raise RegardError(f"{path}, line {number}: needs an object with {_all(wanted)} (got {_shown(row)})")
        yield Row(f"{path}, line {number}", row)


def _read_parquet(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise RegardError("Parquet files need the package pyarrow: pip install pyarrow") from error
    number = 0
    try:
        # A row group may be as large as the file: read as it is needed, not ahead.
        with ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise RegardError(f"{path} has no column {missing[0]!r} (it has: {', '.join(file.schema_arrow.names)})")
            for batch in file.iter_batches(batch_size=1024, columns=list(wanted)):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", fields)
    except (ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RegardError(f"{path}, after row {number}: cannot be read ({reason})") from error


def _read_catalog(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    missing = [name for name in wanted if name not in ("msgid", "msgstr", "msgctxt")]
    if missing:
        raise RegardError(f"{path} has no field {missing[0]!r}: a gettext catalog has msgid, msgstr and msgctxt")
    for number, fields, fuzzy in _messages(path):
        if fields.get("msgid") and fields.get("msgstr") and not fuzzy:
            yield Row(f"{path}, line {number}", {"msgctxt": "", **fields})


def _messages(path: Path) -> Iterator[tuple[int, dict[str, str], bool]]:
    """The messages of a gettext catalog but the obsolete ones: line, fields, and whether it is marked as fuzzy."""
    fields: dict[str, str] = {}
    begun, last, fuzzy = 0, "", False
    for number, line in enumerate(map(str.strip, read_lines(path)), start=1):
        found = None if line.startswith("#") else _MESSAGE.fullmatch(line)
        name = found[1] if found else ""
        if last.startswith("msgstr") and (line.startswith("#") or name in ("msgctxt", "msgid")):
            yield begun, fields, fuzzy
            fields, last, fuzzy = {}, "", False
        if line.startswith("#,"):
            fuzzy = fuzzy or "fuzzy" in line[2:].replace(",", " ").split()
        if not line or line.startswith("#"):
            continue
        if not found or not (name or last):
            raise RegardError(f"{path}, line {number}: not as in a gettext catalog ({_shown(line)})")
        if name == "msgid":
            begun = number
        last = name or last
        fields[last] = ("" if name else fields[last]) + _ESCAPED.sub(_unescaped, found[2])
    if fields:
        yield begun, fields, fuzzy


_MESSAGE = re.compile(r'(?:(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)\s*)?"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_SIGNS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def _unescaped(found: re.Match[str]) -> str:
    return _SIGNS.get(found[1], found[1])


def _read_hub(name: str, wanted: Sequence[str]) -> Iterator[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise RegardError("hub data sets need the package datasets: pip install datasets") from error
    name, _, split = name.partition("@")
    try:
        rows = load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # whatever the hub or the network answers
        raise RegardError(f"hub:{name} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        fields = row.get("translation", row)
        missing = [one for one in wanted if one not in fields]
        if missing:
            raise RegardError(f"hub:{name}, row {number}: no field {missing[0]!r} (it has: {', '.join(fields)})")
        yield Row(f"hub:{name}, row {number}", fields)


_READERS = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".po": _read_catalog,
}


def _all(wanted: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in wanted)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."
