"""The house keeps its budgets, and its text speaks of nothing but the project."""

import ast
import inspect
from pathlib import Path

import pytest

import regard

PACKAGE = Path(regard.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_says_what_it_is_and_is_not_long(path):
    assert ast.get_docstring(tree(path)), "a file says its subject in its first lines"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("room", ["attention.py", "layers"])
def test_a_module_of_the_mathematics_is_small(room):
    files = [PACKAGE / room] if room.endswith(".py") else sorted((PACKAGE / room).glob("*.py"))
    for path in files:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{node.name} is longer than 80 lines"
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                        assert len(method.args.args) - 1 <= 10


def test_public_names_are_there_and_documented():
    for name in regard.__all__:
        value = getattr(regard, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        regard.nothing  # noqa: B018


def test_importing_regard_is_quick():
    import subprocess
    import sys

    code = "import sys, regard; assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
