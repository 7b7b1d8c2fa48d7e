"""Before every route: who may ask, from which page, how much at a time; and what a browser may do with the answer."""

from __future__ import annotations

import hmac
import time
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regard.serve.answering import problem
from regard.serve.metrics import Metrics
from regard.serve.settings import Settings

_OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")
_HERE = ("localhost", "127.0.0.1", "[::1]")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """Refuses what must not come in, counts what does."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        began, status = time.perf_counter(), 500

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._mark(MutableHeaders(scope=message), headers)
            await send(message)

        client = (scope.get("client") or ("?",))[0]
        try:
            refused = self._refused(scope, headers, client)
            if refused is not None:
                await refused(scope, receive, answered)
                return
            self._under_way[client] += 1
            try:
                await self.app(scope, self._measured(receive), answered)
            finally:
                self._under_way[client] -= 1
                if not self._under_way[client]:
                    del self._under_way[client]
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(path, status, time.perf_counter() - began)

    def _refused(self, scope: Scope, headers: Headers, client: str) -> Any:
        """The answer to what must not come in."""
        settings, path = self.settings, scope["path"]
        if not settings.beyond and _name(headers.get("host", "")) not in _HERE:
            return problem(403, "this service answers to localhost only", "forbidden")
        origin = headers.get("origin")
        if origin is not None and not self._allowed(origin, headers):
            return problem(403, "pages of this site may not ask: see --origin", "forbidden")
        if scope["method"] == "OPTIONS" and origin is not None:
            return problem_free(headers)
        guarded = not (path in _OPEN or path.startswith("/page/"))
        if guarded and settings.token is not None:
            given = headers.get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(given, f"Bearer {settings.token}".encode()):
                return problem(401, "send the token: Authorization: Bearer ...", "unauthorized",
                               {"WWW-Authenticate": "Bearer"})  # fmt: skip
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > settings.body:
            return problem(413, f"a body has at most {settings.body:,} bytes", "too_large")
        if guarded and self._under_way[client] >= settings.a_client:
            return problem(429, "too many requests of yours are under way", "rate_limited", {"Retry-After": "1"})
        return None

    def _allowed(self, origin: str, headers: Headers) -> bool:
        """Whether a page asks that is this service's own, or of a site that was named."""
        own = {f"http://{headers.get('host', '')}", f"https://{headers.get('host', '')}"}
        return origin in own or origin in self.settings.origins

    def _measured(self, receive: Receive) -> Receive:
        """A body that says no length is counted as it comes."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.settings.body:
                raise HTTPException(413, f"a body has at most {self.settings.body:,} bytes")
            return message

        return counted

    def _mark(self, answer: MutableHeaders, headers: Headers) -> None:
        answer["X-Content-Type-Options"] = "nosniff"
        answer["Referrer-Policy"] = "no-referrer"
        answer["Content-Security-Policy"] = _POLICY
        origin = headers.get("origin")
        if origin in self.settings.origins:
            answer["Access-Control-Allow-Origin"] = origin
            answer["Vary"] = "Origin"


def problem_free(headers: Headers) -> Any:
    """The answer to a browser that asks whether a page may ask."""
    from starlette.responses import Response

    wanted = headers.get("access-control-request-headers", "")
    allowed = [name for name in ("authorization", "content-type") if name in wanted.lower()]
    return Response(status_code=204, headers={"Access-Control-Allow-Methods": "GET, POST",
                    "Access-Control-Allow-Headers": ", ".join(allowed), "Access-Control-Max-Age": "600"})  # fmt: skip


def _name(host: str) -> str:
    """A host without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
