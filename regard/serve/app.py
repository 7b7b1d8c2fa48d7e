"""The service put together: models, the thread that computes, routes, the page."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

import regard
from regard.pipelines import load
from regard.serve import look_routes, openai_routes, run_routes
from regard.serve.answering import PROBLEMS, Service, add_problems, problem, said, service_of
from regard.serve.engine import Engine
from regard.serve.guard import Guard
from regard.serve.metrics import Metrics
from regard.serve.reference import reference
from regard.serve.settings import Settings
from regard.serve.shelf import Shelf
from regard.serve.traces import Traces

_ABOUT = """Answers of attention models, and every number behind them.

Errors have one form, `{"error": {"message", "type", "code"}}`. 503 and 429 come with `Retry-After`: come back then."""


def create_app(settings: Settings, loader: Callable[[str], Any] = load) -> FastAPI:
    """A service of these models. They are opened one after the other once it runs; `/ready` tells."""
    metrics = Metrics()
    shelf, traces = Shelf(settings.models, loader), Traces(settings.memory)

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(settings.waiting, settings.batch, settings.seconds)
        engine.batches = metrics.batched
        app.state.service = Service(settings, shelf, engine, traces)
        metrics.watch("regard_waiting", "Requests that wait", lambda: engine.length)
        metrics.watch("regard_trace_bytes", "Bytes of traces that are kept", lambda: traces.size)
        opening = [asyncio.create_task(engine.run(partial(shelf.open, name), patient=True)) for name in shelf.volumes]
        yield
        for task in opening:
            task.cancel()
        engine.stop()

    app = FastAPI(title="regard", version=regard.__version__, description=_ABOUT, docs_url=None, redoc_url=None,
                  lifespan=living, responses=PROBLEMS)  # fmt: skip
    add_problems(app)
    for one in (run_routes, look_routes, openai_routes):
        app.include_router(one.router)
    _add_health(app, metrics)
    _add_page(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _add_health(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/health", tags=["health"])
    async def health() -> Response:
        """Whether the process answers at all."""
        return said({"status": "alive"})

    @app.get("/ready", tags=["health"])
    async def ready(request: Request) -> Response:
        """200 once every model can be asked; else 503, with each model's state and the reason if it failed."""
        shelf = service_of(request).shelf
        told = [{"name": one.name, "state": one.state, "reason": one.reason} for one in shelf.volumes.values()]
        return said({"ready": shelf.ready, "models": told}, 200 if shelf.ready else 503)

    @app.get("/metrics", tags=["health"])
    async def counted() -> Response:
        """Counters and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    """The page's files, read once: what a client names is looked up among them and never opened."""
    found = {one.name: one.read_bytes() for one in files("regard.serve").joinpath("page").iterdir() if one.is_file()}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(found["index.html"], media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in found:
            return problem(404, "there is no such file", "not_found")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
        return Response(found[name], media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The API's reference as a plain page: FastAPI's own would load scripts from another site."""
        return Response(reference(app.openapi()), media_type="text/html; charset=utf-8")
