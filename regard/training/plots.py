"""Runs as a picture: losses, scores, speed and cost over the steps, several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.files import written_aside
from regard.training.card import score_name
from regard.training.events import Measured, Validated, read_log

Curve = tuple[list[float], list[float]]
"""Steps, and a value at each."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a curve or more of every run."""

    title: str
    curves: dict[str, Curve]
    """By what stands in the legend."""
    dashed: frozenset[str] = frozenset()


def panels(runs: Sequence[Path]) -> list[Panel]:
    """What there is to draw of these runs; panels that would be empty are left out."""
    logs = {name: read_log(run) for name, run in zip(_names(runs), runs, strict=True)}
    learnt: dict[str, Curve] = {}
    found: dict[str, dict[str, Curve]] = {}
    for run, log in logs.items():
        measured = [event for event in log if isinstance(event, Measured)]
        validated = [event for event in log if isinstance(event, Validated)]
        learnt[f"{run}, training"] = _curve((event.step, event.loss) for event in measured)
        learnt[f"{run}, validation"] = _curve((event.step, event.loss) for event in validated)
        for name in validated[-1].scores if validated else ():
            row = _curve((event.step, event.scores.get(name)) for event in validated)
            found.setdefault(score_name(name), {})[run] = row
        for title, value in _COSTS.items():
            found.setdefault(title, {})[run] = _curve((event.step, value(event)) for event in measured)
    losses = Panel("loss, nats a prediction", learnt, frozenset(name for name in learnt if name.endswith("training")))
    drawn = [losses, *(Panel(title, curves) for title, curves in found.items())]
    kept = [Panel(one.title, {n: c for n, c in one.curves.items() if c[0]}, one.dashed) for one in drawn]
    return [panel for panel in kept if panel.curves]


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw them into a file: PNG, SVG or PDF by its ending. RegardError where there is nothing to draw."""
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise RegardError(f"a picture is a .png, .svg or .pdf, not {out.name!r}")
    shown = panels(runs)
    if not shown:
        raise RegardError(f"{', '.join(map(str, runs))}: nothing was measured yet")
    from matplotlib.figure import Figure

    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    colours = {name: f"C{number % 10}" for number, name in enumerate(_names(runs))}
    for place, panel in zip(axes.flat, shown, strict=False):
        for name, (steps, values) in panel.curves.items():
            colour = colours[name.rsplit(", ", 1)[0] if panel is shown[0] else name]
            style = "--" if name in panel.dashed else "-"
            place.plot(steps, values, style, color=colour, label=name, marker="." if len(steps) < 20 else "")
        place.set_title(panel.title, fontsize="medium")
        place.set_xlabel("steps", fontsize="small")
        place.tick_params(labelsize="small")
        place.grid(alpha=0.3)
    for place in axes.flat[len(shown) :]:
        place.set_axis_off()
    axes.flat[0].legend(fontsize="small")
    with written_aside(out) as aside:
        figure.savefig(aside, format=out.suffix[1:].lower(), dpi=150)


def _curve(points: Any) -> Curve:
    """Of the points that have a value."""
    known = [(float(step), float(value)) for step, value in points if value is not None]
    return [step for step, _ in known], [value for _, value in known]


def _names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that tell them apart."""
    for depth in range(1, max((len(run.parts) for run in runs), default=1) + 1):
        names = ["/".join(run.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    raise RegardError("a run is given twice")


_COSTS: dict[str, Any] = {
    "tokens a second": lambda event: event.tokens_per_second,
    "share of the machine's peak, %": lambda event: None if event.share_of_peak is None else 100 * event.share_of_peak,
    "peak memory, GB": lambda event: event.peak_memory / 1e9,
    "energy, Wh": lambda event: event.energy_wh,
    "CO2, g": lambda event: event.co2_grams,
    "money": lambda event: event.money,
}
