"""Files of answers, written block by block: plain text, JSONL, CSV or Parquet.

A format says what bytes stand at the beginning and what bytes a block of records is, so that a file grows by whole
blocks and can be cut back to the last one that is known to be on the disk. Parquet cannot grow: its blocks are kept as
an Arrow stream until the end.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from regard.data.records import Records, Window, arrow_modules, format_of
from regard.errors import RegardError

if TYPE_CHECKING:
    import pyarrow

Answer = dict[str, Any] | None
"""What a model found for one record; None where it found nothing."""

COLUMNS = {
    "hypotheses": {"answer": "text", "log_p": "number"},
    "classes": {"answer": "text", "probability": "number"},
    "words": {"answer": "text"},
    "span": {"answer": "text"},
    "embedding": {"embedding": "vector"},
}
"""Columns of a table for each kind of answer."""

_ROW_GROUP = 1 << 14


@runtime_checkable
class Table(Protocol):
    """One format."""

    flat: bool
    """Whether it has the same columns for every record, so that only the best answer finds room."""
    taken: frozenset[str]
    """Fields that a record must not have: they would be written over."""
    made_at_the_end: bool
    """Whether the file that was asked for is made of what was written, by `finish`."""

    def head(self) -> bytes:
        """What a file begins with."""
        ...

    def block(self, window: Window, answers: Sequence[Answer]) -> bytes:
        """Records with their answers."""
        ...

    def finish(self, written: Path, path: Path) -> None: ...


def table_for(path: Path, source: Records, answers: str, json_lines: bool = False) -> Table:
    """How answers to `source` are written to `path`; `answers` is what the model gives, one of `COLUMNS`.

    RegardError where the source has columns of these names already, or has none that are known.
    """
    kind = "jsonl" if json_lines else format_of(path)
    columns = COLUMNS[answers]
    if kind in ("csv", "parquet") and (twice := sorted(set(columns) & set(source.columns))):
        raise RegardError(f"{source.path} already has a column {twice[0]!r}: rename it first")
    if kind in ("csv", "parquet") and format_of(source.path) == "jsonl":
        raise RegardError("JSONL has no fixed columns: give --output a name that ends in .jsonl or .txt")
    if kind == "parquet":
        return ParquetTable(source, columns)
    if kind == "csv":
        return CsvTable(source, columns)
    return JsonTable(answers) if kind == "jsonl" else TextTable()


def flattened(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a table has it: the best answer alone, and a number that says how sure the model is of it."""
    if "classes" in row:
        return {"answer": row["classes"][0]["text"], "probability": row["classes"][0]["probability"]}
    if "hypotheses" in row:
        return {"answer": row["answer"], "log_p": row["hypotheses"][0]["log_p"]}
    return {name: row[name] for name in ("answer", "embedding") if name in row}


def line_of(row: dict[str, Any]) -> str:
    """A row as one line of text: line breaks within an answer become blanks. Labelled words have a line each."""
    if row.get("words") and "label" in row["words"][0]:
        return "".join(f"{one['word']}\t{one['label']}\n" for one in row["words"])
    if "answer" in row:
        return " ".join(str(row["answer"]).splitlines())
    return " ".join(f"{value:.6f}" for value in row["embedding"])


class TextTable:
    """One answer a line. An empty line where there is none."""

    flat, taken, made_at_the_end = False, frozenset[str](), False

    def head(self) -> bytes:
        return b""

    def block(self, window: Window, answers: Sequence[Answer]) -> bytes:
        # Labelled words stand in one line here, so that lines stay beside those of the source.
        lines = [str(one["answer"]) if one and "words" in one else line_of(one) if one else "" for one in answers]
        return "".join(line + "\n" for line in lines).encode("utf-8")

    def finish(self, written: Path, path: Path) -> None:
        return


