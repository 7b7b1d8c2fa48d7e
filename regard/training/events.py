"""What a training run tells while it goes: plain records, one after another."""

from __future__ import annotations

from dataclasses import dataclass


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
