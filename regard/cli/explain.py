"""`regard explain`: the complete process for one query, or any other view, number by number."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from regard.explain.result import Result


def explain(
    texts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[MODEL] TEXT...", help="One text or several; before them, if one likes, a model."),
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="A model of the package (en-fr, g2p) or a folder.")] = None,  # noqa: UP045
    view: Annotated[Optional[list[str]], typer.Option(help="A view (see --list); can be given again.")] = None,  # noqa: UP045
    list_views: Annotated[bool, typer.Option("--list", help="List the views and stop.")] = False,
    layer: Annotated[Optional[int], typer.Option(help="Layer, from 0. Example: --layer 2")] = None,  # noqa: UP045
    head: Annotated[Optional[int], typer.Option(help="Head, from 0. Default: the sharpest.")] = None,  # noqa: UP045
    query: Annotated[Optional[str], typer.Option(help="The word that asks. Default: the first shared word.")] = None,  # noqa: UP045
    position: Annotated[Optional[int], typer.Option(help="The token that asks, by number from 0.")] = None,  # noqa: UP045
    kind: Annotated[Optional[str], typer.Option(help="Which attention: encoder, decoder or cross.")] = None,  # noqa: UP045
    method: Annotated[Optional[str], typer.Option(help="How to measure. Example: --method rollout")] = None,  # noqa: UP045
    answer: Annotated[Optional[str], typer.Option(help="The word or class to follow. Example: --answer le")] = None,  # noqa: UP045
    count: Annotated[Optional[int], typer.Option(help="How many words to list.")] = None,  # noqa: UP045
    beams: Annotated[Optional[int], typer.Option(help="Show the beam as a tree (generation).")] = None,  # noqa: UP045
    tokens: Annotated[Optional[int], typer.Option(help="How far to go on (generation).")] = None,  # noqa: UP045
    edit: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help='A change. Example: --edit "encoder.layers.0.self_attention head=3"'),
    ] = None,
    sweep: Annotated[Optional[str], typer.Option(help="One change everywhere: heads, or patches of text 2.")] = None,  # noqa: UP045
    html: Annotated[Optional[Path], typer.Option(help="Write one self-contained page.")] = None,  # noqa: UP045
    png: Annotated[Optional[Path], typer.Option(help="Write a figure (PNG, SVG or PDF).")] = None,  # noqa: UP045
    csv: Annotated[Optional[Path], typer.Option(help="Write the numbers as CSV.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead.")] = False,
    json_file: Annotated[Optional[Path], typer.Option(help="Write the numbers as JSON.")] = None,  # noqa: UP045
) -> None:
    """Walk through self-attention on your own words, number by number, or ask another view.

    Example: regard explain "Python executes quickly" "Python crawls quickly"
    Example: regard explain en-fr "Open the file" --view lens --view heads --html lens.html
    """
    if list_views:
        _list()
        return
    name, chosen = _model_and_texts(model, texts or [])
    given = {"query": position if query is None else query, "layer": layer, "head": head, "kind": _kind(kind)}
    given |= {"method": method, "answer": answer, "count": count, "sweep": sweep, "beams": beams, "tokens": tokens}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if edit:
        options["edits"] = tuple(edit)
    loaded, heading, results, numbers = _asked(name, chosen, view or [], options)
    written = _write(loaded, heading, results, numbers, html, png, csv, json_file)
    if as_json:
        print(json.dumps(numbers, ensure_ascii=False))
    elif not written:
        from regard.cli.console import output_console
        from regard.explain.render import terminal

        output_console().print(terminal.explanation(heading[1], heading[2], results))


Heading = tuple[str, list[str], list[str]]
"""The model's name, the texts, and what it answers to them."""


