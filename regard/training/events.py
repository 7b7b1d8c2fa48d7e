"""What a training run tells while it goes: plain records, one after another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

LOG = "log.jsonl"


@dataclass(frozen=True)
class Started:
    parameters: int
    examples: int
    tokens: int
    step: int
    """Where it goes on from; 0 for a new run."""


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


@dataclass(frozen=True)
class Validated:
    step: int
    loss: float
    scores: dict[str, float]
    best: bool
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Finished:
    step: int
    reason: str
    scores: dict[str, float]
    signature: str
    folder: str
    seconds: float


Event = Started | Stepped | Validated | Finished


def append_event(folder: Path, event: Event) -> None:
    """Add an event to the run's log, one JSON object a line."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")


def read_validations(folder: Path) -> list[Validated]:
    """The validations in a run's log, by step; where a run went back to a checkpoint, the later ones count."""
    found: dict[int, Validated] = {}
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if fields.pop("event") == "validated":
            found[fields["step"]] = Validated(**fields)
    return [found[step] for step in sorted(found)]
