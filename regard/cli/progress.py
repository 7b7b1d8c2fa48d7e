"""What a run shows while it goes: a progress bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.training.events import Event, Measured, Stepped
    from regard.training.recipe import Recipe


class Display:
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
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]}  left"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self.live,
        )
        self.task = self.progress.add_task(chosen.name, total=self.total, loss=float("nan"), speed="")
        self.console = console
        self.loss = self.speed = self.flops = self.seconds = 0.0
        self.last: Measured | None = None

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        from regard.training.events import Finished, Measured, Started, Stepped, Validated
        from regard.training.told import told_cost

        if isinstance(event, Started):
            if event.note:
                self.console.print(event.note, soft_wrap=True)
            self.progress.update(self.task, completed=event.step)
            self.console.print(
                f"{event.parameters:,} parameters; {event.examples:,} examples, {event.tokens:,} tokens an epoch"
                + (f"; going on from step {event.step}" if event.step else "")
            )
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Measured):
            self.last = event
        elif isinstance(event, Validated):
            mark = "  best so far" if event.best else ""
            self.console.print(
                f"step {event.step}, {event.seconds / 60:.1f} min: validation loss {event.loss:.3f}, "
                f"{listed(event.scores)}{mark}",
                soft_wrap=True,
            )
            if event.verdict:
                self.console.print(f"  {event.verdict}", soft_wrap=True)
        elif isinstance(event, Finished):
            self.console.print(f"stopped: {event.reason}, after {event.seconds / 60:.1f} min")
            if self.last:
                self.console.print(told_cost(self.last), soft_wrap=True)
            self.console.print(f"test part: {listed(event.scores)}", soft_wrap=True)
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
        self.flops = event.flops / took if fresh else 0.95 * self.flops + 0.05 * event.flops / took
        self.seconds = event.seconds
        self.progress.update(self.task, completed=event.step, loss=self.loss, speed=self._speed())
        if not self.live and event.step % self.every == 0:
            self.console.print(
                f"step {event.step} of {self.total}: loss {self.loss:.3f}, {self._speed()}", soft_wrap=True
            )

    def _speed(self) -> str:
        """Tokens a second, operations a second and their share of the peak; energy and money so far."""
        from regard.training.told import of

        told, last = [f"{self.speed:,.0f} tokens/s"], self.last
        if self.flops:
            peak = last.peak_flops_per_second if last else 0.0
            told.append(of(self.flops, "FLOP/s") + (f" ({self.flops / peak:.0%} of peak)" if peak else ""))
        if last and last.energy_wh is not None:
            told.append(f"{last.energy_wh:.2f} Wh")
        if last and last.money is not None:
            told.append(f"{last.money:.2f} {last.currency}")
        return ", ".join(told)


def listed(scores: dict[str, float]) -> str:
    from regard.training.card import score_name

    return ", ".join(f"{score_name(name)} {value:.2f}" for name, value in scores.items())