def _asked(
    name: str, texts: list[str], views: Sequence[str], options: dict[str, Any]
) -> tuple[Any, Heading, list[Result], dict[str, Any]]:
    """The model, the results, and all numbers as one object."""
    from regard.errors import RegardError
    from regard.explain.views import VIEWS
    from regard.pipelines import load

    loaded: Any = load(name)
    if not texts:
        raise RegardError("give at least one text to explain")
    if not views:
        known = {"query", "layer", "head"}
        if more := sorted(set(options) - known):
            takers = " or ".join(f"--view {name}" for name, view in VIEWS.items() if more[0] in view.options)
            option = "edit" if more[0] == "edits" else more[0]
            raise RegardError(f"--{option} needs a view that takes it: add {takers or '--view generation'}")
        found = loaded.explain(*texts, **{"layer": 0, **options})
        return loaded, (found.model, found.texts, found.answers), found.results, found.to_dict()
    with _progress(options):
        results = loaded.ask(views, *texts, **options)
        answers = loaded.answers(texts)
    numbers = {"model": name, "texts": texts, "answers": answers, "views": [result.to_dict() for result in results]}
    return loaded, (name, texts, answers), results, numbers


def _write(
    loaded: Any,
    heading: Heading,
    results: Sequence[Result],
    numbers: dict[str, Any],
    html: Path | None,
    png: Path | None,
    csv: Path | None,
    json_file: Path | None,
) -> bool:
    """Write the files that were asked for, each whole or not at all; whether there were any."""
    from regard.files import written_aside

    for path in (html, png, csv, json_file):
        if path is None:
            continue
        with written_aside(path) as aside:
            if path is png:
                _draw(results, aside, path)
            else:
                kind = "html" if path is html else "csv" if path is csv else "json"
                text = _text(loaded, heading, results, numbers, kind)
                aside.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    return any(path is not None for path in (html, png, csv, json_file))


def _text(loaded: Any, heading: Heading, results: Sequence[Result], numbers: dict[str, Any], kind: str) -> str:
    from regard.explain.render.page import page
    from regard.explain.result import as_csv

    if kind == "html":
        from regard.serve.kept import can_keep, kept_page

        return kept_page(loaded, heading[1], results) if can_keep(loaded) else page(*heading, results)
    return as_csv(results) if kind == "csv" else json.dumps(numbers, ensure_ascii=False, indent=1) + "\n"


def _draw(results: Sequence[Result], aside: Path, path: Path) -> None:
    from regard.errors import RegardError
    from regard.explain.render.figure import figure

    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise RegardError(f"{path} is no picture: its name ends in .png, .svg or .pdf")
    figure(results).savefig(aside, format=kind, dpi=150)


def _model_and_texts(model: str | None, texts: list[str]) -> tuple[str, list[str]]:
    """The first of several texts may be a model: a name of the package, a folder or a GGUF file."""
    from regard.cli.console import valid_text
    from regard.pretrained import DEFAULT, names

    given = [valid_text(text) for text in texts]
    if model is None and len(given) > 1:
        first = given[0]
        if first in names() or Path(first).is_dir() or (first.endswith(".gguf") and Path(first).is_file()):
            return first, given[1:]
    return model or DEFAULT, given


def _kind(kind: str | None) -> str | None:
    from regard.errors import unknown

    if kind not in (None, "encoder", "decoder", "cross"):
        raise unknown("kind of attention", str(kind), ["encoder", "decoder", "cross"])
    return kind


@contextmanager
def _progress(options: dict[str, Any]) -> Iterator[None]:
    """A bar on standard error while a sweep runs, if somebody looks."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("runs", total=None)
        options["progress"] = lambda done, total: bar.update(task, completed=done, total=total)
        yield


def _list() -> None:
    from rich.table import Table

    from regard.cli.console import output_console
    from regard.explain.views import VIEWS

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("view", "what it asks", "options", "models"):
        table.add_column(column)
    for name, view in VIEWS.items():
        options = " ".join(f"--{option.removesuffix('s') if option == 'edits' else option}" for option in view.options)
        table.add_row(name, view.asks, options, view.models)
    output_console().print(table)
