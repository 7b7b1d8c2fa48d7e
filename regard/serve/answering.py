"""What the routes share: the service as it runs, errors as answers, JSON that is always valid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from regard.errors import RegardError
from regard.serve.engine import BusyError, Engine, LateError
from regard.serve.looks import plain
from regard.serve.schemas import Problem
from regard.serve.settings import Settings
from regard.serve.shelf import NotReadyError, Shelf, Volume
from regard.serve.traces import Traces

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": said}
    for code, said in {
        400: "The body is no JSON.",
        401: "The token is missing or another.",
        403: "Another site's page, or another name of this machine.",
        404: "There is no such path.",
        405: "Another method.",
        413: "The body is larger than allowed.",
        422: "Something in it is wrong; the message says what would be right.",
        429: "This client has too many requests under way.",
        503: "Too many requests wait, or the model is not ready.",
        504: "The answer took too long.",
    }.items()
}


@dataclass
class Service:
    """A running service."""

    settings: Settings
    shelf: Shelf
    engine: Engine
    traces: Traces

    def find(self, name: str, ability: str | None = None) -> Volume:
        """A model that can be asked."""
        return self.shelf.find(name, ability)

    def check(self, texts: list[str]) -> list[str]:
        """Texts that are not too long."""
        for text in texts:
            if len(text) > self.settings.length:
                raise RegardError(f"a text of {len(text):,} characters: at most {self.settings.length:,} are taken")
        return texts


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    found: Service = request.app.state.service
    return found


def said(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON, with null for numbers that it cannot say."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode("utf-8", errors="replace")
    return Response(body, status, headers, media_type="application/json")


def problem(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every client reads it; its form is OpenAI's."""
    shown = message.encode("utf-8", errors="replace").decode()
    return JSONResponse({"error": {"message": shown, "type": kind, "code": status}}, status, headers)


def problem_of(error: Exception) -> JSONResponse | None:
    """How an expected error is answered; None for a bug."""
    if isinstance(error, RegardError):
        return problem(422, str(error), "invalid_request_error")
    if isinstance(error, BusyError):
        return problem(503, "too many requests wait: come back in a second", "overloaded", {"Retry-After": "1"})
    if isinstance(error, NotReadyError):
        return problem(503, str(error), "not_ready", {"Retry-After": "5"})
    if isinstance(error, LateError):
        return problem(504, "this took longer than this service waits: ask for less", "timeout")
    return None


def add_problems(app: FastAPI) -> None:
    """Every error in one form, and none with what a client sent in it beyond where it stood."""

    async def expected(_: Request, error: Exception) -> Response:
        found = problem_of(error)
        assert found is not None
        return found

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(400, "the body is no JSON", "invalid_request_error")
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return problem(422, f"{where[:200]}: {first['msg']}", "invalid_request_error")

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), "invalid_request_error", dict(error.headers or {}))

    for kind in (RegardError, BusyError, NotReadyError, LateError):
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
