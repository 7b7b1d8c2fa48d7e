"""Records of a file to be answered, read in windows: plain text, JSONL, CSV or Parquet, by the file's ending.

Never more than one window is held. A record that cannot be used (not UTF-8, too long, no such field) keeps its place
and says what is wrong with it. All that was read goes into a running digest, so that whoever goes on later can tell
whether the file is still the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from regard.errors import RegardError, unknown

if TYPE_CHECKING:
    import pyarrow

LONGEST = 1 << 20
"""Bytes of the longest record that is read; of a longer one only the beginning is kept, to be told."""

_WINDOW_BYTES = 1 << 24
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
"""Formats by a file's ending; any other is plain text, one record a line."""


@dataclass(frozen=True)
class Record:
    """One record: its text, or why there is none, and the fields that go along with it."""

    number: int
    """From 1; of CSV without the header."""
    text: str
    problem: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """Records that follow each other; those of Parquet keep their columns as they are."""

    records: list[Record]
    table: pyarrow.Table | None = None


def format_of(path: Path) -> str:
    return FORMATS.get(path.suffix.lower(), "text")


def open_records(path: Path, name: str | None = None) -> Records:
    """Records of a file; `name` is the field or column of the text, needed unless that is `text` or the only one.

    RegardError if the file cannot be read or has no such column.
    """
    kinds: dict[str, type[Records]] = {"text": TextRecords, "jsonl": JsonRecords, "csv": CsvRecords}
    kind = format_of(path)
    if kind == "text" and name is not None:
        raise RegardError(f"--field is for JSONL, CSV and Parquet; {path} is read as plain text")
    try:
        return (ParquetRecords if kind == "parquet" else kinds[kind])(path, name)
    except OSError as error:
        raise RegardError(f"{path} cannot be read: {error.strerror or error}") from error


