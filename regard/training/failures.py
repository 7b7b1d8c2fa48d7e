"""A loss that is not finite: the batch that gave it is written down, and what can be done is said."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from regard.errors import RegardError
from regard.files import written_aside
from regard.sequences import Sequences
from regard.training.saving import save

if TYPE_CHECKING:
    from regard.training.trainer import Run


def stop_unless_finite(run: Run, what: str, value: float, chosen: np.ndarray) -> None:
    """RegardError where a loss or a gradient is no number; the batch is written down, the weights before it kept."""
    if math.isfinite(value):
        return
    failed, run.step, run.batches = run.step, run.step - 1, run.batches - 1  # this step was not taken
    path = run.folder / f"failed-step-{failed}.json"
    if run.workers.leads:
        write_batch(path, failed, value, chosen, run.task.train.batch(chosen))
    if run.placement.finite():
        save(run)
    raise RegardError(
        f"the {what} is {value} at step {failed}: lower training.learning_rate or set training.clip_norm, and go on "
        f"with --resume from the last good checkpoint, of step {run.saved}; the batch is in {path}"
    )


def write_batch(path: Path, step: int, value: float, chosen: np.ndarray, batch: Any) -> None:
    """Write a batch as JSON: which examples it is made of, and their token ids."""
    told = {"step": step, "value": str(value), "examples": chosen.tolist(), "batch": _plain(batch)}
    with written_aside(path) as aside:
        aside.write_text(json.dumps(told) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """A batch in terms of JSON: ragged ids as one list a text."""
    if isinstance(value, Sequences):
        return [row.tolist() for row in value]
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value if isinstance(value, int | float | str) else str(value)
