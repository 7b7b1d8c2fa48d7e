"""`regard train`: a recipe in, a model folder out, with a live line of progress."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from regard.cli.progress import Display
from regard.errors import RegardError

if TYPE_CHECKING:
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
    seeds: Annotated[int, typer.Option(min=1, help="So many runs that differ in their seed; mean and deviation.")] = 1,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events into the run's folder.")] = False,
    price_per_hour: Annotated[Optional[float], typer.Option(min=0, help="Of the machine, for the meter.")] = None,  # noqa: UP045
) -> None:
    """Train a model. Stops when the validation score stops improving; Ctrl-C leaves a checkpoint to --resume from.

    Example: regard train g2p-quick --out runs/first --workers 2
    """
    from regard.training.recipe import load_recipe

    priced = [] if price_per_hour is None else [f"cost.price_per_hour={price_per_hour}"]
    chosen = load_recipe(recipe, [*(changes or []), *priced])
    folder = out or Path("runs") / chosen.name

    import torch

    if threads or workers > 1:
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // workers))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _companions(workers):
        _train(chosen, _Drive(recipe, folder, resume, tensorboard), device, seeds)


@dataclass(frozen=True)
class _Drive:
    """How a run is driven."""

    name: str
    """The recipe, as it was asked for."""
    folder: Path
    resume: bool
    tensorboard: bool


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


def _train(chosen: Recipe, drive: _Drive, device: str, seeds: int) -> None:
    """One worker's part. Only the first one shows what happens and reports errors."""
    from regard.training.workers import join_workers, leave_workers

    workers = join_workers(device)
    try:
        if seeds == 1:
            _run(chosen, drive, device, workers)
        else:
            _several(chosen, drive, device, workers, seeds)
    except RegardError:
        if workers.leads:
            raise
        raise typer.Exit(2) from None
    finally:
        leave_workers()


def _several(chosen: Recipe, drive: _Drive, device: str, workers: Workers, count: int) -> None:
    """A run for each seed, in folders of their own; where one was begun, --resume goes on with it."""
    from regard.training.seeds import begun, check_free, told_scores, with_seeds
    from regard.training.workers import restarted

    runs = with_seeds(chosen, drive.folder, count)
    if workers.leads and not drive.resume and not restarted():
        check_free(runs)
    for number, (recipe, folder) in enumerate(runs, start=1):
        if workers.leads:
            print(f"seed {recipe.training.seed} ({number} of {count}): {folder}")
        _run(recipe, replace(drive, folder=folder, resume=drive.resume and begun(folder)), device, workers)
    if workers.leads:
        print(told_scores([folder for _, folder in runs]))


def _run(chosen: Recipe, drive: _Drive, device: str, workers: Workers) -> None:
    """Show the events as they come. The first Ctrl-C ends the run at the next event, a second one at once."""
    from regard.training import trainer

    events: Any = trainer.train(chosen, drive.folder, drive.resume, device, workers)
    if drive.tensorboard and workers.leads:
        from regard.training.board import on_board

        events = on_board(events, drive.folder)

    def interrupt(number: int, _: object) -> None:
        workers.asked_to_stop = True
        # torchrun passes on what the terminal has sent us already.
        signal.signal(signal.SIGINT, signal.SIG_IGN if "TORCHELASTIC_RUN_ID" in os.environ else _at_once)

    before = signal.signal(signal.SIGINT, interrupt)
    last, stopped = 0, False
    try:
        with Display(chosen, workers.leads) as display:
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
            print(f"stopped at step {last}; go on with: regard train {drive.name} --out {drive.folder} --resume")
        raise typer.Exit(130)


_at_once = signal.default_int_handler
