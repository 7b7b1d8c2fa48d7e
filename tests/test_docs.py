"""The commands and examples of the README and of docs/ run, in order, page by page, in a fresh folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command that trains is run for a few steps of a small model, on a little data.
SMALL = (
    "--set training.max_steps=2 --set training.validate_every=2 --set model.d_model=16 --set model.ffn_dim=16 "
    "--set score.valid_examples=4 --set score.test_examples=4"
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks that are meant to run."""
    found = re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(kind, text) for kind, text in found if "pip install" not in text]


def links(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_examples_run(page, tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    for kind, text in blocks(page):
        command = [sys.executable, "-W", "error", "-c", text] if kind == "python" else ["bash", "-ec", _small(text)]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, f"{text}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_lead_somewhere(page):
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def _small(text: str) -> str:
    """Training commands, cut to a few steps; later settings win, so what the page sets is kept where it can be."""
    return re.sub(r"^(regard train \S+)(.*)$", rf"\1 {SMALL}\2", text, flags=re.MULTILINE)
