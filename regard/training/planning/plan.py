"""What a recipe will cost on so many GPUs, and how to cut it over them, before anything is spent.

    plan(load_recipe("gpt-350m"), gpus=64, device=device_of("h100"))

Every way to cut the run is counted (data parallel or FSDP, tensor parallel inside a machine, micro-batches, activation
checkpointing), and the fastest that fits is taken; the batch of a step, and so the losses, are the recipe's in all of
them. What is counted, and from which papers: `memory`, `communication`, `duration`. Energy is that of the GPUs at their
maximal power times PUE (what the building takes for each watt of the machines), as Patterson et al. 2021, "Carbon
Emissions and Large Neural Network Training", section 2; CO2 by codecarbon's table, the one the meter uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from regard.errors import RegardError
from regard.training.energy import grams_per_kwh
from regard.training.machine import peak_memory
from regard.training.planning.communication import Messages, messages_of
from regard.training.planning.devices import CPU, Device
from regard.training.planning.duration import Duration, duration_of, share_of
from regard.training.planning.layout import Layout
from regard.training.planning.memory import USABLE, Memory, memory_of
from regard.training.planning.workload import RECURRENT, Workload
from regard.training.recipe import Recipe

CHINCHILLA = 20  # tokens a parameter that make the most of a given compute (Hoffmann et al. 2022, table 3)


@dataclass(frozen=True)
class Place:
    """Where a run is to be, and what that costs."""

    device: Device
    in_machine: int = 8
    """GPUs of one machine."""
    share: float | None = None
    """Of the peak that matrix products reach; None: what `duration` takes."""
    pue: float = 1.56
    """Uptime Institute's survey of 2024; 1 for a machine that nothing cools."""
    price: float | None = None
    """Of one GPU for an hour."""


@dataclass(frozen=True)
class Plan:
    """Of one recipe on one number of GPUs."""

    work: Workload
    place: Place
    layout: Layout
    memory: Memory
    messages: Messages
    duration: Duration

    @property
    def hours(self) -> float:
        """Of all steps, without validation."""
        return self.work.steps * self.duration.total / 3600

    @property
    def tokens_per_second(self) -> float:
        return self.work.batch_tokens / self.duration.total

    @property
    def efficiency(self) -> float:
        """The model's operations over what all GPUs could do in that time (Chowdhery et al. 2022, "PaLM": MFU)."""
        peak = self.place.device.flops_per_second(self.work.recipe.training.precision) * self.layout.gpus
        return self.work.flops / self.duration.total / peak

    @property
    def watt_hours(self) -> float | None:
        watts = self.place.device.watts
        return None if watts is None else watts * self.layout.gpus * self.place.pue * self.hours

    @property
    def co2_grams(self) -> float | None:
        factor = grams_per_kwh(self.work.recipe.cost.country)
        return None if self.watt_hours is None or factor is None else self.watt_hours / 1000 * factor

    @property
    def money(self) -> float | None:
        """By the price of a GPU, or by the recipe's of all machines together."""
        if self.place.price is not None:
            return self.place.price * self.layout.gpus * self.hours
        return self.work.recipe.cost.price_per_hour * self.hours or None

    @property
    def command(self) -> str:
        """What starts it."""
        gpus, name = self.layout.gpus, self.work.recipe.name
        if self.place.device.name == CPU:
            return f"regard train {name}" if gpus == 1 else f"torchrun --nnodes {gpus} -m regard train {name}"
        machines = -(-gpus // self.place.in_machine)
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        here = min(gpus, self.place.in_machine)
        return f"torchrun {nodes}--nproc-per-node {here} -m regard train {name}"


def plan(work: Workload, gpus: int, place: Place) -> Plan:
    """The fastest way that fits. RegardError where there is none; it says what it would take."""
    if gpus < 1:
        raise RegardError(f"--gpus is 1 or more, not {gpus}")
    if gpus > 1 and (training := work.recipe.training).carry_state:
        raise RegardError(f"training.carry_state = {training.carry_state}: it is for one process, not for {gpus}")
    found = [_counted(work, layout, place) for layout in layouts(work, gpus, place)]
    if not found:
        need = (
            f"at most {work.rows:,} GPUs, or training.batch_tokens {gpus * work.batch_tokens // work.rows:,} would do"
        )
        held = f"a batch of {work.batch_tokens:,} tokens holds {work.rows:,} texts"
        raise RegardError(f"{held}, too few for {gpus:,} GPUs: {need}")
    fitting = [one for one in found if one.memory.total <= _room(place.device)]
    if not fitting:
        raise _nothing_fits(work, gpus, place, min(found, key=lambda one: one.memory.total))
    return min(fitting, key=lambda one: (round(one.duration.total, 9), one.layout.micro_batches))


def layouts(work: Workload, gpus: int, place: Place) -> Iterator[Layout]:
    """All ways to cut a run over so many GPUs that a recipe can say."""
    muon = work.recipe.training.optimizer == "muon"  # needs whole matrices
    for tensor in [1] if muon else _cuts(work, gpus, place):
        data = gpus // tensor
        for shard in (False, True) if data > 1 and not muon and work.layers else (False,):
            micro_batches = 1
            while micro_batches * data <= work.rows and (micro_batches == 1 or not work.recipe.training.carry_state):
                for checkpointing in (False, True):
                    yield Layout(data, tensor, shard, micro_batches, checkpointing)
                micro_batches *= 2


def recipe_settings(recipe: Recipe, layout: Layout) -> tuple[str, ...]:
    """What differs from the recipe."""
    own = Layout(1, 1, False, recipe.training.micro_batches, recipe.training.activation_checkpointing)
    return tuple(new for new, old in zip(layout.settings, own.settings, strict=True) if new != old)


def _cuts(work: Workload, gpus: int, place: Place) -> list[int]:
    """Into how many parts layers can be cut evenly, inside one machine."""
    sizes = work.sizes
    if work.config.model_type in RECURRENT:
        return [1]
    widths = (sizes.heads, sizes.key_heads, sizes.inner, gpus)
    return [one for one in range(1, place.in_machine + 1) if all(width % one == 0 for width in widths)]


def _counted(work: Workload, layout: Layout, place: Place) -> Plan:
    device = place.device
    libraries = float(peak_memory(torch.device("cpu"))) if device.name == CPU else 0.0
    memory = memory_of(work, layout, device, libraries)
    messages = messages_of(work, layout, device, place.in_machine)
    share = place.share or share_of(work, device)
    return Plan(work, place, layout, memory, messages, duration_of(work, layout, device, memory, messages, share))


def _room(device: Device) -> float:
    return device.memory * USABLE


def _nothing_fits(work: Workload, gpus: int, place: Place, least: Plan) -> RegardError:
    """What the smallest layout takes, and how many GPUs would do."""
    device = place.device
    need = f"{work.recipe.name} does not fit on {gpus:,} x {device.name} of {device.memory / 1e9:.0f} GB"
    way = f"{least.layout.words}, {least.layout.micro_batches} micro-batches, checkpointing"
    told = f"{need}: the least is {least.memory.total / 1e9:,.0f} GB each ({way})"
    for power in range(1, 13):
        count = gpus << power
        cut = [_counted(work, layout, place) for layout in layouts(work, count, place)]
        if any(one.memory.total <= _room(device) for one in cut):
            return RegardError(f"{told}; {count:,} would do")
    return RegardError(f"{told}; a GPU with more memory, or a smaller model, would do")
