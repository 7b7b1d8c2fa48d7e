"""What of a run goes into a checkpoint, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regard.errors import RegardError
from regard.training import checkpoints
from regard.training.events import mend_log
from regard.training.workers import starter

if TYPE_CHECKING:
    from regard.training.trainer import Run

FACTS = ("step", "epoch", "batches", "validated", "seconds", "cpu_seconds", "best", "waited", "reason")
"""What a run knows beside its tensors, by name."""


def save(run: Run) -> None:
    """A checkpoint from which `restore` goes on with the same losses; the first worker writes it, or all do."""
    if run.workers.leads or run.placement.cut:
        facts = {name: getattr(run, name) for name in FACTS}
        facts |= {"recipe": run.recipe.model_dump(mode="json"), "epochs": run.epochs}
        facts |= {"averaging": run.averaging.facts(), "meter": run.meter.facts(), "starter": starter()}
        try:
            _write(run, facts)
        except RegardError as error:
            kept = f"; the last good checkpoint is of step {run.saved}" if run.step else ""
            raise RegardError(f"{error}{kept}") from error
    run.saved = run.step


def _write(run: Run, facts: dict[str, Any]) -> None:
    if run.placement.cut:
        from regard.training import cut_checkpoints

        tensors = cut_checkpoints.tensors_of(run, run.placement)  # type: ignore[arg-type]
        cut_checkpoints.save_cut(run.folder, tensors, facts, run.workers)
        return
    tensors = checkpoints.tensors_of(run.model, run.optimizers, run.snapshots)
    tensors |= {f"carried.{name}": value for name, value in getattr(run.task, "carried", {}).items()}
    tensors |= {f"averaging.{name}": value for name, value in run.averaging.tensors().items()}
    checkpoints.save_checkpoint(run.folder / checkpoints.CHECKPOINT, tensors, facts)


def restore(run: Run) -> None:
    """Take over everything from the last good checkpoint of the run's folder, of either kind."""
    facts = _read(run)
    if "meter" in facts:
        run.meter.restore(facts["meter"])
    for name in FACTS:
        setattr(run, name, facts[name])
    run.saved = run.step
    if run.workers.leads:
        mend_log(run.folder)
    if run.reason.endswith("steps are done") and run.step < run.recipe.training.max_steps:
        run.reason = ""  # the recipe has more steps now


def _read(run: Run) -> dict[str, Any]:
    """Put the tensors back; the facts."""
    folders = (checkpoints.FOLDER, checkpoints.PREVIOUS_FOLDER)
    if not run.placement.cut and not run.workers.told(any((run.folder / name).exists() for name in folders)):
        tensors, facts, run.note = checkpoints.load_last_good(run.folder)
    else:
        from regard.training import cut_checkpoints

        path, facts, run.note = cut_checkpoints.last_good(run.folder, run.workers)
        if run.placement.cut:
            tensors = cut_checkpoints.restore_cut(run, run.placement, path)  # type: ignore[arg-type]
        else:
            tensors = cut_checkpoints.read_whole(path)
    if not run.placement.cut:
        run.snapshots = checkpoints.restore(run.model, run.optimizers, tensors)
    if carried := checkpoints.under("carried.", tensors):
        run.task.carried.update(carried)  # type: ignore[attr-defined]
    if facts.get("averaging"):
        run.averaging.restore(facts["averaging"], checkpoints.under("averaging.", tensors))
    return facts
