"""A trace as one file (safetensors): what was run, what was computed from it, and which model it belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from regard.errors import RegardError
from regard.explain.cache import Values
from regard.explain.recording import Recording
from regard.explain.trace import MEMORY_BOUND, Trace
from regard.files import written_aside
from regard.layers.recurrence import LSTMState
from regard.modalities.text import Piece
from regard.sequences import Layout, Sequences

_FORMAT = "regard trace 1"


def save(trace: Trace, path: Path) -> None:
    """Write a trace; what leaves one layer and enters the next is written once."""
    run, tensors, lengths = trace.run, {}, {}
    rows = {"source": run.source, "target": run.target, "output": run.output, "memory": run.memory}
    rows |= {f"entering/{place}": trace.entering_all(place) for place in run.layers}
    rows |= {f"leaving/{place}": trace.leaving_all(place) for place in run.layers}
    same: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in rows.items():
        if value is None:
            continue
        same[name] = first.setdefault(id(value.values), name)
        tensors[same[name]] = value.values
        lengths[name] = list(value.lengths)
    if run.segments is not None:
        tensors["segments"] = run.segments
    tensors |= _states(run.states)
    kept = {name: found for name, found in trace.cache.items().items() if not name.startswith("leaving/")}
    tensors |= {f"kept/{name}//{value}": one for name, found in kept.items() for value, one in found.items()}
    about = {
        "format": _FORMAT,
        "model": json.dumps(_identity(trace.model)),
        "same": json.dumps(same),
        "lengths": json.dumps(lengths),
        "pieces": json.dumps(_plain(trace.pieces)),
        "texts": json.dumps(trace.texts),
        "prompts": json.dumps(trace.prompts),
    }
    with written_aside(path) as aside:
        aside.write_bytes(
            as_bytes(
                {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
                about,
            )
        )


def load(path: Path, model: Any = None) -> Trace:
    """Read a trace; `model` None leaves only what was computed before."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise RegardError(f"there is no trace file {path}") from error
    except (SafetensorError, OSError) as error:
        raise RegardError(f"{path} is damaged or not a safetensors file: {error}") from error
    if about.get("format") != _FORMAT:
        raise RegardError(f"{path} holds no trace: give a file that trace.save wrote")
    made_by = json.loads(about["model"])
    if model is not None and _identity(model) != made_by:
        raise RegardError(f"{path} is the trace of another model: a {made_by['type']}, {made_by['weights'][:12]}")
    pieces = {
        side: [[Piece(**one) for one in row] for row in rows] for side, rows in json.loads(about["pieces"]).items()
    }
    recording = _recording(tensors, json.loads(about["same"]), json.loads(about["lengths"]))
    trace = Trace(model, recording.source, pieces=pieces, recording=recording)
    trace.texts, trace.prompts = json.loads(about["texts"]), json.loads(about["prompts"])
    found = _kept(tensors)
    size = sum(value.numel() * value.element_size() for values in found.values() for value in values.values())
    trace.cache.bound = max(MEMORY_BOUND, size)
    for name, values in found.items():
        trace.cache.keep(name, values)
    return trace


def _plain(pieces: Any) -> dict[str, list[list[dict[str, Any]]]]:
    return {side: [[asdict(one) for one in row] for row in texts] for side, texts in pieces.items()}


def _identity(model: Any) -> dict[str, str]:
    """What tells a model from any other: its system, its configuration and a digest of its weights."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return {"type": str(model.config.model_type), "weights": digest.hexdigest()}


def _recording(tensors: Values, same: dict[str, str], lengths: dict[str, list[int]]) -> Recording:
    laid = {
        name: Sequences(tensors[stored], Layout(tuple(lengths[name]), torch.device("cpu")))
        for name, stored in same.items()
    }
    entering, leaving = (
        {name.removeprefix(kind): value for name, value in laid.items() if name.startswith(kind)}
        for kind in ("entering/", "leaving/")
    )
    states: dict[str, Any] = {}
    for name, value in tensors.items():
        kind, _, place = name.partition("/")
        if kind == "state":
            states[place] = value
        elif kind == "state.hidden":
            states[place] = LSTMState(value, tensors[f"state.cell/{place}"])
    return Recording(
        laid["source"],
        laid.get("target"),
        tensors.get("segments"),
        laid["output"],
        laid.get("memory"),
        list(entering),
        entering,
        leaving,
        states,
    )


def _states(states: dict[str, Any]) -> Values:
    found: Values = {}
    for place, state in states.items():
        if isinstance(state, Tensor):
            found[f"state/{place}"] = state
        elif isinstance(state, LSTMState):
            found |= {f"state.hidden/{place}": state.hidden, f"state.cell/{place}": state.cell}
    return found


def _kept(tensors: Values) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for stored, value in tensors.items():
        if stored.startswith("kept/"):
            name, _, part = stored.removeprefix("kept/").rpartition("//")
            found.setdefault(name, {})[part] = value
    return found
