"""`regard plot`: runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several are drawn over each other.")],
    out: Annotated[Path, typer.Option(help="FILE.png, FILE.svg or FILE.pdf.")] = Path("runs.png"),
) -> None:
    """Draw losses, scores, speed and cost of runs, while they train or afterwards.

    Example: regard plot runs/first runs/second --out both.png
    """
    from regard.training.plots import draw

    draw(runs, out)
    print(out)
