"""A program for test_cut_runs.py: runs of a recipe in a folder, by so many processes each, stopped, killed and gone on.

Argument: the stages, as JSON; see `Stage`.
"""

import errno
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import torch
from forked import run, run_killed

from regard.errors import RegardError
from regard.training import cut_checkpoints, scoring  # noqa: F401 (what runs need, before they are forked)
from regard.training.cut import CutPlacement  # noqa: F401
from regard.training.events import Started, Stepped
from regard.training.recipe import load_recipe
from regard.training.tasks import text_to_text  # noqa: F401
from regard.training.trainer import train
from regard.training.workers import join_workers, leave_workers


@dataclass
class Stage:
    run: str
    processes: int = 1
    changes: list[str] = field(default_factory=list)
    stop: int = 0
    """The step after which it is stopped; 0: at its end."""
    resume: bool = False
    kills: int = 0
    seed: int = 0
    full: int = 0
    """The disk of the last process has no room after so many checkpoints."""
    damage: str = ""
    """A file of the run in which a bit is turned over before."""


def act(stage: Stage) -> dict:
    """What is told of it: where it began, the losses of its steps, or an error."""
    workers = join_workers("cpu")
    if stage.full and workers.rank == workers.count - 1:
        cut_checkpoints._digest = partial(room_for, stage.full, count(), cut_checkpoints._digest)
    told: dict = {"losses": {}, "error": ""}
    try:
        events = train(load_recipe("tiny.toml", stage.changes), Path(stage.run), stage.resume, "cpu", workers)
        for event in events:
            if isinstance(event, Started):
                told |= {"begun": event.step, "note": event.note}
            if isinstance(event, Stepped):
                told["losses"][event.step] = event.loss
                if event.step == stage.stop:
                    events.close()
    except RegardError as error:
        told["error"] = str(error)
        if stage.kills:
            raise
    leave_workers()
    return told


def room_for(most: int, written: Iterator[int], digest: Callable[[Path], str], path: Path) -> str:
    if next(written) >= most:
        raise OSError(errno.ENOSPC, "No space left on device")
    return digest(path)


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # the first optimiser imports a lot
    for number, given in enumerate(json.loads(sys.argv[1])):
        stage = Stage(**given)
        if stage.damage:
            damaged(Path(stage.run) / stage.damage)
        into = Path(f"{number}.json")
        if stage.kills:
            growing = Path(stage.run) / "log.jsonl"
            run_killed(stage.processes, partial(act, stage), into, stage.kills, random.Random(stage.seed), growing)
        else:
            run(stage.processes, partial(act, stage), into)
