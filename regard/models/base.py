"""What every model has: a configuration, and a folder it is saved to and loaded from.

A model folder holds `config.json`, `model.safetensors`, `tokenizer.json` and `README.md` (the model card). Weights are
read with safetensors only: a model file can hold numbers, never code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from regard.errors import RegardError

Storage = Literal["float32", "float16", "int8"]
_SCALE = ".scale"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
LEARNING = "learning"
"""A part of this name serves training alone: checkpoints hold it, model folders do not."""

C = TypeVar("C", bound="Config")
M = TypeVar("M", bound="Model")


class Config(BaseModel):
    """A model's configuration: frozen, unknown fields refused. Field names are Hugging Face's where those exist."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    """Which system it is; the name in `regard.models.catalog`."""

    @property
    def width(self) -> int:
        """D, whatever the system calls it."""
        for name in ("d_model", "hidden_size", "n_embd", "dim"):
            if hasattr(self, name):
                return int(getattr(self, name))
        raise AttributeError(f"{type(self).__name__} does not say its width")


class Model(nn.Module):
    """Base of the models: holds the configuration, saves and loads."""

    config_class: ClassVar[type[Config]]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config: Any = config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def count_parameters(self) -> int:
        """Number of trained values; a shared matrix counts once."""
        return sum(value.numel() for name, value in self.named_parameters() if not _is_learning(name))

    def save(self, folder: Path, storage: Storage = "float32") -> None:
        """Write configuration and weights into an existing folder; `storage` says how weights are rounded on disk."""
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        kept = {name: value.cpu() for name, value in self.state_dict().items() if not _is_learning(name)}
        weights = _packed(kept, storage)
        (folder / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt", "storage": storage}))

    @classmethod
    def load(cls: type[M], folder: Path) -> M:
        """Read a model back, in float32 and ready to answer (`eval`).

        Raises RegardError where a file is missing or damaged, or where weights and configuration do not agree; it names
        what is missing, too much, of another shape, or not a number.
        """
        model = cls(read_config(cls.config_class, folder))
        weights = read_weights(folder / WEIGHTS)
        check_weights(model, weights, folder / WEIGHTS)
        model.load_state_dict(weights)
        return model.eval()


def _is_learning(name: str) -> bool:
    return name.startswith(f"{LEARNING}.")


def read_config(kind: type[C], folder: Path) -> C:
    try:
        return kind.model_validate(read_json(folder / CONFIG))
    except ValidationError as error:
        raise RegardError(f"{folder / CONFIG}: {first_problem(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; RegardError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RegardError(f"{path.parent} is not a model folder: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise RegardError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise RegardError(f"{path} holds no JSON object")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """All weights of a safetensors file, in float32."""
    try:
        with safe_open(path, framework="pt") as file:
            return _unpacked({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise RegardError(f"{path.parent} is not a model folder: it has no {path.name}") from error
    except (SafetensorError, OSError) as error:
        raise RegardError(f"{path} is damaged or not a safetensors file: {error}") from error


def check_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Hold the tensors of a file against what the model needs, and name every difference at once."""
    needed = model.state_dict()
    problems = [f"missing {name}" for name in needed if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in needed]
    for name in needed.keys() & weights.keys():
        if weights[name].shape != needed[name].shape:
            problems.append(f"{name} is {_shape(weights[name])}, the configuration asks for {_shape(needed[name])}")
        elif not bool(weights[name].isfinite().all()):
            problems.append(f"{name} holds values that are not numbers")
    if problems:
        raise RegardError(f"{path} does not fit its {CONFIG}: {'; '.join(sorted(problems))}")


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as `field: what`."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown field {place!r}{more}"
    if problem["type"] == "value_error":  # our own words
        return f"{place}: {problem['ctx']['error']}{more}"
    return f"{place}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {problem['input']!r}{more}"


def _packed(weights: dict[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Weights as they go to disk. int8: each row of a matrix as -127..127 beside its scale; the rest as float16."""
    if storage != "int8":
        return {name: value.to(getattr(torch, storage)).contiguous() for name, value in weights.items()}
    packed = {}
    for name, value in weights.items():
        if value.dim() != 2:
            packed[name] = value.half()
            continue
        scale = (value.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
        packed[name] = (value / scale).round().to(torch.int8)
        packed[name + _SCALE] = scale
    return packed


def _unpacked(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_packed`, whatever the storage was."""
    weights = {}
    for name, value in stored.items():
        if name.endswith(_SCALE):
            continue
        weights[name] = value.float()
        if value.dtype == torch.int8 and name + _SCALE in stored:
            weights[name] *= stored[name + _SCALE]
    return weights


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
