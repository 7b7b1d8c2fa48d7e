"""Checkpoints of a model that is cut over processes: a folder, to which each of them writes the parts that it holds.

`torch.distributed.checkpoint` writes and reads them, as safetensors that say where in the whole tensor each part lies:
any number of processes can open them again, cut in any way, one process too, and no code is run. It reads the single
file of an uncut run as well. `run.json` holds what else a run knows, and a digest of each file. The folder is written
aside and renamed when all of it is there; the one before is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from regard.errors import RegardError
from regard.training.checkpoints import (
    FACTS_FILE,
    FOLDER,
    PREVIOUS_FOLDER,
    load_checkpoint,
    put_in_optimizers,
    snapshots_in,
    standing,
    under,
)
from regard.training.workers import Workers

if TYPE_CHECKING:
    from regard.training.cut import CutPlacement
    from regard.training.trainer import Run


def save_cut(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], workers: Workers) -> None:
    """Write a run's tensors, each process its parts, and the facts; what stood there becomes PREVIOUS_FOLDER.

    RegardError in all of them where one cannot write; then everything is as before.
    """
    path, aside = folder / FOLDER, folder / f".{FOLDER}.partial"
    try:
        _all_or_none(workers, path, lambda: _begin(aside) if workers.leads else None)
        with workers.reached():
            writer = HuggingFaceStorageWriter(str(aside), save_distributed=True)
            save(tensors, storage_writer=writer, process_group=workers.group)
        found = _all_or_none(workers, path, lambda: _digests(aside, workers))
        digests = {name: digest for part in found for name, digest in part.items()}
        _all_or_none(workers, path, lambda: _finish(path, aside, digests, facts) if workers.leads else None)
    except (CheckpointException, RuntimeError, OSError) as error:
        raise RegardError(f"cannot write {path}: {_reason(error)}; nothing was changed") from error
    finally:
        if workers.leads:
            shutil.rmtree(aside, ignore_errors=True)


def last_good(folder: Path, workers: Workers) -> tuple[Path, dict[str, Any], str]:
    """The newest checkpoint of a run that is not damaged, of either kind; and what was wrong with a newer one.

    All processes ask together, each looks at a part of the files. RegardError where none is left.
    """
    problems: list[str] = []
    for path, facts, unreadable in workers.told(standing(folder)):
        wrong = [unreadable] if unreadable else [one for one in workers.gathered(_damage(path, workers)) if one]
        if not wrong:
            note = f"{problems[0]}; going on from the one before it, of step {facts['step']}" if problems else ""
            return path, facts, note
        problems.append(wrong[0])
    raise RegardError(problems[0] if problems else f"there is no checkpoint {folder / FOLDER} to resume from")


def read_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in one process."""
    tensors = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in _sizes(path).items()}
    _read(path, tensors, Workers())
    return tensors


def tensors_of(run: Run, placement: CutPlacement) -> dict[str, Tensor]:
    """What `regard.training.checkpoints.tensors_of` has, by the same names, each as the part that is here."""
    here, tensors = placement.here, {}
    for name, value in run.model.state_dict().items():
        tensors[f"model.{name}"] = placement.laid_out(name, here[name]) if name in here else value
    for place, optimizer in enumerate(run.optimizers):
        names = _names(placement, optimizer)
        for number, part in optimizer.state_dict()["state"].items():
            for field, value in part.items():
                own = names[number]
                cut = value.dim() > 0 and value.shape == here[own].shape
                tensors[f"optimizer.{place}.{number}.{field}"] = placement.laid_out(own, value) if cut else value
    for name, value in run.averaging.tensors().items():
        tensors[f"averaging.{name}"] = placement.laid_out(name, value)
    for number, snapshot in enumerate(run.snapshots):  # the first process has them
        tensors |= {f"snapshot.{number}.{name}": value for name, value in snapshot.items()}
    return tensors


def restore_cut(run: Run, placement: CutPlacement, path: Path) -> dict[str, Tensor]:
    """Put a checkpoint's tensors back, each process what belongs to it; these, as the parts that are here."""
    state, owners = run.model.state_dict(), {}
    tensors: dict[str, Tensor] = {}
    for name, stored in _sizes(path).items():
        kind, _, rest = name.partition(".")
        if kind == "snapshot" and not run.workers.leads:
            continue
        owner = rest
        if kind == "optimizer":
            place, number, _ = rest.split(".")
            owner = _names(placement, run.optimizers[int(place)])[int(number)]
        cut = kind != "snapshot" and owner in placement.here and tuple(stored.size) == tuple(state[owner].shape)
        if cut:
            owners[name] = owner
        empty = torch.empty(stored.size, dtype=stored.properties.dtype, device=placement.device)
        tensors[name] = placement.vessel(owner) if cut else empty
    _read(path, tensors, run.workers)
    found = {name: placement.taken(owners[name], one) if name in owners else one for name, one in tensors.items()}
    _put(run, placement, found)
    return found


