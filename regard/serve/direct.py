"""What the explorer's page asks, answered without HTTP: by path and body, as the service would. A notebook does so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from regard.errors import RegardError, unknown
from regard.explain.trace import Trace
from regard.explain.views import VIEWS
from regard.generation.search import Going, search
from regard.sequences import Sequences
from regard.serve import looks
from regard.serve.schemas import Heads, Tile, Traced, Viewed
from regard.serve.shelf import Shelf, Volume
from regard.serve.traces import Traces

Look = Callable[[Any, Volume, Trace], Any]


def options_of(asked: Viewed, volume: Volume) -> Any:
    """The options of a view; with beams a search is run and watched."""
    seen: list[Going] = []
    if asked.beams > 1:
        if volume.kind != "translator" or asked.begin:
            raise RegardError("beams are for translators, and for answers that are not begun by hand")
        pipeline = volume.pipeline
        source = Sequences.of_ids([pipeline.check(text) for text in asked.texts])
        search(pipeline.model, source, pipeline.search(asked.beams, 0.6), seen)
    return asked.options(seen=seen)


def _tile(asked: Tile, _: Volume, trace: Trace) -> Any:
    regions = slice(*asked.queries), slice(*asked.keys)
    return looks.tile(trace, asked.place, asked.head, *regions, asked.resolution, asked.row, asked.sampled)


LOOKS: dict[str, tuple[type[Traced], Look]] = {
    "trace": (Traced, lambda _, volume, trace: looks.described(volume, trace)),
    "process": (Viewed, lambda asked, volume, trace: looks.process(trace, options_of(asked, volume))),
    "heads": (Heads, lambda asked, _, trace: looks.heads(trace, asked.kind, asked.row, asked.layer)),
    "map": (Tile, _tile),
    "answers": (Viewed, lambda asked, volume, trace: looks.answers(volume, trace, options_of(asked, volume))),
    "what-if": (
        Viewed,
        lambda asked, volume, trace: looks.what_if(volume, trace, asked.edits, options_of(asked, volume)),
    ),
}
"""By the path's last part: what is asked, and what is answered."""


def view_of(name: str) -> Look:
    """The look that asks one view; RegardError if there is none of this name."""
    if name not in VIEWS:
        raise unknown("view", name[:100], VIEWS)
    return lambda asked, volume, trace: looks.asked(trace, name, options_of(asked, volume))


def models_of(shelf: Shelf) -> dict[str, Any]:
    """The models, what each can do, and why one could not be opened."""
    return {"models": [volume.told() for volume in shelf.volumes.values()]}


def views() -> dict[str, Any]:
    """Every question that can be asked of a trace, and the options it takes."""
    return {
        "views": {
            name: {"asks": one.asks, "models": one.models, "options": list(one.options)} for name, one in VIEWS.items()
        }
    }


def answer(shelf: Shelf, traces: Traces, path: str, body: Any) -> Any:
    """What the service answers; RegardError with what is wrong."""
    name = path.removeprefix("/api/")
    if name == "models":
        return looks.plain(models_of(shelf))
    if name == "views":
        return looks.plain(views())
    schema: type[BaseModel]
    if name.startswith("view/"):
        schema, look = Viewed, view_of(name.removeprefix("view/"))
    elif name in LOOKS:
        schema, look = LOOKS[name]
    else:
        raise unknown("path", path, [f"/api/{one}" for one in LOOKS])
    try:
        asked: Any = schema.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise RegardError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    volume = shelf.find(asked.model)
    return looks.plain(look(asked, volume, traces.get(asked.subject(), volume)))
