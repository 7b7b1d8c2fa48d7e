"""One thread computes; requests wait for it in a line, and those that ask alike are answered together.

One thread, because a model under an edit is another model while it runs, and because two computations at a time on the
same cores are no faster than one after the other with twice the batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from regard.errors import RegardError


class BusyError(Exception):
    """The line is full: come back later."""


class LateError(Exception):
    """The answer took longer than anyone waits."""


@dataclass(eq=False)
class Job:
    """Items to work on. Jobs with the same key, unless it is None, may be done in one go."""

    work: Callable[[list[Any]], list[Any]]
    items: list[Any]
    key: Hashable = None
    future: Future[list[Any]] = field(default_factory=Future)


class Engine:
    """The thread and the line before it."""

    def __init__(self, waiting: int, batch: int, seconds: float) -> None:
        self.waiting, self.batch, self.seconds = waiting, batch, seconds
        self.batches: Callable[[int], None] = lambda _: None
        """Told how many texts were answered together."""
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="regard-engine", daemon=True)
        self._thread.start()

    @property
    def length(self) -> int:
        """How many requests wait."""
        return len(self._line)

    async def run(self, work: Callable[[], Any], patient: bool = False) -> Any:
        """One piece of work when its turn comes. `patient`: however long it takes and however long the line is."""
        return (await self._done(Job(lambda _: [work()], [None]), patient))[0]

    async def together(self, key: Hashable, work: Callable[[list[Any]], list[Any]], items: list[Any]) -> list[Any]:
        """An answer for each item; other requests' items of the same key may be worked on at the same time."""
        return await self._done(Job(work, items, key))

    def stop(self) -> None:
        """What runs is finished, what waits is not begun."""
        with self._changed:
            self._open = False
            for job in self._line:
                job.future.cancel()
            self._line.clear()
            self._changed.notify()
        self._thread.join(timeout=self.seconds)

    async def _done(self, job: Job, patient: bool = False) -> list[Any]:
        with self._changed:
            if not self._open or (len(self._line) >= self.waiting and not patient):
                raise BusyError
            self._line.append(job)
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), None if patient else self.seconds)
        except TimeoutError as error:
            raise LateError from error
        finally:
            with self._changed:  # given up, or the client has gone: nobody waits for it any more
                if job in self._line:
                    self._line.remove(job)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._line:
                    self._changed.wait()
                if not self._open:
                    return
                jobs = self._next()
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs:
                _work(jobs)
                if jobs[0].key is not None:
                    self.batches(sum(len(job.items) for job in jobs))

    def _next(self) -> list[Job]:
        """The first of the line, and those behind it that ask the same."""
        first = self._line.popleft()
        if first.key is None:
            return [first]
        chosen, count = [first], len(first.items)
        for job in list(self._line):
            if job.key == first.key and count + len(job.items) <= self.batch:
                chosen.append(job)
                count += len(job.items)
                self._line.remove(job)
        return chosen


def _work(jobs: list[Job]) -> None:
    """Answer them in one go; where an item is wrong each alone, so that only its own request hears of it."""
    try:
        answers = jobs[0].work([item for job in jobs for item in job.items])
    except RegardError as error:
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        for job in jobs:
            _work([job])
        return
    except BaseException as error:
        for job in jobs:
            job.future.set_exception(error)
        return
    for job in jobs:
        job.future.set_result(answers[: len(job.items)])
        answers = answers[len(job.items) :]