def _put(run: Run, placement: CutPlacement, tensors: dict[str, Tensor]) -> None:
    state = run.model.state_dict()
    with torch.no_grad():
        for name, value in under("model.", tensors).items():
            (placement.here[name] if name in placement.here else state[name]).copy_(value)
    put_in_optimizers(run.optimizers, tensors)
    run.snapshots = snapshots_in(tensors)


def _names(placement: CutPlacement, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of an optimiser's parameters, in the order in which it counts them."""
    names = {id(part): name for name, part in placement.here.items()}
    return [names[id(part)] for group in optimizer.param_groups for part in group["params"]]


# --- files ------------------------------------------------------------------------------------------------------------


class _Only(FileSystem):
    """A folder in which nothing but some files is seen."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = [str(file) for file in files]

    def ls(self, path: str | os.PathLike[str]) -> list[str]:
        return self.files


def _reader(path: Path) -> HuggingFaceStorageReader:
    """Of a folder of parts, or of the one file of an uncut run."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    reader = HuggingFaceStorageReader(str(path if path.is_dir() else path.parent))
    reader.fs = _Only(files)
    return reader


def _sizes(path: Path) -> dict[str, Any]:
    sizes: dict[str, Any] = _reader(path).read_metadata().state_dict_metadata
    return sizes


def _read(path: Path, tensors: dict[str, Tensor], workers: Workers) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # one process needs none
            load(tensors, storage_reader=_reader(path), process_group=workers.group, no_dist=workers.count == 1)
    except (CheckpointException, RuntimeError, OSError) as error:
        raise RegardError(f"the checkpoint {path} cannot be read: {_reason(error)}") from error


def _begin(aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)


def _finish(path: Path, aside: Path, digests: dict[str, str], facts: dict[str, Any]) -> None:
    """Write what the first process knows, and let the new folder take the old one's place."""
    told = json.dumps(facts)
    whole = {"digest": hashlib.blake2b(told.encode(), digest_size=16).hexdigest(), "files": digests, "facts": told}
    with (aside / FACTS_FILE).open("w", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.rmtree(path.with_name(PREVIOUS_FOLDER), ignore_errors=True)
        path.replace(path.with_name(PREVIOUS_FOLDER))
    aside.replace(path)


def _digests(folder: Path, workers: Workers) -> dict[str, str]:
    """Of this process's share of the files of a folder, which are on the disk then."""
    files = sorted(folder.glob("*.safetensors"))[workers.rank :: workers.count]
    return {file.name: _digest(file) for file in files}


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
        os.fsync(file.fileno())
    return found.hexdigest()


def _damage(path: Path, workers: Workers) -> str:
    """What is wrong with this process's share of a checkpoint's files; empty where nothing is."""
    try:
        if path.is_file():
            if workers.leads:
                load_checkpoint(path)
            return ""
        wanted = json.loads((path / FACTS_FILE).read_text(encoding="utf-8"))["files"]
        for name in sorted(wanted)[workers.rank :: workers.count]:
            if not (path / name).is_file():
                return f"the checkpoint {path} is damaged: {name} is missing"
            if _digest(path / name) != wanted[name]:
                return f"the checkpoint {path} is damaged: the digest of {name} is another one"
    except RegardError as error:
        return str(error)
    except (OSError, ValueError, KeyError) as error:
        return f"the checkpoint {path} is damaged: {error}"
    return ""


def _all_or_none(workers: Workers, path: Path, act: Any) -> list[Any]:
    """What each process's part comes to; RegardError in all of them where it failed in one."""
    try:
        found, problem = act(), ""
    except OSError as error:
        found, problem = None, error.strerror or str(error)
    answers = workers.gathered((found, problem))
    for _, wrong in answers:
        if wrong:
            raise RegardError(f"cannot write {path}: {wrong}; nothing was changed")
    return [one for one, _ in answers]


def _reason(error: BaseException) -> str:
    """In one line; of several processes' failures the first one's."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
