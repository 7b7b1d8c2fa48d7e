"""A plan in words, as a table of several, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from regard.errors import RegardError
from regard.training.planning.plan import CHINCHILLA, Plan, recipe_settings
from regard.training.told import of


def told(plan: Plan) -> str:
    """A plan, line by line."""
    work, place, layout = plan.work, plan.place, plan.layout
    count = f"{layout.gpus:,} x {place.device.name}"
    lines = [f"{work.recipe.name}: {of(work.parameters, '')} parameters, {work.note}.", ""]
    rows = [
        ("data", _told_data(plan)),
        ("arithmetic", _told_arithmetic(plan)),
        ("on", f"{count} ({place.device.source})"),
        ("cut", _told_cut(plan)),
        ("memory", f"{of(plan.memory.total, 'B')} of {of(place.device.memory, 'B')} each: {_told_memory(plan)}"),
        ("step", f"{_seconds(plan.duration.total)}: {_told_step(plan)}"),
        ("sent", _told_sent(plan)),
        ("speed", f"{plan.tokens_per_second:,.0f} tokens a second, {plan.efficiency:.0%} of the peak"),
        ("time", f"{_hours(plan.hours)} for {work.steps:,} steps, validation not counted"),
        ("energy", _told_energy(plan)),
    ]
    if plan.money is not None:
        rows.append(("money", f"{plan.money:,.2f} {work.recipe.cost.currency}"))
    lines += [f"{name:<12}{text}" for name, text in rows]
    settings = recipe_settings(work.recipe, layout)
    lines += ["", "start it with", f"  {' '.join([plan.command, *(f'--set {one}' for one in settings)])}"]
    return "\n".join(lines)


def table(plans: Sequence[Plan | RegardError], counts: Sequence[int]) -> str:
    """A line for each number of GPUs; what cannot be done says why below."""
    made = [one for one in plans if isinstance(one, Plan)]
    heads = ["GPUs", "cut", "micro-batches", "memory each", "step", "sent each", "of peak", "time", "energy", "CO2"]
    if made[0].money is not None:
        heads.append(made[0].work.recipe.cost.currency)
    rows, failed = [heads], []
    for one, count in zip(plans, counts, strict=True):
        if isinstance(one, RegardError):
            rows.append([f"{count:,}", "none"] + ["-"] * (len(heads) - 2))
            failed.append(f"{count:,}: {one}")
        else:
            rows.append(_row(one)[: len(heads)])
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    work, device = made[0].work, made[0].place.device
    head = (
        f"{work.recipe.name}: {of(work.parameters, '')} parameters, {work.batch_tokens:,} tokens a step, {work.note}."
    )
    return "\n".join([head, f"{device.name}: {device.source}.", "", *lines, *failed])


def as_facts(plan: Plan) -> dict[str, Any]:
    """Numbers in bytes, seconds, FLOP, Wh and grams."""
    work, place = plan.work, plan.place
    return {
        "recipe": work.recipe.name,
        "parameters": work.parameters,
        "lengths": work.note,
        "mean_length": work.length,
        "data_tokens": work.tokens,
        "trained_tokens": work.trained_tokens,
        "passes": work.passes,
        "flops_per_step": work.flops,
        "device": asdict(place.device),
        "gpus": plan.layout.gpus,
        "layout": asdict(plan.layout),
        "set": list(recipe_settings(work.recipe, plan.layout)),
        "command": plan.command,
        "memory": {**asdict(plan.memory), "total": plan.memory.total},
        "step": {**asdict(plan.duration), "total": plan.duration.total},
        "messages": asdict(plan.messages),
        "tokens_per_second": plan.tokens_per_second,
        "share_of_peak": plan.efficiency,
        "hours": plan.hours,
        "energy_wh": plan.watt_hours,
        "co2_grams": plan.co2_grams,
        "money": plan.money,
        "currency": work.recipe.cost.currency,
    }


def _told_data(plan: Plan) -> str:
    work = plan.work
    read = f"{of(work.trained_tokens, '')} tokens read ({work.steps:,} steps of {work.batch_tokens:,})"
    best = f"{CHINCHILLA} a parameter would be {of(CHINCHILLA * work.parameters, '')} tokens"
    return f"{read}, {_passes(work.passes)}; {best}"


def _passes(passes: float | None) -> str:
    return "the data is not here" if passes is None else f"{passes:,.1f} passes over the data"


def _told_arithmetic(plan: Plan) -> str:
    work = plan.work
    a_token = work.flops / work.batch_tokens / work.parameters
    return (
        f"{of(work.flops * work.steps, 'FLOP')}, {of(work.flops, 'FLOP')} a step ({a_token:.1f} a parameter and token)"
    )


def _told_cut(plan: Plan) -> str:
    layout = plan.layout
    parts = f"{layout.micro_batches} micro-batches" if layout.micro_batches > 1 else "one micro-batch"
    again = "layers computed again" if layout.checkpointing else "nothing computed again"
    return f"{layout.words}, {parts}, {again}"


def _told_memory(plan: Plan) -> str:
    return ", ".join(f"{name} {of(size, 'B')}" for name, size in asdict(plan.memory).items() if size)


def _told_step(plan: Plan) -> str:
    names = {name: name.replace("_", " ") for name in asdict(plan.duration)}
    return ", ".join(f"{names[name]} {_seconds(part)}" for name, part in asdict(plan.duration).items() if part)


def _told_sent(plan: Plan) -> str:
    messages = plan.messages
    if not messages.data_bytes + messages.tensor_bytes:
        return "nothing"
    hidden = ", mostly while layers compute" if messages.hidden else ""
    parts = [
        f"{of(messages.data_bytes, 'B')} of weights and gradients ({_seconds(messages.data_seconds)}{hidden})",
        f"{of(messages.tensor_bytes, 'B')} within layers ({_seconds(messages.tensor_seconds)})",
    ]
    sizes = (messages.data_bytes, messages.tensor_bytes)
    return "each step and GPU " + ", ".join(part for part, size in zip(parts, sizes, strict=True) if size)


def _told_energy(plan: Plan) -> str:
    if plan.watt_hours is None:
        return "not known: the power of this device is not"
    country = plan.work.recipe.cost.country or "the world's mean"
    co2 = "CO2 not known (codecarbon is not installed)" if plan.co2_grams is None else _co2(plan)
    watts = f"{plan.place.device.watts:g} W x {plan.place.pue:g} (PUE)"
    return f"{of(plan.watt_hours, 'Wh')} by {watts} each, {co2} ({country})"


def _co2(plan: Plan) -> str:
    if plan.co2_grams is None:
        return "-"
    tons = plan.co2_grams / 1e6
    return f"{tons:,.3g} t of CO2" if tons >= 1 else f"{of(plan.co2_grams, 'g')} of CO2"


def _row(plan: Plan) -> list[str]:
    layout, sent = plan.layout, plan.messages.data_bytes + plan.messages.tensor_bytes
    return [
        f"{layout.gpus:,}",
        layout.words + (", again" if layout.checkpointing else ""),
        f"{layout.micro_batches}",
        of(plan.memory.total, "B"),
        _seconds(plan.duration.total),
        of(sent, "B") if sent else "-",
        f"{plan.efficiency:.1%}",
        _hours(plan.hours),
        of(plan.watt_hours, "Wh") if plan.watt_hours is not None else "-",
        _co2(plan).removesuffix(" of CO2"),
        f"{plan.money or 0:,.0f}",
    ]


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def _hours(value: float) -> str:
    if value >= 48:
        return f"{value / 24:.3g} days"
    return f"{value:.3g} h" if value >= 1 else f"{60 * value:.3g} min"
