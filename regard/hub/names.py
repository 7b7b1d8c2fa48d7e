"""Whose tensor is whose: tables of names, read in one direction and written in the other.

A table has one entry for each of our tensors: the names of the foreign tensors that it is made of, end to end. Where
one is missing, nothing is made of the others: they stay under their own names, so that the check of a model against its
weights names everything that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from regard.errors import RegardError
from regard.models.base import Config, first_problem

Names = dict[str, tuple[str, ...]]
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_python": "gelu", "swish": "silu"}
C = TypeVar("C", bound=Config)


def from_theirs(names: Names, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our tensors, and those of theirs that no entry of the table needs."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs in names.items():
        if all(name in weights for name in theirs):
            parts = [weights[name] for name in theirs]
            found[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
            used.update(theirs)
    return found, {name: value for name, value in weights.items() if name not in used}


def to_theirs(
    names: Names, weights: Mapping[str, Tensor], sizes: Mapping[str, list[int]] | None = None
) -> dict[str, Tensor]:
    """Their tensors; RegardError if one of ours has no place there.

    One of ours is cut into parts of the `sizes` that stand under its name, or into equal ones.
    """
    if unknown := sorted(weights.keys() - names.keys()):
        raise RegardError(f"no name in this format for {', '.join(unknown)}")
    found: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        if ours in weights:
            cut = (sizes or {}).get(ours)
            parts = weights[ours].chunk(len(theirs)) if cut is None else weights[ours].split(cut)
            found.update(zip(theirs, parts, strict=True))
    return {name: value.clone() for name, value in found.items()}


def with_suffixes(names: Mapping[str, Iterable[str]], suffixes: Iterable[str] = ("weight", "bias")) -> Names:
    """The entries of whole modules as entries of their tensors."""
    return {
        f"{ours}.{suffix}": tuple(f"{name}.{suffix}" for name in theirs)
        for ours, theirs in names.items()
        for suffix in suffixes
    }


def refuse(fields: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]) -> None:
    """RegardError for the first field whose value is not among those that we compute; a field may be absent."""
    for name, values in supported.items():
        if name in fields and fields[name] not in values:
            allowed = " or ".join(repr(value) for value in values)
            raise RegardError(f"{name} {fields[name]!r} is not supported, only {allowed}")


def validated(kind: type[C], fields: dict[str, Any]) -> C:
    """A configuration of ours; RegardError if a value does not fit."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RegardError(f"the configuration does not fit: {first_problem(error)}") from error


def activation(name: str) -> str:
    """Our name of a non-linearity; some have several."""
    return _ACTIVATIONS.get(name, name)


def label_names(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes, in the order of their numbers; two without a name where nothing is said."""
    named = fields.get("id2label") or {number: f"LABEL_{number}" for number in range(fields.get("num_labels", 2))}
    return tuple(named[number] for number in sorted(named, key=int))


def label_fields(labels: tuple[str, ...]) -> dict[str, Any]:
    """The two fields that name the classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def same(config: Config, written: Config, except_for: tuple[str, ...] = ()) -> None:
    """RegardError where a written configuration, read again, is not what it was: the format cannot say it.

    What only training asks for may be lost: `except_for`.
    """
    ours, theirs = config.model_dump(exclude=set(except_for)), written.model_dump()
    if lost := [f"{name} {value!r}" for name, value in ours.items() if theirs.get(name) != value]:
        raise RegardError(f"this format cannot say {', '.join(lost)}")
