"""The common parts of all responses, own or passed on: request ids, headers, the format of errors."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.errors import (
    CORS_NOT_ALLOWED,
    GENERAL_EXCEPTION,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    UNAUTHENTICATED,
    UPSTREAM_UNREACHABLE,
    GatewayError,
    unavailable,
)
from gateway.graph.client import Broken, ItemReply, NotSent, Unanswered
from gateway.outbound.reply import Reply
from gateway.streams.wait import HOLD, RawHeaders
from gateway.telemetry.logs import EventLog, context
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import OFF, Span, Tracing

_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,128}")
_CLEAN = re.compile(r"[\x20-\x7e\t]{0,8192}")
"""What may come back of upstream's header values. No server or proxy between here and the caller refuses one."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""The methods of all routes."""

EXPOSED_HEADERS = ("Location", "Retry-After", "ETag", "request-id", "client-request-id")
"""The response headers that scripts of other origins may read."""

PREFLIGHT_SECONDS = 3600
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

NO_ROUTE = "other"
"""The route name, in metrics and logs, of a request that matches no route."""
_QUIET = ("/healthz", "/readyz", "/metrics", "/page/{part}", "/follow.js")
"""Routes whose requests are logged at debug: probes, scrapes, and the files of the page."""

log = EventLog("gateway.requests")
_PASSED_BACK = (
    "Content-Type",
    "Content-Encoding",
    "Content-Location",
    "Retry-After",
    "WWW-Authenticate",
    "ETag",
    "request-id",
    "client-request-id",
)
_SANDBOX = {"Content-Security-Policy": "sandbox"}
_NO_ROUTE = "There is no such route. Graph's requests begin with /v1.0 or /beta; /docs lists every route."


class RequestMiddleware:
    """The outermost layer: gives each request its ids and each response the common headers, counts the request, and
    logs one line. Only POST, PATCH and DELETE have a span: a GET may be a stream, or come every second.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server's parser leaves what HTTP allows behind a value and does not count as part of it.
        scope["headers"] = [(name, value.rstrip(b" \t")) for name, value in scope["headers"]]
        asked = Headers(scope=scope)
        method = scope["method"]
        span = (self._tracing if method in ("POST", "PATCH", "DELETE") else OFF).serving(method, asked)
        exchange = Exchange(method, asked.get("client-request-id", ""), span, self._metrics)
        scope["gateway.ids"] = exchange.ids
        scope["gateway.span"] = span

        async def start(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.route = scope.get("gateway.route") or str(getattr(scope.get("route"), "path", NO_ROUTE))
                if HOLD in message:
                    message[HOLD](partial(exchange.finish, message["headers"]))
                    return
                message["headers"] = exchange.headers(message["status"], message.get("headers", ()))
            await send(message)

        before = context.set(exchange.fields)
        try:
            with span:
                await self._app(scope, receive, start)
        finally:
            context.reset(before)


class Exchange:
    """One request and its response, which may come after the request's task has ended."""

    __slots__ = ("_begun", "_client_id", "_is_named", "_metrics", "_request_id", "_span", "method", "route")

    def __init__(self, method: str, client_id: str, span: Span, metrics: Metrics) -> None:
        self._begun = time.perf_counter()
        self._request_id = str(uuid.uuid4())
        self._is_named = _CLIENT_ID.fullmatch(client_id) is not None
        self._client_id = client_id if self._is_named else self._request_id
        self._span = span
        self._metrics = metrics
        self.method = method
        self.route = NO_ROUTE

    @property
    def ids(self) -> dict[str, str]:
        """The headers that name the request."""
        return {"request-id": self._request_id, "client-request-id": self._client_id}

    @property
    def fields(self) -> dict[str, str | None]:
        """What each line of the log names the request by."""
        return {
            "request_id": self._request_id,
            "client_request_id": self._client_id if self._is_named else None,
            "trace_id": self._span.trace_id,
        }

    def headers(self, status: int, headers: RawHeaders) -> RawHeaders:
        """All headers of the response, which is counted and logged."""
        given = {name.lower(): value for name, value in headers}
        own = ((name.encode(), value.encode()) for name, value in self.ids.items())
        self._span.name(f"{self.method} {self.route}")
        self._span.answered(status)
        self._metrics.requests.labels(self.route, f"{status // 100}xx").inc()
        line: dict[str, Any] = {
            "method": self.method,
            "route": self.route,
            "status": status,
            "ms": round((time.perf_counter() - self._begun) * 1000, 1),
            "upstream_request_id": given[b"request-id"].decode("latin-1") if b"request-id" in given else None,
        }
        if self.route in _QUIET:
            log.debug("request", **line)
        else:
            log.info("request", **line)
        return [*headers, *(line for line in (*_EVERYWHERE, *own) if line[0] not in given)]

    def finish(self, outer: RawHeaders, status: int, headers: RawHeaders) -> RawHeaders:
        """The same for a response that was held, in no request's context; `outer` are headers of other layers."""
        before = context.set(self.fields)
        try:
            return self.headers(status, [*headers, *outer])
        finally:
            context.reset(before)


