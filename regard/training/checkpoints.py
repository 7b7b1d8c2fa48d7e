"""Checkpoints: everything a run needs to go on as if it had not stopped, in one file that is replaced in one step.

Tensors and JSON only (safetensors): opening a checkpoint never runs code. Each has a digest of what is in it, and the
one before is kept: where the last one is damaged, a run goes on from that, and says so.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from regard.errors import RegardError
from regard.files import written_aside
from regard.training.recipe import Recipe

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
FOLDER, PREVIOUS_FOLDER = "checkpoint", "checkpoint.previous"
"""Of a model that is cut over processes (see `regard.training.cut_checkpoints`)."""
FACTS_FILE = "run.json"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts; what stood there stays whole until the new file is, and then becomes PREVIOUS."""
    with written_aside(path) as aside:
        # One tensor may stand under several names; each is written under its own.
        held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        told = json.dumps(facts)
        try:
            save_file(held, aside, metadata={"facts": told, "digest": _digest(held, told)})
        except SafetensorError as error:  # it wraps the system's error, such as a full disk
            raise OSError(str(error)) from error
        _keep(path, path.with_name(PREVIOUS))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint; RegardError if it is missing or damaged."""
    if not path.is_file():
        raise RegardError(f"there is no checkpoint {path} to resume from")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        facts = json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RegardError(f"the checkpoint {path} is damaged: {error}") from error
    if metadata.get("digest", "") not in ("", _digest(tensors, metadata["facts"])):
        raise RegardError(f"the checkpoint {path} is damaged: its digest is another one")
    return tensors, facts


def load_last_good(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The last checkpoint of a run, or the one before where that is damaged; and what was wrong, if anything was.

    Raises RegardError where neither can be read.
    """
    try:
        return *load_checkpoint(folder / CHECKPOINT), ""
    except RegardError as error:
        if not (folder / PREVIOUS).is_file():
            raise
        tensors, facts = load_checkpoint(folder / PREVIOUS)
        return tensors, facts, f"{error}; going on from the one before it, of step {facts.get('step')}"


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or damaged."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS, FOLDER, PREVIOUS_FOLDER))


def begun_by(folder: Path, starter: str) -> bool:
    """Whether a run was begun, or gone on with, by that call of `torchrun` (see `regard.training.workers.starter`)."""
    return any(facts.get("starter") == starter for _, facts, _ in standing(folder))


def standing(folder: Path) -> list[tuple[Path, dict[str, Any], str]]:
    """A run's checkpoints of both kinds, the newest first: where, the facts, and why these cannot be read."""
    found = []
    for name in (CHECKPOINT, FOLDER, PREVIOUS, PREVIOUS_FOLDER):
        if (folder / name).exists():
            try:
                facts = _read_facts(folder / name)
                found.append(((facts.get("step", 0), facts.get("validated", 0)), (folder / name, facts, "")))
            except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
                last = (float("-inf") if "previous" in name else float("inf"), 0)
                problem = f"the checkpoint {folder / name} is damaged: {error}"
                found.append((last, (folder / name, {}, problem)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _read_facts(path: Path) -> dict[str, Any]:
    if path.is_dir():
        whole = json.loads((path / FACTS_FILE).read_text(encoding="utf-8"))
        told = whole["facts"]
        if whole["digest"] != hashlib.blake2b(told.encode(), digest_size=16).hexdigest():
            raise ValueError(f"the digest of {FACTS_FILE} is another one")
    else:
        with safe_open(path, framework="pt") as file:
            told = file.metadata()["facts"]
    facts: dict[str, Any] = json.loads(told)
    return facts


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path`, if there is one, a second name; what had that name before is gone."""
    if not path.exists():
        return
    link = previous.with_name(f".{previous.name}.link")
    with suppress(FileNotFoundError):
        link.unlink()
    try:
        os.link(path, link)
    except OSError:  # a file system without links: for a moment there is the previous one only
        path.replace(previous)
        return
    link.replace(previous)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    """Of names, types, shapes and bytes of all tensors, and of the facts."""
    found = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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
    put_in_optimizers(optimizers, tensors)
    return snapshots_in(tensors)


def put_in_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Give every optimiser its state back, by the number of each parameter."""
    for place, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(f"optimizer.{place}.", tensors).items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def snapshots_in(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    count = len({name.split(".")[0] for name in under("snapshot.", tensors)})
    return [under(f"snapshot.{number}.", tensors) for number in range(count)]


def check_resumable(folder: Path, recipe: Recipe) -> None:
    """Refuse to resume a run with a recipe that makes another model."""
    found = standing(folder)
    if not found:
        raise RegardError(f"there is no checkpoint {folder / CHECKPOINT} to resume from")
    readable = [facts for _, facts, problem in found if not problem]
    if not readable:
        raise RegardError(found[0][2])
    facts = readable[0]
    try:
        begun = Recipe.model_validate(facts["recipe"])
    except ValueError as error:
        raise RegardError(f"{folder} was begun with a recipe that this version does not read: {error}") from error
    for part in ("task", "model", "tokenizer"):
        if getattr(begun, part) != getattr(recipe, part):
            raise RegardError(f"{folder} was begun with another [{part}]: resume with the recipe it was begun with")


def why_not(folder: Path, recipe: Recipe, resume: bool) -> str:
    """Why a run cannot begin, or go on, in this folder; empty where it can."""
    if resume:
        try:
            check_resumable(folder, recipe)
        except RegardError as error:
            return str(error)
    elif exists(folder):
        return f"{folder} holds a run already: go on with --resume, or choose another folder with --out"
    return ""


def average(snapshots: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of the weights at several points of training (Vaswani et al. 2017, section 6.1)."""
    last = snapshots[-1]
    means = {name: torch.stack([one[name] for one in snapshots]) for name in last if last[name].is_floating_point()}
    return last | {name: values.mean(dim=0) for name, values in means.items()}  # counts stay as they are


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
