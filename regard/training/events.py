"""What a training run tells while it goes: plain records, one after another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from regard.errors import RegardError

LOG = "log.jsonl"


@dataclass(frozen=True)
class Started:
    parameters: int
    examples: int
    tokens: int
    step: int
    """Where it goes on from; 0 for a new run."""
    note: str = ""
    """What was wrong with the last checkpoint, where an earlier one is gone on from."""


@dataclass(frozen=True)
class Stepped:
    step: int
    epoch: int
    loss: float
    """Cross-entropy of this batch without smoothing, nats a token."""
    rate: float
    tokens: int
    seconds: float
    """Spent in training so far, over all resumptions."""
    stopping: bool = False
    """A worker was asked to stop: all of them do so after this step."""
    flops: float = 0.0
    """Of this step, in all workers."""


@dataclass(frozen=True)
class Measured:
    """What the run has cost up to this step, and how fast it was since the last such record (see `meter`)."""

    step: int
    loss: float
    """Mean training loss since the last record."""
    tokens: int
    """Learnt from so far, over all resumptions, as the next three."""
    flops: float
    train_seconds: float
    """Spent in steps, without validations."""
    seconds: float
    tokens_per_second: float
    flops_per_second: float
    peak_flops_per_second: float
    """What a matrix product reaches on this machine with the run's precision and workers; 0: not measured."""
    peak_memory: int
    """Bytes, of the first worker."""
    energy_wh: float | None
    """None: not measured."""
    co2_grams: float | None
    energy_estimated: bool
    """From what such processors take, for want of a counter in the machine."""
    energy_source: str
    money: float | None
    currency: str
    seen: tuple[tuple[int, float], ...]
    """How often which share of the examples was seen: (2, 0.7), (1, 0.3)."""

    @property
    def share_of_peak(self) -> float | None:
        known = self.peak_flops_per_second and self.flops_per_second
        return self.flops_per_second / self.peak_flops_per_second if known else None


@dataclass(frozen=True)
class Validated:
    step: int
    loss: float
    scores: dict[str, float]
    best: bool
    seconds: float
    cpu_seconds: float
    train_loss: float | None = None
    """Mean training loss since the last validation."""
    verdict: str = ""
    """What the losses so far say of over-fitting, in words."""


@dataclass(frozen=True)
class Finished:
    step: int
    reason: str
    scores: dict[str, float]
    signature: str
    folder: str
    seconds: float


Event = Started | Stepped | Measured | Validated | Finished
Logged = Measured | Validated | Finished


def append_event(folder: Path, event: Event) -> None:
    """Add an event to the run's log, one JSON object a line."""
    try:
        with (folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")
    except OSError as error:
        advice = "make room and go on with --resume"
        raise RegardError(f"cannot write {folder / LOG}: {error.strerror or error}; {advice}") from error


def mend_log(folder: Path) -> None:
    """Cut off a last line that was not written to its end: the process was killed, or the disk was full."""
    path = folder / LOG
    whole = path.read_bytes() if path.exists() else b""
    if not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])


def read_log(folder: Path) -> list[Logged]:
    """The events in a run's log. Where a run went back to a checkpoint, what it told the second time counts.

    Raises RegardError where there is no log, or a line that is none of ours.
    """
    path = folder / LOG
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RegardError(f"{folder} holds no run: its {LOG} cannot be read") from error
    found: dict[tuple[type, int], Logged] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what stands after the last line's end is half written
        try:
            event = _event_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegardError(f"{path}, line {number}: not an event of a run ({error})") from error
        found[type(event), event.step] = event
    return sorted(found.values(), key=lambda event: (event.step, _KINDS.index(type(event))))


def read_validations(folder: Path) -> list[Validated]:
    """The validations in a run's log, by step."""
    return [event for event in read_log(folder) if isinstance(event, Validated)]


_KINDS: tuple[type[Logged], ...] = (Measured, Validated, Finished)


def _event_of(row: dict[str, Any]) -> Logged:
    """What an earlier version did not tell yet is left at its default, what a later one tells is left out."""
    kind = {kind.__name__.lower(): kind for kind in _KINDS}[row["event"]]
    given = {field.name: row[field.name] for field in fields(kind) if field.name in row}
    if "seen" in given:
        given["seen"] = tuple((int(times), float(share)) for times, share in given["seen"])
    return kind(**given)
