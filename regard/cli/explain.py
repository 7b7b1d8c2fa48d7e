"""`regard explain`: the complete process for one query, number by number."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def explain(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="One text, or several that share a word.")],
    model: Annotated[str, typer.Option(help="A model of the package (en-fr, g2p) or a model folder.")] = "en-fr",
    layer: Annotated[int, typer.Option(help="Encoder layer, from 0.")] = 0,
    head: Annotated[Optional[int], typer.Option(help="Head shown in full, from 0. Default: the sharpest.")] = None,  # noqa: UP045
    query: Annotated[Optional[str], typer.Option(help="The word that asks. Default: the first shared word.")] = None,  # noqa: UP045
    html: Annotated[Optional[Path], typer.Option(help="Write one self-contained page.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead.")] = False,
) -> None:
    """Walk through self-attention on your own words, number by number.

    Example: regard explain "Python executes quickly" "Python crawls quickly"
    """
    from regard.cli.console import output_console, valid_text
    from regard.pipelines import load

    loaded = load(model)
    explanation = loaded.explain(*(valid_text(text) for text in texts), query=query, layer=layer, head=head)
    if html is not None:
        from regard.explain.render.page import page
        from regard.files import written_aside

        with written_aside(html) as aside:
            aside.write_text(
                page(
                    explanation.model,
                    explanation.texts,
                    explanation.answers,
                    explanation.walkthrough,
                    explanation.context,
                    explanation.alignments,
                ),
                encoding="utf-8",
            )
        print(f"wrote {html}", file=sys.stderr)
    if as_json:
        print(json.dumps(explanation.to_dict(), ensure_ascii=False))
    elif html is None:
        from regard.explain.render import terminal

        output_console().print(
            terminal.explanation(
                explanation.texts,
                explanation.answers,
                explanation.walkthrough,
                explanation.context,
                explanation.alignments,
            )
        )