class Refusals:
    """Answers the requests that the server refuses: malformed, too large or too slow ones."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = scope.get("gateway.refusal")
        if refusal is None:
            await self._app(scope, receive, send)
            return
        headers = {"Allow": ", ".join(METHODS)} if refusal.kind is METHOD_NOT_ALLOWED else None
        await error_answer(scope, refusal, headers)(scope, receive, send)


class Cors(CORSMiddleware):
    """Starlette's, without credentials. So an allowed origin may send any request header; refusals are Graph's errors,
    also when no origin is allowed.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked = Headers(scope=scope)
            if scope["method"] == "OPTIONS" and "origin" in asked and "access-control-request-method" in asked:
                refusal = self._refusal(asked)
                answer = self.preflight_response(asked) if refusal is None else error_answer(scope, refusal)
                answer.headers.update(self._preflight_headers(asked["origin"]))
                await answer(scope, receive, send)
                return
            if self.allow_origins:
                await self.simple_response(scope, receive, send, asked)
                return
        await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight that is not refused."""
        names = _listed(request_headers)
        return PlainTextResponse("OK", headers={"Access-Control-Allow-Headers": ", ".join(names)} if names else None)

    def _preflight_headers(self, origin: str) -> dict[str, str]:
        """Also of a refusal: without them a browser tells of the origin, not of what was refused."""
        if not self.is_allowed_origin(origin):
            return {"Vary": self.preflight_headers["Vary"]}
        return {"Access-Control-Allow-Origin": origin} | self.preflight_headers  # those have the `*` if it is allowed

    def _refusal(self, asked: Headers) -> GatewayError | None:
        origin, method = asked["origin"], asked["access-control-request-method"]
        if not self.is_allowed_origin(origin):
            what = f"The origin {_shown(origin)} may not call this gateway"
            return GatewayError(CORS_NOT_ALLOWED, f"{what}. The operator allows origins with GATEWAY_CORS_ORIGINS.")
        if method not in METHODS:
            what = f"No route has the method {_shown(method)}"
            return GatewayError(CORS_NOT_ALLOWED, f"{what}. Use one of {', '.join(METHODS)}.")
        if not all(_HEADER_NAME.fullmatch(name) for name in _listed(asked)):
            return GatewayError(CORS_NOT_ALLOWED, "Access-Control-Request-Headers must be a list of header names.")
        return None


def _listed(asked: Headers) -> list[str]:
    """The request headers that a preflight asks for."""
    names = ",".join(asked.getlist("access-control-request-headers")).split(",")
    return [name.strip(" \t") for name in names if name.strip(" \t")]


def _shown(value: str) -> str:
    """A header's value for an error's text."""
    return re.sub(r"[^\x21-\x7e]", "?", value[:128])


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def error_answer(scope: Scope, error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:
    """An error in Graph's format, with upstream's request ids if upstream has answered."""
    ids = {**scope["gateway.ids"], **error.ids}
    content = {
        "error": {
            "code": error.kind.code,
            "message": error.message,
            "innerError": {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), **ids},
        }
    }
    answer = json_answer(content, error.kind.status, headers)
    answer.headers.update(error.ids)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    if error.kind is UNAUTHENTICATED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


async def on_gateway_error(request: Request, error: Exception) -> Response:
    return error_answer(request.scope, cast("GatewayError", error))


async def on_store_unavailable(request: Request, error: Exception) -> Response:
    log.warning("store_unavailable", error=str(error))
    return error_answer(request.scope, unavailable("The gateway's store is not available now. Try again."))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an error of the router itself."""
    http = cast("HTTPException", error)
    if http.status_code == 404:
        failure = GatewayError(NOT_FOUND, _NO_ROUTE)
    elif http.status_code == 405:
        failure = GatewayError(METHOD_NOT_ALLOWED)
    else:
        failure = GatewayError(INVALID_REQUEST, f"{http.detail}.")
    return error_answer(request.scope, failure, http.headers)


async def on_fault(request: Request, _error: Exception) -> Response:
    return error_answer(request.scope, GatewayError(GENERAL_EXCEPTION))


def passed_back(reply: Reply, status: int) -> Response:
    """Upstream's answer with its body and some of its headers; `status` may differ from upstream's."""
    return Response(reply.body, status, clean(reply.headers, _PASSED_BACK) | _SANDBOX)


class PassedOn(Response):
    """Upstream's response to the read of an item, streamed without holding it in memory."""

    def __init__(self, reading: AbstractAsyncContextManager[ItemReply]) -> None:
        super().__init__()
        self._reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            async with self._reading as reply:
                await self._pass_on(reply, scope, send)
        except Unanswered as failure:
            log.warning("read_failed", cause=str(failure))
            what = "could not be reached" if isinstance(failure, NotSent) else "did not answer"
            raise GatewayError(UPSTREAM_UNREACHABLE, f"Upstream {what}. Try again.") from None

    async def _pass_on(self, reply: ItemReply, scope: Scope, send: Send) -> None:
        location = clean({} if reply.location is None else {"Location": reply.location}, ("Location",))
        self.init_headers(clean(reply.headers, _PASSED_BACK) | _SANDBOX | location)
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": reply.code, "headers": headers})
        connection = scope["gateway.connection"]
        try:
            async for chunk in reply.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if connection.transport.is_closing():
                    break  # the caller has left
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
        except Broken as failure:
            log.warning("read_failed", cause=str(failure))
            connection.abort()  # a proper end would make half an item look whole
        await asyncio.sleep(0)  # the server hears that it is closed, and does not take the response for forgotten


def clean(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """The named headers of upstream's whose values are clean. Of several with a name, the first."""
    found = {name: headers[name] for name in names if name in headers}
    return {name: value for name, value in found.items() if _pattern(name).fullmatch(value)}


def _pattern(name: str) -> re.Pattern[str]:
    return _CLIENT_ID if name.endswith("request-id") else _CLEAN
