"""Lets requests in: counts them, asks for the token if there is one, and says when the service is stopping."""

from __future__ import annotations

import hmac
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distcls.serving.metrics import Metrics
from distcls.serving.problems import UNAUTHORIZED

DEMO = "/demo/"
"""Below it lies the demo page, which asks for the token itself."""


class Gate:
    """Wraps an application. Written for ASGI itself, because FastAPI's middleware costs as much as decoding an image.

    Set `is_stopping`, and each answer asks its client to close the connection.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None, public: frozenset[str]) -> None:
        """public: paths that need no token."""
        self.app, self.metrics, self.token, self.public = app, metrics, token, public
        self.is_stopping = False
        self.direct: dict[str, ASGIApp] = {}
        """Applications for POST requests without a query, by their paths."""
        self.num_answering = 0
        """Requests that are being answered, without those of the demo page, which may be streams without an end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_page = scope["path"].startswith(DEMO)
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.is_stopping:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        self.num_answering += not is_page
        try:
            if self.token is None or is_page or scope["path"] in self.public or self._has_token(scope):
                direct = None if scope["query_string"] or scope["method"] != "POST" else self.direct.get(scope["path"])
                await (direct or self.app)(scope, receive, watched)
            else:
                await _unauthorized(scope, receive, watched)
        finally:
            self.num_answering -= not is_page
            route = scope["path"] if scope["path"] in self.direct else getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, _method(scope), str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _has_token(self, scope: Scope) -> bool:
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "replace")
        return kind.lower() == "bearer" and hmac.compare_digest(given, (self.token or "").encode())


def _method(scope: Scope) -> str:
    """Return the request's method, of which a sender could otherwise make up any number."""
    return scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    answer = JSONResponse(
        {"error": "give the service's token: Authorization: Bearer TOKEN"},
        UNAUTHORIZED,
        headers={"www-authenticate": "Bearer"},
    )
    await answer(scope, receive, send)
