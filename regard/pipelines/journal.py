"""What a long run has brought to the disk, so that another can go on from there, and nobody else writes meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.files import written_aside

_HEAD = 1 << 20
_PARTS = {"input": "the input", "model": "the model"}


@dataclass
class Journal:
    """Records that are done, those among them without an answer, bytes of each file; and of which run."""

    path: Path
    run: dict[str, Any]
    done: int = 0
    bad: int = 0
    read: str = ""
    """Digest of the records read so far."""
    sizes: dict[str, int] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def open(cls, output: Path, run: dict[str, Any], restart: bool) -> Journal:
        """That of an earlier run of the same, or a new one; RegardError where the earlier one was another."""
        path = output.with_name(output.name + ".journal")
        run = json.loads(json.dumps(run, default=str))
        if restart:
            path.unlink(missing_ok=True)
        if not path.exists():
            return cls(path, run)
        try:
            found = cls(path, **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, OSError) as error:
            raise RegardError(f"{path} is damaged; --restart begins anew") from error
        if changed := _difference(found.run, run):
            raise RegardError(f"{output} was begun by another run: {changed} has changed; --restart begins anew")
        return found

    def note(self) -> None:
        """To the disk. What it speaks of is there already."""
        with written_aside(self.path) as aside:
            kept = {name: value for name, value in asdict(self).items() if name != "path"}
            aside.write_text(json.dumps(kept), encoding="utf-8")
        sync_folder(self.path.parent)


def identity(path: Path) -> dict[str, Any]:
    """What tells a file from another at once: its size, and a digest of its beginning."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "head": hashlib.sha256(file.read(_HEAD)).hexdigest()}


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Nobody else writes it meanwhile: RegardError if someone does. The hold ends with the process, however it ends."""
    path = output.with_name(output.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(file.fileno()).st_ino == path.stat().st_ino  # else it was removed while we asked
        except ImportError:  # no such locks on this system
            ours = True
        except OSError:
            ours = False
        if not ours:
            raise RegardError(f"another run is writing {output}")
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def sync_folder(folder: Path) -> None:
    """New names in a folder, to the disk."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first thing that two runs do not share, by name."""
    for part, name in _PARTS.items():
        if before.get(part) != now[part]:
            return name
    then, asked = before.get("settings", {}), now["settings"]
    names = sorted(name for name in then.keys() | asked.keys() if then.get(name) != asked.get(name))
    return f"the setting {' and '.join(names)}" if names else None
