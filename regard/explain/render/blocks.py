"""Blocks of a result as terminal text: numbers, and bars of block characters. Rich renderables; nothing is printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text
from rich.tree import Tree as RichTree

from regard.explain.result import Block, Branch, Cell, Equation, Grid, Lines, Note, Result, Table, Tree, bar_scales

_WIDEST = 12
"""Columns of a grid up to which its numbers are shown; beyond, one shaded cell each."""
_BAR = 16
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_SHADES = "·░▒▓█"


def terminal(result: Result) -> Iterator[RenderableType]:
    """The title and every block."""
    yield Text(result.title, style="bold underline")
    for block in result.blocks():
        yield from drawn(block)


def drawn(block: Block) -> Iterator[RenderableType]:
    """One block."""
    if isinstance(block, Note):
        styles = {None: "", True: "bold green", False: "bold red"}
        yield Text(block.text, style=styles[block.holds])
    elif isinstance(block, Equation):
        yield Text(f"{block.caption}: {block}" if block.caption else str(block))
    else:
        yield Text()
        yield Text(block.caption, style="bold")
        yield _table(block) if isinstance(block, Table) else _picture(block)


def bar(share: float, width: int = _BAR) -> str:
    """A bar of `width` cells for a share of 0 to 1, to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def sparkline(values: Iterable[float]) -> str:
    """One block a value, from the smallest to the largest."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    return "".join(_LEVELS[int((number - low) / span * (len(_LEVELS) - 1))] for number in numbers)


def _picture(block: Grid | Lines | Tree) -> RenderableType:
    if isinstance(block, Grid):
        return _numbers(block) if len(block.columns) <= _WIDEST else _shades(block)
    return _lines(block) if isinstance(block, Lines) else _tree(block.root)


def _table(block: Table) -> RichTable:
    table, scales = _plain(block.columns[0]), bar_scales(block)
    for column in block.columns[1:]:
        table.add_column(Text(column), justify="right")
        if column in scales:
            table.add_column("")
    for first, *rest in block.rows:
        cells: list[RenderableType] = [Text(_shown(first, block.digits))]
        for column, cell in zip(block.columns[1:], rest, strict=True):
            cells.append(Text(_shown(cell, block.digits)))
            if column in scales:
                share = cell / scales[column] if isinstance(cell, float | int) else 0.0
                cells.append(Text(bar(abs(share)), style="red" if share < 0 else "cyan"))
        table.add_row(*cells)
    return table


def _numbers(block: Grid) -> RichTable:
    """A small grid: its numbers, the framed ones in brackets, strong ones in colour."""
    table = _plain("")
    for column in block.columns:
        table.add_column(Text(column), justify="right")
    largest = max((abs(value) for row in block.values for value in row), default=0.0) or 1.0
    for number, (name, values) in enumerate(zip(block.rows, block.values, strict=True)):
        cells = [Text(name)]
        for place, value in enumerate(values):
            text = f"{value:.{block.digits}f}"
            text = f"[{text}]" if (number, place) in block.framed else text
            strong = abs(value) > largest / 2
            cells.append(Text(text, style=("red" if value < 0 else "cyan") if strong else ""))
        table.add_row(*cells)
    return table


def _shades(block: Grid) -> RichTable:
    """A wide grid: one shaded cell a number, columns by their numbers."""
    table = _plain("")
    table.add_column(Text("".join(str(place % 10) for place in range(len(block.columns)))))
    largest = max((abs(value) for row in block.values for value in row), default=0.0) or 1.0
    for name, values in zip(block.rows, block.values, strict=True):
        line = Text()
        for value in values:
            shade = _SHADES[min(len(_SHADES) - 1, round(abs(value) / largest * (len(_SHADES) - 1)))]
            line.append(shade, style="red" if value < 0 else "cyan")
        table.add_row(Text(name), line)
    table.caption = Text("columns: " + ", ".join(f"{place} {name}" for place, name in enumerate(block.columns)))
    return table


def _lines(block: Lines) -> RichTable:
    table = _plain(block.axis)
    for step in block.steps if len(block.steps) <= _WIDEST + 2 else []:
        table.add_column(Text(step), justify="right")
    table.add_column("")
    for name, values in block.lines.items():
        shown = [Text(f"{value:.3g}") for value in values] if len(block.steps) <= _WIDEST + 2 else []
        table.add_row(Text(name), *shown, Text(sparkline(values), style="cyan"))
    return table


def _tree(root: Branch) -> RichTree:
    tree = RichTree(_label(root))

    def grow(branch: Branch, onto: RichTree) -> None:
        for child in branch.children:
            grow(child, onto.add(_label(child)))

    grow(root, tree)
    return tree


def _label(branch: Branch) -> Text:
    return Text(f"{branch.label}  {branch.probability:.2f}", style="bold cyan" if branch.chosen else "")


def _plain(first: str) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim", caption_justify="left")
    table.add_column(Text(first))
    return table


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)
