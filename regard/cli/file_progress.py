"""How far a run over a file is: a bar on a terminal, else a plain line now and then; both on standard error."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from regard.pipelines.bulk import Progress

_SECONDS_BETWEEN = 30


class Shown:
    """A context whose `tell` shows progress."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Shown:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._bar = Progress(BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"),
                                 console=Console(file=sys.stderr))  # fmt: skip
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, progress: Progress) -> None:
        """Called after every window."""
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.share, description=line_of(progress))
        elif time.monotonic() - self._last > _SECONDS_BETWEEN:
            self._last = time.monotonic()
            print(f"{progress.share:.1%}, {line_of(progress)}", file=sys.stderr)

    def ended(self, progress: Progress, output: Path) -> None:
        """The counts."""
        bad = f", {progress.bad:,} without an answer: see {output}.errors.jsonl" if progress.bad else ""
        print(f"{progress.done:,} records{bad} ({_rate(progress)})", file=sys.stderr)


def line_of(progress: Progress) -> str:
    """Records, how many a second, time left, and how many could not be answered."""
    left = "" if progress.seconds_left is None else f", {clock(progress.seconds_left)} left"
    bad = f", {progress.bad:,} without an answer" if progress.bad else ""
    return f"{progress.done:,} records, {_rate(progress)}{left}{bad}"


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(progress: Progress) -> str:
    rate = progress.records_per_second
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
