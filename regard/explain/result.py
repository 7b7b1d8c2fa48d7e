"""What an answer to a question about a trace is made of, and the ways to see it.

A result says its title and its blocks: notes, tables, grids of numbers, lines over layers, trees, the notes' equation.
`render` draws any block in a terminal, on a page and as a figure, so that no view needs a renderer of its own.

    >>> found = trace_view(...)
    >>> print(found)               # in a terminal
    >>> found                      # in a notebook
    >>> found.to_dict(), found.to_csv(), found.to_html(), found.figure().savefig("found.png")
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Cell = str | int | float | None
Number = tuple[str, str, Cell]
"""A number of a block with the names of its row and column."""


@dataclass(frozen=True)
class Note:
    """A sentence; a proof `holds` or does not."""

    text: str
    holds: bool | None = None

    def numbers(self) -> Iterator[Number]:
        """None."""
        yield from ()


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row, the numbers of `shares` (0 to 1) get a bar."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    shares: frozenset[str] = frozenset()
    digits: int = 2

    def numbers(self) -> Iterator[Number]:
        """Every cell with the names of its row and column."""
        for row in self.rows:
            yield from ((str(row[0]), column, cell) for column, cell in zip(self.columns[1:], row[1:], strict=True))


@dataclass(frozen=True)
class Grid:
    """A matrix with names: shares from 0 to 1, or, if `signed`, numbers around zero. Some cells may be framed."""

    caption: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]
    signed: bool = False
    framed: frozenset[tuple[int, int]] = frozenset()
    digits: int = 2

    def numbers(self) -> Iterator[Number]:
        """Every value with the names of its row and column."""
        for name, values in zip(self.rows, self.values, strict=True):
            yield from ((name, column, value) for column, value in zip(self.columns, values, strict=True))


@dataclass(frozen=True)
class Lines:
    """Numbers that change from step to step (layers, tokens), one line a name."""

    caption: str
    steps: list[str]
    lines: dict[str, list[float]]
    axis: str = "layer"

    def numbers(self) -> Iterator[Number]:
        """Every value with the names of its line and step."""
        for name, values in self.lines.items():
            yield from ((name, step, value) for step, value in zip(self.steps, values, strict=True))


@dataclass(frozen=True)
class Branch:
    """A node of a tree: what it says, its probability, and whether it was chosen."""

    label: str
    probability: float
    chosen: bool = False
    children: list[Branch] = field(default_factory=list)
    token: int | None = None
    """The id of the token that it stands for; the root stands for none."""

    def numbers(self, path: str = "") -> Iterator[Number]:
        """Each path from the root and the probability of its last step."""
        here = f"{path} {self.label}".strip()
        yield here, "probability", self.probability
        for child in self.children:
            yield from child.numbers(here)


@dataclass(frozen=True)
class Tree:
    """What could have been, branch by branch."""

    caption: str
    root: Branch

    def numbers(self) -> Iterator[Number]:
        """Each path from the root and the probability of its last step."""
        return self.root.numbers()


@dataclass(frozen=True)
class Equation:
    """The notes' equation: e(word) = 0.41 e(word) + ..."""

    caption: str
    word: str
    words: list[str]
    weights: list[float]

    def numbers(self) -> Iterator[Number]:
        """The weight of each word."""
        return ((self.word, word, weight) for word, weight in zip(self.words, self.weights, strict=True))

    def __str__(self) -> str:
        terms = " + ".join(f"{weight:.2f} e({word})" for word, weight in zip(self.words, self.weights, strict=True))
        return f"e({self.word}) = {terms}"


Block = Note | Table | Grid | Lines | Tree | Equation


class Result(ABC):
    """An answer: data, and how to see it."""

    view: ClassVar[str]
    """The name of the question."""

    @property
    @abstractmethod
    def title(self) -> str:
        """One line that says what is shown."""

    @abstractmethod
    def blocks(self) -> list[Block]:
        """What is shown, top to bottom."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, `view` first."""

    def to_csv(self) -> str:
        """Every number of the blocks in long form: view, block, row, column, value."""
        return as_csv([self])

    def to_html(self, name: str = "regard") -> str:
        """One page that needs nothing else; `name` is the model's."""
        from regard.explain.render.result_page import result_page

        return result_page([self], name)

    def figure(self) -> Any:
        """A matplotlib figure of all blocks that can be drawn."""
        from regard.explain.render.figure import figure

        return figure([self])

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from regard.explain.render.blocks import terminal

        yield from terminal(self)

    def __str__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, highlight=False, width=160).print(self)
        return stream.getvalue().rstrip("\n")

    def _repr_html_(self) -> str:
        from regard.explain.render.result_page import fragment

        return fragment(self)


class Results(list[Result]):
    """Several answers; in a notebook they show themselves one below the other."""

    def _repr_html_(self) -> str:
        from regard.explain.render.result_page import fragment

        return "".join(fragment(result) for result in self)


def as_csv(results: Sequence[Result]) -> str:
    """CSV text: a line of names, then every number of every block."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["view", "block", "row", "column", "value"])
    for result in results:
        for block in result.blocks():
            caption = block.text if isinstance(block, Note) else block.caption
            writer.writerows([result.view, caption, *number] for number in block.numbers())
    return stream.getvalue()


def bar_scales(table: Table) -> dict[str, float]:
    """The columns of a table that get bars, and what a full one stands for: shares, or a single column of numbers."""
    scales = dict.fromkeys((column for column in table.columns if column in table.shares), 1.0)
    if not scales and len(table.columns) == 2:
        values = [row[1] for row in table.rows]
        if values and all(isinstance(value, float) for value in values):
            scales[table.columns[1]] = max(abs(float(value or 0.0)) for value in values) or 1.0
    return scales


def numbered(names: Sequence[str]) -> list[str]:
    """Names that are told apart: a name that stands more than once gets its place behind it."""
    return [f"{name}·{place}" if names.count(name) > 1 else name for place, name in enumerate(names)]