class JsonTable:
    """One object a line: the fields of the record, and all that was found; `answer` is null where nothing was."""

    flat, made_at_the_end = False, False

    def __init__(self, kind: str) -> None:
        self.taken = frozenset({"answer", kind} if kind != "embedding" else {kind})
        self.empty = {"embedding" if kind == "embedding" else "answer": None}

    def head(self) -> bytes:
        return b""

    def block(self, window: Window, answers: Sequence[Answer]) -> bytes:
        rows = [
            (fields | (self.empty if answer is None else {name: answer[name] for name in answer if name != "source"}))
            for fields, answer in zip(_fields(window), answers, strict=True)
        ]
        return b"".join(_json_line(row) for row in rows)

    def finish(self, written: Path, path: Path) -> None:
        return


class CsvTable:
    """The columns of the record, then those of the answer."""

    flat, taken, made_at_the_end = True, frozenset[str](), False

    def __init__(self, source: Records, columns: dict[str, str]) -> None:
        self.names, self.columns = source.columns or ("source",), columns

    def head(self) -> bytes:
        return _csv([[*self.names, *self.columns]])

    def block(self, window: Window, answers: Sequence[Answer]) -> bytes:
        rows = [
            [
                *(fields.get(name, "") for name in self.names),
                *(_cell((answer or {}).get(name)) for name in self.columns),
            ]
            for fields, answer in zip(_fields(window), answers, strict=True)
        ]
        return _csv(rows)

    def finish(self, written: Path, path: Path) -> None:
        return


class ParquetTable:
    """The columns of the record as they are, then those of the answer."""

    flat, taken, made_at_the_end = True, frozenset[str](), True

    def __init__(self, source: Records, columns: dict[str, str]) -> None:
        self.arrow, self.parquet = arrow_modules()
        text = self.arrow.string()
        kinds = {"text": text, "number": self.arrow.float64(), "vector": self.arrow.list_(self.arrow.float32())}
        begun = source.schema or self.arrow.schema([(name, text) for name in source.columns or ("source",)])
        begun = self.arrow.schema([_without_dictionary(self.arrow, one) for one in begun], metadata=begun.metadata)
        added = [self.arrow.field(name, kinds[kind]) for name, kind in columns.items()]
        self.begun, self.added = begun, added
        self.schema = self.arrow.schema([*begun, *added], metadata=begun.metadata)

    def head(self) -> bytes:
        return bytes(self.schema.serialize())

    def block(self, window: Window, answers: Sequence[Answer]) -> bytes:
        table = window.table
        if table is None:
            table = self.arrow.Table.from_pylist([record.fields for record in window.records], self.begun)
        for field in self.added:
            column = [None if answer is None else answer[field.name] for answer in answers]
            table = table.append_column(field, self.arrow.array(column, field.type))
        return b"".join(bytes(batch.serialize()) for batch in table.cast(self.schema).combine_chunks().to_batches())

    def finish(self, written: Path, path: Path) -> None:
        """Row groups of some thousand records."""
        held: list[pyarrow.RecordBatch] = []
        with written.open("rb") as file, self.parquet.ParquetWriter(path, self.schema) as out:
            for batch in self.arrow.ipc.open_stream(file):
                held.append(batch)
                if sum(one.num_rows for one in held) >= _ROW_GROUP:
                    out.write_table(self.arrow.Table.from_batches(held, self.schema).combine_chunks())
                    held = []
            if held:
                out.write_table(self.arrow.Table.from_batches(held, self.schema).combine_chunks())


def _without_dictionary(arrow: Any, field: Any) -> Any:
    """Values as they are: the stream holds no dictionaries."""
    return field.with_type(field.type.value_type) if arrow.types.is_dictionary(field.type) else field


def _fields(window: Window) -> list[dict[str, Any]]:
    if window.table is not None:
        rows: list[dict[str, Any]] = window.table.to_pylist()
        return rows
    return [record.fields for record in window.records]


def _json_line(row: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half a pair of surrogates came in as an escape, and goes out as one
        return (json.dumps(row, default=str) + "\n").encode("ascii")


def _cell(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, float) for one in value):
        return " ".join(f"{one:.6f}" for one in value)
    return "" if value is None else value


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "replace")
