"""Results as a matplotlib figure: one part a block that can be drawn. No window is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regard.explain.result import Block, Branch, Cell, Equation, Grid, Lines, Result, Table, Tree

_BLUE, _ORANGE, _GREY = "#1f5fae", "#c75a0a", "#55606c"
_COLOURS = (_BLUE, _ORANGE, "#1a6b3c", "#1a1f26")
_NAMED = 60
"""Names that fit along one side of a grid."""


def figure(results: Sequence[Result]) -> Any:
    """A figure of all blocks of these results; notes become part of the titles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = [(result, block) for result in results for block in result.blocks() if _drawable(block)]
    heights = [_height(block) for _, block in blocks] or [1.0]
    drawn = Figure(figsize=(max(7.0, *(_width(block) for _, block in blocks), 7.0), sum(heights)), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(results[0].title, fontsize=12, fontweight="bold", parse_math=False)
    if not blocks:
        return drawn
    axes = drawn.subplots(len(blocks), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (_, block) in zip(axes, blocks, strict=True):
        _draw(axis, block)
    return drawn


def _drawable(block: Block) -> bool:
    return isinstance(block, Grid | Lines | Tree | Equation) or (isinstance(block, Table) and bool(_numeric(block)))


def _numeric(block: Table) -> list[str]:
    """Columns of a table that bars can show: its shares, or else the first that holds only numbers."""
    if block.shares:
        return [column for column in block.columns if column in block.shares]
    for number, column in enumerate(block.columns[1:], start=1):
        if block.rows and all(isinstance(row[number], float) for row in block.rows):
            return [column]
    return []


def _width(block: Block) -> float:
    return 2.5 + 0.32 * len(block.columns) if isinstance(block, Grid) else 7.0


def _height(block: Block) -> float:
    if isinstance(block, Grid):
        return 1.6 + 0.3 * min(_NAMED, len(block.rows))
    if isinstance(block, Table):
        return 1.2 + 0.25 * len(block.rows)
    if isinstance(block, Tree):
        return 1.0 + 0.24 * len(_flat(block.root, 0))
    return 2.8 if isinstance(block, Lines) else 1.5


def _draw(axis: Any, block: Block) -> None:
    if isinstance(block, Grid):
        _grid(axis, block)
    elif isinstance(block, Lines):
        _lines(axis, block)
    elif isinstance(block, Table):
        _bars(axis, block)
    elif isinstance(block, Tree):
        _tree(axis, block)
    elif isinstance(block, Equation):
        _equation(axis, block)
    axis.tick_params(labelsize=7)
    axis.set_title(getattr(block, "caption", ""), fontsize=9, color=_GREY, loc="left", parse_math=False, wrap=True)


def _grid(axis: Any, block: Grid) -> None:
    largest = max((abs(value) for row in block.values for value in row), default=0.0) or 1.0
    low, colours = (-largest, "RdBu") if block.signed else (0.0, "Blues")
    axis.imshow(block.values, cmap=colours, vmin=low, vmax=largest, aspect="auto", interpolation="nearest")
    for names, ticks, labels in (
        (block.columns, axis.set_xticks, axis.set_xticklabels),
        (block.rows, axis.set_yticks, axis.set_yticklabels),
    ):
        every = -(-len(names) // _NAMED)
        ticks(range(0, len(names), every))
        turn = {"rotation": 90} if names is block.columns and max(map(len, names), default=0) > 2 else {}
        labels([_literal(name) for name in names[::every]], fontsize=7, **turn)
    if len(block.columns) <= 16 and len(block.rows) <= 24:
        for row, values in enumerate(block.values):
            for column, value in enumerate(values):
                strong = abs(value) > 0.6 * largest
                weight = "bold" if (row, column) in block.framed else "normal"
                shown = f"{value:z.{block.digits}f}"
                axis.text(
                    column, row, shown, ha="center", va="center", fontsize=6, fontweight=weight,
                    color="white" if strong else "black",
                )  # fmt: skip


def _lines(axis: Any, block: Lines) -> None:
    for number, (name, values) in enumerate(block.lines.items()):
        style = ("-", "--", ":", "-.")[number // len(_COLOURS) % 4]
        axis.plot(values, style, marker="o", ms=3, color=_COLOURS[number % len(_COLOURS)], label=_literal(name))
    every = -(-len(block.steps) // 24)
    axis.set_xticks(range(0, len(block.steps), every))
    axis.set_xticklabels([_literal(step) for step in block.steps[::every]], fontsize=7)
    axis.set_xlabel(block.axis, fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _bars(axis: Any, block: Table) -> None:
    from matplotlib.patches import Patch

    shown, names = _numeric(block), [str(row[0]) for row in block.rows]
    thick, told, below = 0.8 / len(shown), [], False
    for number, column in enumerate(shown):
        place = block.columns.index(column)
        values = [_value(row[place]) for row in block.rows]
        rows = [row + (number - (len(shown) - 1) / 2) * thick for row in range(len(names))]
        own = _COLOURS[number % len(_COLOURS)]
        colours = [_ORANGE if value < 0 else own for value in values]
        axis.barh(rows, values, thick, color=colours)
        told.append(Patch(color=own, label=_literal(column)))
        below = below or min(values, default=0.0) < 0
    axis.set_yticks(range(len(names)))
    axis.set_yticklabels([_literal(name) for name in names], fontsize=7)
    axis.invert_yaxis()
    told += [Patch(color=_ORANGE, label="below zero")] if below else []
    axis.legend(handles=told, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _value(cell: Cell) -> float:
    return float(cell) if isinstance(cell, float | int) else 0.0


def _equation(axis: Any, block: Equation) -> None:
    """The weights as one bar, each part with its word."""
    begin = 0.0
    for word, weight in zip(block.words, block.weights, strict=True):
        axis.barh(0, weight, left=begin, color=_BLUE, alpha=0.25 + 0.6 * weight, edgecolor="white")
        if weight > 0.06:
            label = f"{weight:.2f}\n{word}"
            axis.text(begin + weight / 2, 0, _literal(label), ha="center", va="center", fontsize=7)
        begin += weight
    axis.set_yticks([0])
    axis.set_yticklabels([_literal(f"e({block.word}) =")], fontsize=8)
    axis.set_xlim(0, max(begin, 1e-9))
    axis.set_xticks([])


def _tree(axis: Any, block: Tree) -> None:
    rows = _flat(block.root, 0)
    for number, (depth, branch) in enumerate(rows):
        label = f"{branch.label}  {branch.probability:.2f}"
        weight = "bold" if branch.chosen else "normal"
        axis.text(depth, -number, _literal(label), fontsize=8, fontweight=weight, va="center")
    axis.set_xlim(-0.2, max(depth for depth, _ in rows) + 4)
    axis.set_ylim(-len(rows), 1)
    axis.axis("off")


def _flat(branch: Branch, depth: int) -> list[tuple[int, Branch]]:
    return [(depth, branch), *(one for child in branch.children for one in _flat(child, depth + 1))]


def _literal(text: str) -> str:
    """Dollar signs are signs here, not formulas."""
    return text.replace("$", r"\$")
