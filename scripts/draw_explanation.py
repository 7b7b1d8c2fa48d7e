"""Draw what `regard explain` prints as docs/explain.svg: python scripts/draw_explanation.py"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

import regard
from regard.explain.render import terminal

TEXTS = ("Python executes quickly", "Python crawls quickly")
COMMAND = 'regard explain "Python executes quickly" "Python crawls quickly"'
# Dark text on white, so that the picture reads on any page.
LIGHT = TerminalTheme(
    (255, 255, 255),
    (40, 40, 40),
    [
        (40, 40, 40),
        (176, 0, 32),
        (0, 110, 60),
        (150, 100, 0),
        (0, 80, 160),
        (120, 40, 140),
        (0, 105, 148),
        (90, 90, 90),
    ],
)


def main() -> None:
    found = regard.load().explain(*TEXTS)
    console = Console(record=True, width=124, file=io.StringIO(), highlight=False)
    console.print(terminal.explanation(found.texts, found.answers, found.results))
    drawn = console.export_svg(title=COMMAND, theme=LIGHT)
    # No fonts from elsewhere: the picture needs nothing but itself.
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "monospace")
    Path("docs/explain.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