class Records:
    """A file to read in windows, once. `digest` is that of all that was read so far."""

    columns: tuple[str, ...] = ()
    """The columns that are known before the first record is read."""
    schema: pyarrow.Schema | None = None
    """Their types, of Parquet."""

    def __init__(self, path: Path, name: str | None) -> None:
        self.path, self.name = path, name
        self.digest = hashlib.sha256()
        self.size = path.stat().st_size

    def windows(self, size: int) -> Iterator[Window]:
        """The records, so many at a time or fewer where they are long; the same windows each time a file is read."""
        remaining = self._records()
        while chosen := list(_some(remaining, size)):
            yield Window(chosen)

    def share(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return self._position() / self.size if self.size else 1.0

    def close(self) -> None:
        raise NotImplementedError

    def _records(self) -> Iterator[Record]:
        raise NotImplementedError

    def _position(self) -> int:
        raise NotImplementedError


class TextRecords(Records):
    """One text a line."""

    def __init__(self, path: Path, name: str | None) -> None:
        super().__init__(path, name)
        self._file: IO[bytes] = path.open("rb")
        self._read = 0

    def close(self) -> None:
        self._file.close()

    def _position(self) -> int:
        return self._read

    def _records(self) -> Iterator[Record]:
        for number, (raw, whole) in enumerate(self._lines(), start=1):
            text, problem = _decoded(raw)
            yield self._record(number, text, problem if whole else f"longer than {LONGEST} bytes")

    def _record(self, number: int, text: str, problem: str | None) -> Record:
        return Record(number, text, problem, {"source": text})

    def _lines(self) -> Iterator[tuple[bytes, bool]]:
        """Lines without their ends and the byte order mark; whether each is whole."""
        while raw := self._file.readline(LONGEST):
            whole = raw.endswith(b"\n") or len(raw) < LONGEST
            self._take(raw)
            shown = raw.removeprefix(b"\xef\xbb\xbf") if self._read == len(raw) else raw
            more = raw
            while not whole and (more := self._file.readline(LONGEST)):  # the rest of a line that is too long
                self._take(more)
                if more.endswith(b"\n"):
                    break
            yield shown.rstrip(b"\r\n"), whole

    def _take(self, raw: bytes) -> None:
        self.digest.update(raw)
        self._read += len(raw)


class JsonRecords(TextRecords):
    """One JSON object a line; the text is one of its fields."""

    def _record(self, number: int, text: str, problem: str | None) -> Record:
        if problem is not None:
            return Record(number, text, problem)
        name = self.name or "text"
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return Record(number, text, "not valid JSON")
        if not isinstance(fields, dict):
            return Record(number, text, "not a JSON object")
        if name not in fields:
            return Record(number, text, f"no field {name!r}", fields)
        found = fields[name]
        if not isinstance(found, str):
            return Record(number, text, f"the field {name!r} is {type(found).__name__}, not a text", fields)
        return Record(number, *_sound(found), fields)


class CsvRecords(TextRecords):
    """Comma-separated, the first row names the columns. Fields may be quoted and hold line ends."""

    def __init__(self, path: Path, name: str | None) -> None:
        super().__init__(path, name)
        self._rows = csv.reader(self._decoded_lines())
        try:
            self.columns = self._header()
            self.name = _column(path, self.columns, name)
        except RegardError:
            self.close()
            raise

    def _header(self) -> tuple[str, ...]:
        try:
            columns = tuple(next(self._rows, []))
        except csv.Error as error:
            raise RegardError(f"{self.path}: the header cannot be read as CSV ({error})") from error
        if any(_sound(column)[1] for column in columns):
            raise RegardError(f"{self.path}: the header is not valid UTF-8")
        if len(set(columns)) < len(columns):
            raise RegardError(f"{self.path}: two columns have the same name")
        return columns

    def _decoded_lines(self) -> Iterator[str]:
        """Bytes that are not UTF-8 pass as lone surrogates, so that one bad cell does not end the reading."""
        for raw, whole in self._lines():
            # What is cut would read as a row: let it be refused as a cell that is too long.
            yield raw.decode("utf-8", "surrogateescape") + "\n" if whole else "x" * (csv.field_size_limit() + 1)

    def _records(self) -> Iterator[Record]:
        number, wanted = 0, self.columns.index(self.name or "")
        while True:
            number += 1
            try:
                cells = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(number, "", f"not valid CSV ({error})", dict.fromkeys(self.columns, ""))
                continue
            if not cells:  # an empty line is no record
                number -= 1
                continue
            sound = [_sound(cell) for cell in cells]
            text = sound[wanted][0] if wanted < len(sound) else ""
            problem = next((problem for _, problem in sound if problem), None)
            if len(cells) != len(self.columns):
                problem = f"{len(cells)} cells, the header has {len(self.columns)}"
            filled = [cell for cell, _ in sound] + [""] * len(self.columns)
            yield Record(number, text, problem, dict(zip(self.columns, filled, strict=False)))


class ParquetRecords(Records):
    """One column of a Parquet file; needs the package `pyarrow`."""

    def __init__(self, path: Path, name: str | None) -> None:
        super().__init__(path, name)
        arrow, parquet = arrow_modules()
        try:
            # A row group may be as large as the file: read as it is needed, not ahead.
            self._file = parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
            raise RegardError(f"{path} is damaged or not a Parquet file: {error}") from error
        self.schema = self._file.schema_arrow
        self.columns = tuple(self.schema.names)
        try:
            self.name = self._text_column(name)
        except RegardError:
            self.close()
            raise
        self.size, self._read = self._file.metadata.num_rows, 0

    def windows(self, size: int) -> Iterator[Window]:
        arrow, _ = arrow_modules()
        try:
            for batch in self._file.iter_batches(batch_size=size):
                table, records = arrow.Table.from_batches([batch]), []
                for number, text in enumerate(batch.column(self.name).to_pylist(), start=self._read + 1):
                    self.digest.update((text or "\0").encode("utf-8", "surrogateescape") + b"\n")
                    problem = "no text (null)" if text is None else None
                    records.append(Record(number, *_sound(text or "")) if not problem else Record(number, "", problem))
                self._read += len(records)
                yield Window(records, table)
        except arrow.ArrowException as error:
            raise RegardError(f"{self.path} is damaged after record {self._read}: {error}") from error

    def _text_column(self, name: str | None) -> str:
        arrow, _ = arrow_modules()
        found = _column(self.path, self.columns, name)
        kind: Any = self._file.schema_arrow.field(found).type
        if arrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            raise RegardError(f"{self.path}: the column {found!r} holds {kind}, not texts")
        return found

    def close(self) -> None:
        self._file.close()

    def _position(self) -> int:
        return self._read


def arrow_modules() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`; RegardError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RegardError("Parquet needs the package pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet


def _some(records: Iterator[Record], size: int) -> Iterator[Record]:
    """The next records: so many, or fewer that have some megabytes together."""
    held = 0
    for record in islice(records, size):
        yield record
        held += len(record.text)
        if held > _WINDOW_BYTES:
            return


def _decoded(raw: bytes) -> tuple[str, str | None]:
    """A text, and what is wrong with it; bytes that are no UTF-8 show as the replacement character."""
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "replace"), f"not valid UTF-8 (byte {error.start + 1})"


def _sound(text: str) -> tuple[str, str | None]:
    """The same for a text that may hold lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _decoded(text.encode("utf-8", "surrogatepass" if not _escaped(text) else "surrogateescape"))
    return text, None


def _escaped(text: str) -> bool:
    return all(not "\ud800" <= sign <= "\udfff" or "\udc80" <= sign <= "\udcff" for sign in text)


def _column(path: Path, columns: tuple[str, ...], name: str | None) -> str:
    if name is None and "text" in columns:
        return "text"
    if name is None and len(columns) == 1:
        return columns[0]
    if name is None:
        raise RegardError(f"{path} has the columns {', '.join(columns) or 'none'}: say with --field which is the text")
    if name not in columns:
        raise unknown("column", name, columns)
    return name
