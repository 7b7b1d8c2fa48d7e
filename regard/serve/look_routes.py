"""The trace and every view of it, as JSON: what the explorer's page asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from regard.errors import RegardError, unknown
from regard.explain.trace import Trace
from regard.explain.views import VIEWS
from regard.generation.search import Going, search
from regard.sequences import Sequences
from regard.serve import looks
from regard.serve.answering import said, service_of
from regard.serve.schemas import Heads, Tile, Traced, Viewed
from regard.serve.shelf import Volume

router = APIRouter(prefix="/api", tags=["look"])


@router.get("/models")
async def models(request: Request) -> Response:
    """The models, what each can do, and why one could not be opened."""
    return said({"models": [volume.told() for volume in service_of(request).shelf.volumes.values()]})


@router.get("/views")
async def views() -> Response:
    """Every question that can be asked of a trace, and the options it takes."""
    return said({"views": {name: {"asks": one.asks, "models": one.models, "options": one.options}
                           for name, one in VIEWS.items()}})  # fmt: skip


@router.post("/trace")
async def trace(asked: Traced, request: Request) -> Response:
    """The words of each text and of its answer, and which attentions there are."""
    return await _look(asked, request, looks.described)


@router.post("/view/{name}")
async def view(name: str, asked: Viewed, request: Request) -> Response:
    """One view: `results`, each with `blocks` to draw and `data`."""
    if name not in VIEWS:
        raise unknown("view", name[:100], VIEWS)
    return await _look(asked, request, lambda volume, trace: looks.asked(trace, name, _options(asked, volume)))


@router.post("/process")
async def process(asked: Viewed, request: Request) -> Response:
    """The complete process for one query, all heads, with what the page draws beside it."""
    return await _look(asked, request, lambda volume, trace: looks.process(trace, _options(asked, volume)))


@router.post("/heads")
async def heads(asked: Heads, request: Request) -> Response:
    """All heads of one kind of attention."""
    return await _look(asked, request, lambda _, trace: looks.heads(trace, asked.kind, asked.row))


@router.post("/map")
async def tile(asked: Tile, request: Request) -> Response:
    """A region of one head's map at a resolution: the largest and the mean weight in each cell."""
    regions = slice(*asked.queries), slice(*asked.keys)

    def work(_: Volume, trace: Trace) -> Any:
        return looks.tile(trace, asked.place, asked.head, *regions, asked.resolution, asked.row)

    return await _look(asked, request, work)


@router.post("/answers")
async def answers(asked: Viewed, request: Request) -> Response:
    """How the answer came about: alternatives with their token ids, shares, the beam as a tree."""
    return await _look(asked, request, lambda volume, trace: looks.answers(volume, trace, _options(asked, volume)))


@router.post("/what-if")
async def what_if(asked: Viewed, request: Request) -> Response:
    """The answer before and with `edits` (as in `regard explain --edit`)."""

    def work(volume: Volume, trace: Trace) -> Any:
        return looks.what_if(volume, trace, asked.edits, _options(asked, volume))

    return await _look(asked, request, work)


async def _look(asked: Traced, request: Request, work: Callable[[Volume, Trace], Any]) -> Response:
    """A look at the trace of what was asked for, taken now or kept."""
    service = service_of(request)
    volume = service.find(asked.model)
    service.check(asked.texts)

    def found() -> Any:
        return looks.plain(work(volume, service.traces.get(asked.subject(), volume)))

    return said(await service.engine.run(found))


def _options(asked: Viewed, volume: Volume) -> Any:
    """The options; with beams a search is run and watched."""
    seen: list[Going] = []
    if asked.beams > 1:
        if volume.kind != "translator" or asked.begin:
            raise RegardError("beams are for translators, and for answers that are not begun by hand")
        pipeline = volume.pipeline
        source = Sequences.of_ids([pipeline.check(text) for text in asked.texts])
        search(pipeline.model, source, pipeline.search(asked.beams, 0.6), seen)
    return asked.options(seen=seen)
