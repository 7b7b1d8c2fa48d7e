"""Checkpoints: everything a run needs to go on as if it had not stopped, in one file that is replaced in one step.

Tensors and JSON only (safetensors): opening a checkpoint never runs code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regard.errors import RegardError
from regard.files import written_aside
from regard.training.recipe import Recipe

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts; what stood there stays whole until the new file is."""
    with written_aside(path) as aside:
        # One tensor may stand under several names; each is written under its own.
        held = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        try:
            save_file(held, aside, metadata={"facts": json.dumps(facts)})
        except SafetensorError as error:  # it wraps the system's error, such as a full disk
            raise OSError(str(error)) from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint; RegardError if it is missing or damaged."""
    if not path.is_file():
        raise RegardError(f"there is no checkpoint {path} to resume from")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RegardError(f"the checkpoint {path} is damaged: {error}") from error


def tensors_of(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], snapshots: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Weights, the optimisers' state and earlier weights, under names that tell them apart."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for place, optimizer in enumerate(optimizers):
        for number, part in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{number}.{name}": value for name, value in part.items()}
    for number, snapshot in enumerate(snapshots):
        tensors |= {f"snapshot.{number}.{name}": value for name, value in snapshot.items()}
    return tensors


def restore(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> list[dict[str, Tensor]]:
    """Put everything back where `tensors_of` took it from; returns the snapshots."""
    model.load_state_dict(under("model.", tensors))
    for place, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(f"optimizer.{place}.", tensors).items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    count = len({name.split(".")[0] for name in under("snapshot.", tensors)})
    return [under(f"snapshot.{number}.", tensors) for number in range(count)]


def check_resumable(folder: Path, recipe: Recipe) -> None:
    """Refuse to resume a run with a recipe that makes another model."""
    _, facts = load_checkpoint(folder / CHECKPOINT)
    try:
        begun = Recipe.model_validate(facts["recipe"])
    except ValueError as error:
        raise RegardError(f"{folder} was begun with a recipe that this version does not read: {error}") from error
    for part in ("task", "model", "tokenizer"):
        if getattr(begun, part) != getattr(recipe, part):
            raise RegardError(f"{folder} was begun with another [{part}]: resume with the recipe it was begun with")


def average(snapshots: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights at several points of training (Vaswani et al. 2017, section 6.1)."""
    last = snapshots[-1]
    means = {name: torch.stack([one[name] for one in snapshots]) for name in last if last[name].is_floating_point()}
    return last | {name: values.mean(dim=0) for name, values in means.items()}  # counts stay as they are


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
