"""Contenders side by side: each in a process of its own, blocked while another works, their runs interleaved.

Several OpenMP pools in one process slow each other two- to fourfold, and memory's speed drifts over minutes: compare
only what stands in one run.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
THREADS = len(os.sched_getaffinity(0))


class Contender:
    """A process that makes something to run once, then runs it whenever it is asked to."""

    def __init__(self, name: str, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        context.Process(target=_serve, args=(far, make, arguments), daemon=True).start()
        far.close()
        self._answer()

    def seconds(self, *work: Any) -> float:
        """How long one run of this work takes there."""
        self._pipe.send(work)
        return float(self._answer()[0])

    def result(self, *work: Any) -> Any:
        """What one run gives."""
        self._pipe.send(work)
        return self._answer()[1]

    def end(self) -> None:
        self._pipe.send(None)

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, str):
            sys.exit(f"{self.name}: {answer}")
        return answer


def _serve(pipe: Connection, make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    try:
        run = make(*arguments)
        pipe.send((0.0, None))
        while (work := pipe.recv()) is not None:
            begun = time.perf_counter()
            found = run(*work)
            pipe.send((time.perf_counter() - begun, found))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        raise


def interleaved(contenders: Sequence[Contender], rounds: int, *work: Any) -> dict[str, list[float]]:
    """Seconds of each, round by round, after one round that does not count."""
    seconds: dict[str, list[float]] = {one.name: [] for one in contenders}
    for number in range(rounds + 1):
        for one in contenders:
            found = one.seconds(*work)
            if number:
                seconds[one.name].append(found)
        print(".", end="", file=sys.stderr, flush=True)
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast ours is: the median over the rounds of the two times of a round."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def bandwidth() -> float:
    """Bytes a second that all threads together read from memory: 1 GiB, added up."""
    import torch

    values = torch.ones(1 << 28)
    found = []
    for _ in range(6):
        begun = time.perf_counter()
        values.sum()
        found.append(values.numel() * 4 / (time.perf_counter() - begun))
    return statistics.median(found)


def keep(kind: str, title: str, command: str, lines: Sequence[str]) -> None:
    """Put lines into RESULTS.md, in place of the last ones of their kind."""
    machine = f"{THREADS} threads, {_processor()}, Python {platform.python_version()}"
    block = (
        f"<!-- {kind} -->\n## {title}\n\n`{command}`, {machine}\n\n" + "\n".join(lines) + f"\n<!-- end of {kind} -->"
    )
    pattern = re.compile(rf"<!-- {kind} -->.*?<!-- end of {kind} -->", re.DOTALL)
    text = RESULTS.read_text(encoding="utf-8")
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    RESULTS.write_text(text, encoding="utf-8")


def _processor() -> str:
    """The processor, and which of its instructions for small numbers matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    has = [flag for flag in ("avx2", "avx512_vnni", "amx_int8") if re.search(rf"\b{flag}\b", text)]
    return f"{name[1] if name else platform.machine()} ({', '.join(has)})"
