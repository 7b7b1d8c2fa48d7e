"""The trace and every view of it, as JSON: what the explorer's page asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from regard.serve.answering import said, service_of
from regard.serve.direct import LOOKS, Look, models_of, view_of
from regard.serve.direct import views as all_views
from regard.serve.looks import plain
from regard.serve.schemas import Heads, Tile, Traced, Viewed

router = APIRouter(prefix="/api", tags=["look"])


@router.get("/models")
async def models(request: Request) -> Response:
    """The models, what each can do, and why one could not be opened."""
    return said(models_of(service_of(request).shelf))


@router.get("/views")
async def views() -> Response:
    """Every question that can be asked of a trace, and the options it takes."""
    return said(all_views())


@router.post("/trace")
async def trace(asked: Traced, request: Request) -> Response:
    """The words of each text and of its answer, and which attentions there are."""
    return await _look(asked, request, LOOKS["trace"][1])


@router.post("/view/{name}")
async def view(name: str, asked: Viewed, request: Request) -> Response:
    """One view: `results`, each with `blocks` to draw and `data`."""
    return await _look(asked, request, view_of(name))


@router.post("/process")
async def process(asked: Viewed, request: Request) -> Response:
    """The complete process for one query, all heads, with what the page draws beside it."""
    return await _look(asked, request, LOOKS["process"][1])


@router.post("/heads")
async def heads(asked: Heads, request: Request) -> Response:
    """All heads of one kind of attention."""
    return await _look(asked, request, LOOKS["heads"][1])


@router.post("/map")
async def tile(asked: Tile, request: Request) -> Response:
    """A region of one head's map at a resolution: the largest and the mean weight in each cell."""
    return await _look(asked, request, LOOKS["map"][1])


@router.post("/answers")
async def answers(asked: Viewed, request: Request) -> Response:
    """How the answer came about: alternatives with their token ids, shares, the beam as a tree."""
    return await _look(asked, request, LOOKS["answers"][1])


@router.post("/what-if")
async def what_if(asked: Viewed, request: Request) -> Response:
    """The answer before and with `edits` (as in `regard explain --edit`)."""
    return await _look(asked, request, LOOKS["what-if"][1])


async def _look(asked: Traced, request: Request, look: Look) -> Response:
    """A look at the trace of what was asked for, taken now or kept."""
    service = service_of(request)
    volume = service.find(asked.model)
    service.check(asked.texts)

    def found() -> Any:
        return plain(look(asked, volume, service.traces.get(asked.subject(), volume)))

    return said(await service.engine.run(found))
