"""The meter: what a run costs while it goes, and how well it uses the machine.

Tokens and operations are counted (`flops`), seconds and memory are taken from the system, the machine's peak is
measured once by a matrix product, energy comes from `energy`. Counting adds nothing to a step but a few sums of
integers. All totals go on over resumptions: they are a part of the checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from regard.training.energy import Energy, EnergyWatch
from regard.training.events import Measured, Stepped
from regard.training.flops import training_flops
from regard.training.machine import machine, peak_flops_per_second, peak_memory
from regard.training.recipe import Recipe


@dataclass
class Window:
    """Sums over some steps."""

    steps: int = 0
    loss: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, event: Stepped, seconds: float) -> None:
        self.steps, self.loss, self.tokens = self.steps + 1, self.loss + event.loss, self.tokens + event.tokens
        self.flops, self.seconds = self.flops + event.flops, self.seconds + seconds

    @property
    def mean_loss(self) -> float | None:
        return self.loss / self.steps if self.steps else None


class Meter:
    """Of one run, in one of its workers; the first one's are told."""

    def __init__(self, recipe: Recipe, config: Any, device: torch.device, workers: int, leads: bool) -> None:
        self.recipe, self.config, self.device, self.workers = recipe, config, device, workers
        self.total, self.recent, self.since_validation = Window(), Window(), Window()
        self.before = Energy()
        """What earlier parts of the run took."""
        self.peak, self.peak_of = 0.0, ""
        self.watch = EnergyWatch(recipe.cost.country) if leads and recipe.cost.energy else None

    def begin(self) -> None:
        """Measure the machine's peak, unless it is known from before. All workers do it at the same time."""
        here = f"{machine()}, {self.device}, {torch.get_num_threads()} threads, {self.recipe.training.precision}"
        if here != self.peak_of:
            self.peak, self.peak_of = self._peak_now(), here

    def _peak_now(self) -> float:
        half = self.recipe.training.precision == "bf16"
        return peak_flops_per_second(self.device, torch.bfloat16 if half else torch.float32)

    def flops(self, batch: Any) -> int:
        """Operations of a training step on this worker's share of a batch."""
        return training_flops(self.config, batch)

    def stepped(self, event: Stepped, seconds: float) -> Stepped:
        """Take down a step that took so many seconds."""
        for window in (self.total, self.recent, self.since_validation):
            window.add(event, seconds)
        return event

    def measured(self, step: int, seconds: float, seen: tuple[tuple[int, float], ...]) -> Measured:
        """What it comes to; the window of recent steps begins anew."""
        recent, total, self.recent = self.recent, self.total, Window()
        energy, cost = self.energy, self.recipe.cost
        rate = recent.flops / max(1e-9, recent.seconds)
        if rate > self.peak > 0:  # then the machine had other work when that was measured
            self.peak = max(self.peak, self._peak_now())
        return Measured(
            step=step,
            loss=recent.mean_loss or 0.0,
            tokens=total.tokens,
            flops=total.flops,
            train_seconds=total.seconds,
            seconds=seconds,
            tokens_per_second=recent.tokens / max(1e-9, recent.seconds),
            flops_per_second=rate,
            peak_flops_per_second=self.peak * self.workers,
            peak_memory=peak_memory(self.device),
            energy_wh=energy.watt_hours,
            co2_grams=energy.co2_grams,
            energy_estimated=energy.estimated,
            energy_source=energy.source,
            money=cost.price_per_hour * seconds / 3600 if cost.price_per_hour else None,
            currency=cost.currency,
            seen=seen,
        )

    def loss_since_validation(self) -> float | None:
        """Mean training loss since the last validation; the window begins anew."""
        window, self.since_validation = self.since_validation, Window()
        return window.mean_loss

    @property
    def energy(self) -> Energy:
        """Over all parts of the run."""
        now, before = self.watch.read() if self.watch else Energy(), self.before
        if now.watt_hours is None or before.watt_hours is None:
            return before if now.watt_hours is None else now
        wh, grams = now.watt_hours + before.watt_hours, (now.co2_grams or 0.0) + (before.co2_grams or 0.0)
        return Energy(wh, grams, now.estimated or before.estimated, now.source)

    def stop(self) -> None:
        if self.watch:
            self.watch.stop()

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        windows = {name: asdict(getattr(self, name)) for name in _WINDOWS}
        return {**windows, "energy": asdict(self.energy), "peak": self.peak, "peak_of": self.peak_of}

    def restore(self, facts: dict[str, Any]) -> None:
        for name in _WINDOWS:
            setattr(self, name, Window(**facts[name]))
        self.before, self.peak, self.peak_of = Energy(**facts["energy"]), facts["peak"], facts["peak_of"]


_WINDOWS = ("total", "recent", "since_validation")
