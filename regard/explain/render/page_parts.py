"""The pieces that the page is built from: slots for numbers, strips of coloured cells, tables, the line plot.

A slot's path leads into the page's data, `/` between the names and # for the chosen head; page.js reads the same paths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from regard.explain.words import Word

MINUS = "\N{MINUS SIGN}"
_COLUMNS = 64
_LEVELS = 8


class Slots:
    """HTML for values of the page's data, as they are for the chosen head."""

    def __init__(self, data: dict[str, Any], head: int) -> None:
        self.data, self.head = data, head

    def at(self, path: str, head: int | None = None) -> Any:
        """The value at a path; # is the chosen head or the one given."""
        found: Any = self.data
        for name in path.split("/"):
            key = str(self.head if head is None else head) if name == "#" else name
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found

    def head_name(self) -> str:
        return f"<span data-head>{self.head}</span>"

    def number(self, path: str, digits: int = 2) -> str:
        return f'<span class="number" data-number="{path}" data-digits="{digits}">{fixed(self.at(path), digits)}</span>'

    def text(self, path: str) -> str:
        return f'<span data-text="{path}">{escape(self.at(path))}</span>'

    def bar(self, path: str) -> str:
        """A bar for a share; the number stands beside it."""
        return f'<span class="bar" aria-hidden="true" data-share="{path}" style="--share:{self.at(path):.3f}"></span>'

    def cell(self, path: str) -> str:
        """A coloured table cell for a share; the same in every head."""
        return shade(self.at(path))

    def scale(self, paths: Iterable[str]) -> float:
        """The largest size of a value in these vectors, over all heads: where the colour is fullest."""
        heads = range(len(self.data["weights"]))
        chosen = [self.at(path, head) for path in paths for head in (heads if "#" in path else heads[:1])]
        return max((abs(value) for vector in chosen for value in vector), default=0.0) or 1.0

    def strip(self, path: str, label: str, scale: float) -> str:
        """A vector as coloured cells, 64 to a row."""
        values = self.at(path)
        columns = min(_COLUMNS, len(values))
        rows = math.ceil(len(values) / columns)
        return (
            f'<svg class="strip" role="img" aria-label="{label}, {len(values)} values" data-strip="{path}" '
            f'data-scale="{scale:.4g}" style="--columns:{columns};--rows:{rows}" viewBox="0 0 {columns} {rows}" '
            f'preserveAspectRatio="none">{_cells(values, columns, scale)}</svg>'
        )

    def strips(self, rows: Sequence[tuple[str, ...]], heading: str = "", scale: float | None = None) -> str:
        """Vectors below each other on one colour scale: (label, path) or (label, path, what stands behind)."""
        scale = self.scale(row[1] for row in rows) if scale is None else scale
        lines = "".join(
            f'<div class="row"><span class="label">{label}</span>{self.strip(path, plain(label), scale)}'
            f'<span class="behind">{"".join(behind)}</span></div>'
            for label, path, *behind in rows
        )
        title = f"<b>{heading}</b> · " if heading else ""
        return f'<figure class="strips">{lines}<figcaption>{title}full colour: ±{scale:.2f}</figcaption></figure>'


def shade(share: float, framed: bool = False) -> str:
    """A share of 0 to 1, its cell as strongly coloured."""
    return f'<span class="cell{" framed" * framed}" style="--share:{share:.3f}">{fixed(share)}</span>'


def word_label(words: Sequence[Word], number: int, text: int = 0, piece: str | None = None) -> str:
    """A word that lights up wherever it stands; `text` is the number of its text."""
    part = f" <small>{escape(piece)}</small>" if piece is not None else ""
    return f'<span class="word" data-word="{text}.{number}"><bdi>{escape(words[number].text)}</bdi></span>{part}'


def step(number: int, title: str, formula: str, filled: str, explained: str, *figures: str) -> str:
    """One step: what is computed, the formula, the formula with its numbers, and the picture."""
    numbers = f'<p class="filled">{filled}</p>' if filled else ""
    return f"""<section class="step" aria-labelledby="step-{number}"><div class="told">
<h3 id="step-{number}"><span class="count">{number}</span> {title}</h3>
<p class="formula">{formula}</p>{numbers}<p>{explained}</p></div>
<div class="shown">{"".join(figures)}</div></section>"""


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str, kind: str, captioned: bool = True
) -> str:
    """A table whose first column names the rows; it scrolls inside itself where the page is narrow.

    The caption is read out in any case; it stands above the table unless a heading says the same.
    """
    head = "".join(f'<th scope="col">{column}</th>' if column else "<td></td>" for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    above = f"<caption>{caption}</caption>" if captioned else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="{kind}">'
        f"{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def chip(label: str, number: str) -> str:
    return f"<li>{label} {number}</li>"


def fixed(number: int | float, digits: int = 2) -> str:
    """A number with a true minus sign, and none before zero."""
    return f"{number:z.{digits}f}".replace("-", MINUS)


def compact(value: Any, digits: int) -> Any:
    """The same lists and dictionaries with numbers of so many significant digits."""
    if isinstance(value, dict):
        return {name: compact(one, digits) for name, one in value.items()}
    if isinstance(value, list):
        return [compact(one, digits) for one in value]
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded == int(rounded) else rounded


def plain(label: str) -> str:
    """A label without its tags, still escaped."""
    return " ".join(re.sub("<[^>]*>", "", label).split())


def _cells(values: Sequence[float], columns: int, scale: float) -> str:
    """Paths of equal colour: the sign is a hue, the size one of eight strengths. Zeros stay empty."""
    drawn: dict[int, str] = {}
    for place, value in enumerate(values):
        level = max(-_LEVELS, min(_LEVELS, round(value / scale * _LEVELS)))
        if level:
            drawn[level] = drawn.get(level, "") + f"M{place % columns} {place // columns}h1v1h-1z"
    return "".join(
        f'<path class="{"above" if level > 0 else "below"}" fill-opacity="{abs(level) / _LEVELS:.3g}" d="{path}"/>'
        for level, path in sorted(drawn.items())
    )
