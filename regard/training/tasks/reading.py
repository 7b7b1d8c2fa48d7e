"""How tasks read their data: one example at a time, cleaned, tokenised in blocks, packed in memory or in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from regard.data.cleaning import cleaned, text_hash
from regard.data.packed import Table, packed_table
from regard.errors import RegardError
from regard.training.recipe import Recipe

T = TypeVar("T")
PARTS = ("train", "valid", "test")
_BLOCK = 1000


@dataclass(frozen=True)
class Parts(Generic[T]):
    """The three parts of a recipe's data."""

    recipe: Recipe
    read: Callable[[str], Iterator[T]]
    """Examples of a part, by its name."""
    sides: Callable[[T], Sequence[str]]
    """The texts of an example."""
    kind: str = "texts"

    def __call__(self, part: str, counts: dict[str, int] | None = None) -> Iterator[T]:
        """Examples of a part, those of training cleaned; RegardError where there are none."""
        examples, clean = self.read(part), self.recipe.data.clean
        counts = {} if counts is None else counts
        if part == "train":
            rules = clean.model_dump() | {"held_out": self.held_out}
            examples = cleaned(examples, self.sides, counts, **rules)
        number = 0
        for example in examples:
            number += 1
            yield example
        counts[f"{part}_{self.kind}"] = number
        if not number:
            raise RegardError(f"the {part} part of the data is empty" + (" once cleaned" if len(counts) > 3 else ""))

    @cached_property
    def held_out(self) -> dict[str, set[int]]:
        """Hashes of the texts to score on."""
        return {part: {text_hash(self.sides(one)) for one in self.read(part)} for part in PARTS[1:]}

    def table(
        self, part: str, tokenise: Callable[[list[T]], Iterable[tuple[Sequence[int], ...]]], columns: int, *more: Any
    ) -> Table:
        """A part tokenised and packed; `more`: what the rows follow from besides the recipe's data (the tokenizer)."""

        def rows(counts: dict[str, int]) -> Iterator[tuple[Sequence[int], ...]]:
            for block in blocks(self(part, counts)):
                yield from tokenise(block)

        return packed_table(rows, columns, self.cache(part, *more))

    def cache(self, part: str, *more: Any) -> Path | None:
        """A folder named by everything that the rows follow from: files are known by name, size and time."""
        data = self.recipe.data
        if not data.cache:
            return None
        said = data.model_dump(mode="json", exclude={"description", "licence", "cache"})
        files = [_stamp(path) for one in PARTS for path in getattr(data, one).split(",")]
        told = json.dumps([1, self.recipe.task, part, said, files, [str(one) for one in more]], ensure_ascii=False)
        return Path(data.cache) / f"{part}-{hashlib.sha256(told.encode()).hexdigest()[:24]}"


def labels_of(parts: Parts[T], of: Callable[[T], Iterable[str]]) -> tuple[str, ...]:
    """The labels of the training part, in order; RegardError where another part has one that is not among them."""
    known, *others = ({label for one in parts(part) for label in of(one)} for part in PARTS)
    if unseen := set[str]().union(*others) - known:
        raise RegardError(f"the label {min(unseen)!r} stands in the validation or test data, but in none to learn from")
    return tuple(sorted(known))


def counts_of(*tables: Table) -> dict[str, int]:
    """What was counted in all parts, for the model card."""
    return {name: count for table in tables for name, count in table.counts.items()}


def blocks(examples: Iterable[T], size: int = _BLOCK) -> Iterator[list[T]]:
    """So many examples at a time."""
    remaining = iter(examples)
    while block := list(islice(remaining, size)):
        yield block


def _stamp(name: str) -> list[tuple[str, int, int]]:
    path = Path(name)
    files = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    files = [inner for file in files for inner in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
