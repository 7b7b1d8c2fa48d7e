"""Writing so that a file or folder is either whole or not there: aside first, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from regard.errors import RegardError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, a file or (after mkdir) a folder; it takes `path`'s place when the block ends.

    If the block fails, what stood at `path` stays. A full or read-only disk raises RegardError.
    """
    aside, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not path.exists():  # an earlier write was killed between its two renames
            old.replace(path)
        _remove(aside)
        yield aside
        _replace(aside, path)
    except OSError as error:
        _remove(aside)
        raise RegardError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    except BaseException:
        _remove(aside)
        raise


def _replace(aside: Path, path: Path) -> None:
    if not aside.is_dir():
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        return
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    if path.exists():
        path.replace(old)
    try:
        aside.replace(path)
    except BaseException:
        if old.exists():
            old.replace(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
