"""What of a run goes into a checkpoint, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regard.errors import RegardError
from regard.training import checkpoints
from regard.training.events import mend_log

if TYPE_CHECKING:
    from regard.training.trainer import Run

FACTS = ("step", "epoch", "batches", "validated", "seconds", "cpu_seconds", "best", "waited", "reason")
"""What a run knows beside its tensors, by name."""


def save(run: Run) -> None:
    """A checkpoint from which `restore` goes on with the same losses; the first worker writes it."""
    if run.workers.leads:
        facts = {name: getattr(run, name) for name in FACTS}
        facts |= {"recipe": run.recipe.model_dump(mode="json"), "epochs": run.epochs}
        facts |= {"averaging": run.averaging.facts(), "meter": run.meter.facts()}
        tensors = checkpoints.tensors_of(run.model, run.optimizers, run.snapshots)
        tensors |= {f"carried.{name}": value for name, value in getattr(run.task, "carried", {}).items()}
        tensors |= {f"averaging.{name}": value for name, value in run.averaging.tensors().items()}
        try:
            checkpoints.save_checkpoint(run.folder / checkpoints.CHECKPOINT, tensors, facts)
        except RegardError as error:
            kept = f"; the last good checkpoint is of step {run.saved}" if run.step else ""
            raise RegardError(f"{error}{kept}") from error
    run.saved = run.step


def restore(run: Run) -> None:
    """Take over everything from the last good checkpoint of the run's folder."""
    tensors, facts, run.note = checkpoints.load_last_good(run.folder)
    run.snapshots = checkpoints.restore(run.model, run.optimizers, tensors)
    if carried := checkpoints.under("carried.", tensors):
        run.task.carried.update(carried)  # type: ignore[attr-defined]
    if facts.get("averaging"):
        run.averaging.restore(facts["averaging"], checkpoints.under("averaging.", tensors))
    if "meter" in facts:
        run.meter.restore(facts["meter"])
    for name in FACTS:
        setattr(run, name, facts[name])
    run.saved = run.step
    if run.workers.leads:
        mend_log(run.folder)
    if run.reason.endswith("steps are done") and run.step < run.recipe.training.max_steps:
        run.reason = ""  # the recipe has more steps now
