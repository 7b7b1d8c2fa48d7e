"""Tokenised examples, packed: rows of integers laid end to end, in memory or memory-mapped.

Without a cache folder what is small stays in memory, and what is not goes into a file without a name (in TMPDIR),
which ends with the process. A cache is written once (aside, then renamed) and opened again wherever the same data is
tokenised in the same way; the system reads what a batch needs and forgets it as it likes. Only the rows' lengths and
places stay in memory, 16 bytes a row.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from regard.errors import RegardError

_FACTS = "counts.json"
_BUFFERED = 1 << 18
_SMALL = 1 << 24
"""Numbers of a column that stay in memory: 64 MiB."""


class Packed:
    """Rows of integers: all in one flat array of int32, and the length of each."""

    def __init__(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        self.ids, self.lengths = ids, lengths.astype(np.int64)
        self.begins = np.cumsum(self.lengths) - self.lengths

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Packed:
        """In memory."""
        ids, lengths = array("i"), array("i")
        for row in rows:
            ids.extend(row)
            lengths.append(len(row))
        return cls(np.frombuffer(ids, dtype=np.int32), np.frombuffer(lengths, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        begin = self.begins[number]
        return np.asarray(self.ids[begin : begin + self.lengths[number]])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def take(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chosen rows end to end, as int64, and their lengths."""
        lengths = self.lengths[chosen]
        starts = np.repeat(self.begins[chosen] - (np.cumsum(lengths) - lengths), lengths)
        return np.asarray(self.ids[starts + np.arange(len(starts))]).astype(np.int64), lengths


@dataclass(frozen=True)
class Table:
    """Packed columns of the same number of rows, and what was counted while they were made."""

    columns: tuple[Packed, ...]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.columns[0])


Rows = Callable[[dict[str, int]], Iterator[tuple[Sequence[int], ...]]]
"""Yields the columns of each row; writes what it counts into the dictionary that it is given."""


def packed_table(rows: Rows, columns: int, cache: Path | None = None) -> Table:
    """Pack rows for this process or, with `cache`, in that folder: made if it is not there, and memory-mapped."""
    if cache is None:
        return _packed_here(rows, columns)
    if not cache.is_dir():
        _write(rows, columns, cache)
    return _open(cache, columns)


def _packed_here(rows: Rows, columns: int) -> Table:
    counts: dict[str, int] = {}
    spools, lengths = [_Spool() for _ in range(columns)], [array("i") for _ in range(columns)]
    try:
        for row in rows(counts):
            for values, spool, sizes in zip(row, spools, lengths, strict=True):
                spool.extend(values)
                sizes.append(len(values))
        found = (Packed(one.ids(), np.frombuffer(sizes, np.int32)) for one, sizes in zip(spools, lengths, strict=True))
        return Table(tuple(found), counts)
    finally:
        for spool in spools:
            spool.close()


class _Spool:
    """Numbers, the first ones in memory; once there are many, all of them in a file."""

    def __init__(self) -> None:
        self.held = array("i")
        self.file: IO[bytes] | None = None

    def extend(self, values: Sequence[int]) -> None:
        self.held.extend(values)
        if len(self.held) > (_BUFFERED if self.file else _SMALL):
            self._flush()

    def ids(self) -> np.ndarray:
        if self.file is None:
            return np.frombuffer(self.held, dtype=np.int32)
        self._flush()
        self.file.flush()
        return np.memmap(self.file, dtype=np.int32, mode="r")

    def close(self) -> None:
        """What is mapped stays."""
        if self.file:
            self.file.close()

    def _flush(self) -> None:
        try:
            self.file = self.file or tempfile.TemporaryFile()  # noqa: SIM115 (`close` ends it)
            self.held.tofile(self.file)
        except OSError as error:
            told = f"cannot write tokenised examples to {tempfile.gettempdir()}: {error.strerror or error}"
            raise RegardError(f"{told}; set TMPDIR, or data.cache, to a folder with more room") from error
        self.held = array("i")


def _write(rows: Rows, columns: int, cache: Path) -> None:
    """Aside, under a name of this process's own: several workers may make the same cache, and the first one's stays."""
    aside = cache.with_name(f".{cache.name}.{os.getpid()}")
    counts: dict[str, int] = {}
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        files = [[(aside / f"{column}.{kind}").open("wb") for kind in ("ids", "lengths")] for column in range(columns)]
        buffers = [[array("i"), array("i")] for _ in range(columns)]
        for row in rows(counts):
            for values, (ids, lengths), opened in zip(row, buffers, files, strict=True):
                ids.extend(values)
                lengths.append(len(values))
                if len(ids) > _BUFFERED or len(lengths) > _BUFFERED:
                    _flush(opened, (ids, lengths))
        for opened, buffered in zip(files, buffers, strict=True):
            _flush(opened, buffered)
            for file in opened:
                file.close()
        (aside / _FACTS).write_text(json.dumps(counts), encoding="utf-8")
        if not cache.is_dir():
            aside.rename(cache)
    except OSError as error:
        if not cache.is_dir():  # else another worker was first
            raise RegardError(f"cannot write the cache {cache}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _flush(files: Sequence[IO[bytes]], buffers: Sequence[array[int]]) -> None:
    for file, buffer in zip(files, buffers, strict=True):
        buffer.tofile(file)
        del buffer[:]


def _open(cache: Path, columns: int) -> Table:
    try:
        counts = json.loads((cache / _FACTS).read_text(encoding="utf-8"))
        found = []
        for column in range(columns):
            lengths = np.fromfile(cache / f"{column}.lengths", dtype=np.int32)
            path = cache / f"{column}.ids"
            tokens = path.stat().st_size // 4
            if tokens != int(lengths.sum(dtype=np.int64)):
                raise ValueError(f"{path.name} has {tokens} numbers, the lengths add up to {lengths.sum()}")
            ids = np.memmap(path, dtype=np.int32, mode="r") if tokens else np.zeros(0, dtype=np.int32)
            found.append(Packed(ids, lengths))
        return Table(tuple(found), counts)
    except (OSError, ValueError) as error:
        raise RegardError(f"the cache {cache} is damaged ({error}): remove it, and it is made anew") from error
