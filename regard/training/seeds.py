"""Several runs of one recipe that differ in their seed alone: how much of a score is chance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from regard.errors import RegardError
from regard.training import checkpoints
from regard.training.card import score_name
from regard.training.events import Finished, read_log
from regard.training.recipe import Recipe


def with_seeds(recipe: Recipe, folder: Path, count: int) -> list[tuple[Recipe, Path]]:
    """The recipe with its seed and the following ones, and a folder for each."""
    first, runs = recipe.training.seed, []
    for seed in range(first, first + count):
        training = recipe.training.model_copy(update={"seed": seed})
        runs.append((recipe.model_copy(update={"training": training}), folder / f"seed-{seed}"))
    return runs


def begun(folder: Path) -> bool:
    """Whether there is something to go on from."""
    return checkpoints.exists(folder)


def check_free(runs: Sequence[tuple[Recipe, Path]]) -> None:
    """RegardError where one of the folders holds a run already: before the first one is trained, not after."""
    for _, folder in runs:
        if begun(folder):
            raise RegardError(f"{folder} holds a run already: go on with --resume, or choose another folder with --out")


def score_table(folders: Sequence[Path]) -> dict[str, list[float]]:
    """Each score on the test part, of every run that ended."""
    found: dict[str, list[float]] = {}
    for folder in folders:
        for event in read_log(folder):
            if isinstance(event, Finished):
                for name, value in event.scores.items():
                    found.setdefault(name, []).append(value)
    return found


def told_scores(folders: Sequence[Path]) -> str:
    """Mean and standard deviation (of the sample) of each score, a line each."""
    lines = []
    for name, values in score_table(folders).items():
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"{score_name(name)} {statistics.mean(values):.2f}{spread} over {len(values)} seeds ({each})")
    return "\n".join(lines)
