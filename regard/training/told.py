"""Measurements in words: for the model card and the terminal."""

from __future__ import annotations

from regard.training.events import Measured


def told_cost(measured: Measured | None) -> str:
    """All that a run cost, a line each, in Markdown."""
    if measured is None:
        return "Energy: not measured."
    seconds = max(1e-9, measured.train_seconds)
    speed = f"Speed: {measured.tokens / seconds:,.0f} tokens a second"
    if measured.flops:
        speed += f", {of(measured.flops / seconds, 'FLOP/s')}"
        if measured.peak_flops_per_second:
            share = measured.flops / seconds / measured.peak_flops_per_second
            speed += f" ({share:.0%} of the {of(measured.peak_flops_per_second, 'FLOP/s')} of a matrix product here)"
        speed += f"; {of(measured.flops, 'FLOP')} in all"
    lines = [speed, f"Memory: at most {of(measured.peak_memory, 'B')}", f"Energy: {told_energy(measured)}"]
    if measured.money is not None:
        lines.append(f"Money: {measured.money:,.2f} {measured.currency}")
    lines.append(f"Data: {told_seen(measured.seen)}")
    return "\n".join(f"{line}." for line in lines)


def told_energy(measured: Measured) -> str:
    """Watt hours and CO2, and whether they are an estimate."""
    if measured.energy_wh is None:
        return "not measured"
    about = "about " if measured.energy_estimated else ""
    return f"{about}{measured.energy_wh:,.2f} Wh, {measured.co2_grams or 0.0:,.2f} g of CO2 ({measured.energy_source})"


def told_seen(seen: tuple[tuple[int, float], ...]) -> str:
    """What share of the examples was seen how often."""
    return ", ".join(f"{share:.0%} seen {_times(times)}" for times, share in seen)


def of(value: float, unit: str) -> str:
    """A number with a prefix: 1.23 GFLOP/s."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _times(times: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(times, f"{times} times")
