"""Results as one HTML page, or a part of one: every block drawn with plain HTML and SVG, no script, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from regard.explain.render.page_parts import fixed, shade, table
from regard.explain.result import Block, Branch, Cell, Equation, Grid, Lines, Note, Result, Table, Tree, bar_scales

_WIDEST = 40
"""Columns of a grid up to which its numbers are written; beyond, it is a picture."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def result_page(results: Sequence[Result], name: str, texts: Sequence[str] = (), answers: Sequence[str] = ()) -> str:
    """One page of several results. `name` is the model's; texts stand above with what the model answers to them."""
    shown = "".join(section(result) for result in results)
    title = escape(texts[0] if texts else results[0].title)
    pairs = "".join(
        f"<div><dt><bdi>{escape(text)}</bdi></dt><dd>{f'→ <bdi>{escape(answer)}</bdi>' if answer else ''}</dd></div>"
        for text, answer in zip(texts, answers or [""] * len(texts), strict=True)
    )
    style = (files("regard.explain.render") / "page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · {escape(name)} · regard</title>
<style>{style}</style>
</head>
<body>
<header><p class="eyebrow">{" · ".join(escape(result.view) for result in results)} · model <b>{escape(name)}</b></p>
<h1>{title}</h1>{f'<dl class="answers">{pairs}</dl>' if pairs else ""}</header>
<main>{shown}</main>
</body>
</html>
"""


def section(result: Result) -> str:
    """One result as a section of a page."""
    parts = "".join(drawn(block) for block in result.blocks())
    return f'<section class="wide"><h2>{escape(result.title)}</h2>{parts}</section>'


def fragment(result: Result) -> str:
    """One result for a notebook cell: it brings its style, which reaches nothing outside it."""
    style = (files("regard.explain.render") / "page.css").read_text(encoding="utf-8")
    style = style.replace(":root", ":scope").replace("\nbody {", "\n:scope {")
    return f'<div class="regard"><style>@scope (.regard) {{ {style} }}</style>{section(result)}</div>'


def drawn(block: Block) -> str:
    """One block."""
    if isinstance(block, Note):
        kind = "" if block.holds is None else f' class="proof {"holds" if block.holds else "fails"}"'
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Equation):
        return _equation(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Lines):
        return _lines(block)
    if isinstance(block, Tree):
        return f'<h3>{escape(block.caption)}</h3><ul class="tree">{_branch(block.root)}</ul>'
    return _numbers(block) if len(block.columns) <= _WIDEST else _picture(block)


def _equation(block: Equation) -> str:
    """e(Python) = 0.41 e(Python) + ..., each term as strongly coloured as its weight."""
    terms = " + ".join(
        f'<span class="term" style="--share:{weight:.3f}">{fixed(weight)}&nbsp;e({escape(word)})</span>'
        for word, weight in zip(block.words, block.weights, strict=True)
    )
    caption = f"<figcaption><bdi>{escape(block.caption)}</bdi></figcaption>"
    return f'<figure>{caption}<p class="equation">e({escape(block.word)}) = {terms}</p></figure>'


def _table(block: Table) -> str:
    scales, columns, rows = bar_scales(block), [escape(block.columns[0])], []
    for column in block.columns[1:]:
        columns += [escape(column), ""] if column in scales else [escape(column)]
    for first, *rest in block.rows:
        cells = [f"<bdi>{escape(_shown(first, block.digits))}</bdi>"]
        for column, cell in zip(block.columns[1:], rest, strict=True):
            cells.append(f"<bdi>{escape(_shown(cell, block.digits))}</bdi>")
            if column in scales:
                share = cell / scales[column] if isinstance(cell, float | int) else 0.0
                sign = " below" if share < 0 else ""
                cells.append(f'<span class="bar{sign}" aria-hidden="true" style="--share:{abs(share):.3f}"></span>')
        rows.append(cells)
    return table(columns, rows, escape(block.caption), "layers")


def _numbers(block: Grid) -> str:
    largest = max((abs(value) for row in block.values for value in row), default=0.0) or 1.0
    rows = []
    for number, (name, values) in enumerate(zip(block.rows, block.values, strict=True)):
        cells = [_cell(value, largest, block, (number, place) in block.framed) for place, value in enumerate(values)]
        rows.append([f"<bdi>{escape(name)}</bdi>", *cells])
    columns = ["", *(f"<bdi>{escape(column)}</bdi>" for column in block.columns)]
    return table(columns, rows, escape(block.caption), "heat")


def _cell(value: float, largest: float, block: Grid, framed: bool) -> str:
    if not block.signed and largest <= 1.0 and block.digits == 2:
        return shade(value, framed)
    sign = " below" if value < 0 else " above" if block.signed else ""
    share = abs(value) / largest
    return (
        f'<span class="cell{sign}{" framed" * framed}" style="--share:{share:.3f}">{fixed(value, block.digits)}</span>'
    )


def _picture(block: Grid) -> str:
    """A wide grid as squares; each tells its number where one points at it."""
    largest = max((abs(value) for row in block.values for value in row), default=0.0) or 1.0
    size, left, top = 10, 90, 6
    width, height = left + size * len(block.columns), top + size * len(block.rows)
    drawn = ""
    for number, values in enumerate(block.values):
        name = escape(block.rows[number])
        drawn += f'<text x="{left - 4}" y="{top + size * number + 8}" text-anchor="end">{name[:16]}</text>'
        for place, value in enumerate(values):
            share = abs(value) / largest
            if share >= 0.02:
                kind = "below" if value < 0 else "above"
                told = f"{name} · {escape(block.columns[place])}: {fixed(value, 3)}"
                drawn += (
                    f'<rect class="{kind}" x="{left + size * place}" y="{top + size * number}" width="{size}" '
                    f'height="{size}" fill-opacity="{share:.2f}"><title>{told}</title></rect>'
                )
    label = escape(block.caption)
    return (
        f'<h3>{label}</h3><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<svg class="plot" style="width:{width}px" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{label}">{drawn}</svg></div>'
    )


def _lines(block: Lines) -> str:
    """A line plot, and the numbers below it."""
    values = [value for line in block.lines.values() for value in line]
    low, high = min(values), max(values)
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, low + 0.5)
    width, height, left, top = 420, 150, 52, 10
    across = [left + width * place / max(1, len(block.steps) - 1) for place in range(len(block.steps))]
    drawn = "".join(
        f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>'
        f'<text x="{left - 5}" y="{y + 3.5}" text-anchor="end">{_short(value)}</text>'
        for value, y in ((high, top), ((low + high) / 2, top + height / 2), (low, top + height))
    )
    every = -(-len(block.steps) // 12)
    drawn += "".join(
        f'<text x="{x:.0f}" y="{top + height + 15}" text-anchor="middle">{escape(step)}</text>'
        for place, (x, step) in enumerate(zip(across, block.steps, strict=True))
        if place % every == 0
    )
    for number, (name, line) in enumerate(block.lines.items()):
        points = [(x, top + height * (high - value) / (high - low)) for x, value in zip(across, line, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
        end = f'<text x="{points[-1][0] + 7:.0f}" y="{points[-1][1] + 4:.0f}">{escape(name)}</text>'
        drawn += f'<g class="line line-{number % 4}"><polyline points="{path}"/>{dots}{end}</g>'
    caption = escape(block.caption)
    rows = [[f"<bdi>{escape(name)}</bdi>", *(_short(value) for value in line)] for name, line in block.lines.items()]
    return (
        f'<h3>{caption}</h3><svg class="plot" viewBox="0 0 {left + width + 90} {top + height + 34}" role="img" '
        f'aria-label="{caption}; the table below has the numbers">{drawn}'
        f'<text x="{left + width / 2:.0f}" y="{top + height + 30}" text-anchor="middle">{escape(block.axis)}</text>'
        "</svg>" + table([escape(block.axis), *map(escape, block.steps)], rows, caption, "layers", captioned=False)
    )


def _branch(branch: Branch) -> str:
    inner = "".join(_branch(child) for child in branch.children)
    label = f'<span class="bar" style="--share:{branch.probability:.3f}"></span><bdi>{escape(branch.label)}</bdi>'
    label = f"<b>{label}</b>" if branch.chosen else label
    return f"<li>{label} {fixed(branch.probability)}{f'<ul>{inner}</ul>' if inner else ''}</li>"


def _short(value: float) -> str:
    return fixed(value, 3 if abs(value) < 10 else 1)


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    return fixed(cell, digits) if isinstance(cell, float) else str(cell)
