"""`regard train`: a recipe in, a model folder out, with a live line of progress."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.training.events import Event, Stepped
    from regard.training.recipe import Recipe
    from regard.training.workers import Workers


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (g2p, en-fr, ...) or FILE.toml.")],
    out: Annotated[Optional[Path], typer.Option(help="The run's folder. Default: runs/NAME.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option(help="Go on from the folder's checkpoint.")] = False,
    changes: Annotated[
        Optional[list[str]], typer.Option("--set", help="Change a field, e.g. training.max_steps=500.")  # noqa: UP045
    ] = None,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads of each. Default: all cores.")] = None,  # noqa: UP045
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine that share every batch.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto: the accelerator if there is one.")] = "auto",
) -> None:
    """Train a model. Stops when the validation score stops improving; Ctrl-C leaves a checkpoint to --resume from.

    Example: regard train g2p-quick --out runs/first --workers 2
    """
    from regard.training.recipe import load_recipe

    chosen = load_recipe(recipe, changes)
    folder = out or Path("runs") / chosen.name

    import torch

    if threads or workers > 1:
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // workers))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _companions(workers):
        _train(chosen, recipe, folder, resume, device)


@contextmanager
def _companions(count: int) -> Iterator[None]:
    """Start this very command `count` - 1 times more, each with its rank, as `torchrun` would.

    Where ranks are given already, this is one of those processes and starts none.
    """
    if count == 1 or "RANK" in os.environ:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "regard", *sys.argv[1:]]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    others = [subprocess.Popen(command, env={**os.environ, **rank}) for rank in ranks[1:]]
    os.environ |= ranks[0]
    try:
        yield
    finally:
        for other in others:
            try:
                other.wait(timeout=10)
            except subprocess.TimeoutExpired:
                other.kill()


def _train(chosen: Recipe, name: str, folder: Path, resume: bool, device: str) -> None:
    """One worker's part. Only the first one shows what happens and reports errors."""
    from regard.training import trainer
    from regard.training.workers import join_workers, leave_workers

    workers = join_workers(device)
    try:
        _drive(trainer.train(chosen, folder, resume, device, workers), workers, chosen, name, folder)
    except RegardError:
        if workers.leads:
            raise
        raise typer.Exit(2) from None
    finally:
        leave_workers()


def _drive(events: Any, workers: Workers, chosen: Recipe, name: str, folder: Path) -> None:
    """Show the events as they come. The first Ctrl-C ends the run at the next event, a second one at once."""

    def interrupt(number: int, _: object) -> None:
        workers.asked_to_stop = True
        # torchrun passes on what the terminal has sent us already.
        signal.signal(signal.SIGINT, signal.SIG_IGN if "TORCHELASTIC_RUN_ID" in os.environ else _at_once)

    before = signal.signal(signal.SIGINT, interrupt)
    last, stopped = 0, False
    try:
        with _Display(chosen, workers.leads) as display:
            for event in events:
                display.show(event)
                last = getattr(event, "step", last)
                stopped = workers.asked_to_stop if workers.count == 1 else getattr(event, "stopping", False)
                if stopped:
                    events.close()
                    break
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped:
        if workers.leads:
            print(f"stopped at step {last}; go on with: regard train {name} --out {folder} --resume")
        raise typer.Exit(130)


_at_once = signal.default_int_handler


class _Display:
    """A progress bar on a terminal; elsewhere a line now and then."""

    def __init__(self, chosen: Recipe, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.total = chosen.training.max_steps
        self.every = max(1, min(100, self.total // 20))
        console = Console(highlight=False, quiet=not shown)
        self.live = shown and console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s  left"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self.live,
        )
        self.task = self.progress.add_task(chosen.name, total=self.total, loss=float("nan"), speed=0.0)
        self.console = console
        self.loss = self.speed = self.seconds = 0.0

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        from regard.training.events import Finished, Started, Stepped, Validated

        if isinstance(event, Started):
            self.progress.update(self.task, completed=event.step)
            self.console.print(
                f"{event.parameters:,} parameters; {event.examples:,} examples, {event.tokens:,} tokens an epoch"
                + (f"; going on from step {event.step}" if event.step else "")
            )
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Validated):
            mark = "  best so far" if event.best else ""
            self.console.print(
                f"step {event.step}, {event.seconds / 60:.1f} min: validation loss {event.loss:.3f}, "
                f"{_listed(event.scores)}{mark}",
                soft_wrap=True,
            )
        elif isinstance(event, Finished):
            self.console.print(f"stopped: {event.reason}, after {event.seconds / 60:.1f} min")
            self.console.print(f"test part: {_listed(event.scores)}", soft_wrap=True)
            if event.signature:
                self.console.print(event.signature, soft_wrap=True)
            self.console.print(f"the model is in {event.folder}")

    def _step(self, event: Stepped) -> None:
        """Loss and speed are running means, so that one batch does not shake the line."""
        took = max(1e-6, event.seconds - self.seconds)
        speed = event.tokens / took
        fresh = self.seconds == 0.0
        self.loss = event.loss if fresh else 0.95 * self.loss + 0.05 * event.loss
        self.speed = speed if fresh else 0.95 * self.speed + 0.05 * speed
        self.seconds = event.seconds
        self.progress.update(self.task, completed=event.step, loss=self.loss, speed=self.speed)
        if not self.live and event.step % self.every == 0:
            self.console.print(f"step {event.step} of {self.total}: loss {self.loss:.3f}, {self.speed:,.0f} tokens/s")


def _listed(scores: dict[str, float]) -> str:
    from regard.training.card import score_name

    return ", ".join(f"{score_name(name)} {value:.2f}" for name, value in scores.items())
