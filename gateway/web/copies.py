"""Graph's own requests, forwarded: start a copy or another operation, read an item. And the watch of a monitor URL that
the caller has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.callback import as_registered, callback_request_from_headers
from gateway.core.errors import invalid
from gateway.core.job import Job, Target
from gateway.core.keys import job_key
from gateway.graph import operations
from gateway.graph.operations import COPY, MOVE, OPERATIONS, READ, GraphRequest
from gateway.jobs.copies import Answered, Copies, Started, request_ids
from gateway.jobs.request import LONGEST_LABEL, CopyRequest, is_label
from gateway.jobs.schedule import retry_hint
from gateway.web.answers import PassedOn, clean, json_answer, passed_back
from gateway.web.requests import Access, PublicUrl, body_of, json_object

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UPSTREAM_HEADERS = ("Authorization", "Accept-Language", "Prefer", "client-request-id", "traceparent", "tracestate")
_CALLBACK_HEADERS = ("Gateway-Callback-Url", "Gateway-Callback-Events", "Gateway-Callback-Secret")
_READ_HEADERS = (*_UPSTREAM_HEADERS, "Accept", "If-None-Match")
_HEADERS_OF_OTHERS = (*_UPSTREAM_HEADERS, "Accept", "If-Match")
FORWARDED = tuple(f"/{version}/{operation.path}" for version in ("v1.0", "beta") for operation in OPERATIONS)
"""The route names of Graph's requests in metrics and logs."""


class CopyRoutes:
    """`secret` is the store's; `read_item` takes a raw path and headers and opens upstream's response."""

    def __init__(
        self,
        copies: Copies,
        read_item: Callable[..., Any],
        access: Access,
        public_url: PublicUrl,
        *,
        secret: bytes,
    ) -> None:
        self._copies = copies
        self._read_item = read_item
        self._access = access
        self._public_url = public_url
        self._secret = secret

    async def graph(self, request: Request) -> Response:
        """Start a copy or another operation, or read an item. Raises GatewayError."""
        path = request.scope["raw_path"].decode("latin-1")
        asked = operations.parse(request.method, path)
        request.scope["gateway.route"] = f"/{asked.version}/{asked.operation.path}"
        query = request.scope["query_string"].decode("latin-1")
        path = f"{asked.path}?{query}" if query else asked.path
        if asked.operation is READ:
            return PassedOn(self._read_item(path, _taken(request, _READ_HEADERS)))
        try:
            started = await self._copies.start(await _checked(request, asked, path))
        except Answered as answered:
            return passed_back(answered.reply, answered.status)
        return self._accepted(request, started)

    async def watch(self, request: Request) -> Response:
        """Watch a monitor URL that the caller has. Raises GatewayError."""
        self._access.check(request)
        wanted = json_object(await body_of(request))
        url = wanted.get("monitorUrl")
        if not isinstance(url, str):
            raise invalid("monitorUrl must be a text: the URL that upstream gave in Location.")
        for name, limit in (("operation", 64), ("driveId", 256), ("label", LONGEST_LABEL)):
            value = wanted.get(name)
            if value is not None and not (isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()):
                raise invalid(f"{name} must be a text of 1 to {limit} printable characters, or be left out.")
        target = Target(drive_id=wanted.get("driveId"), trace=_trace(request))
        job = await self._copies.watch(url, target, wanted.get("operation") or "ItemCopy", wanted.get("label"))
        return self._accepted(request, Started(job))

    def _accepted(self, request: Request, started: Started) -> Response:
        job: Job = started.job
        location = f"{self._public_url.of(request)}/jobs/{job.id}"
        content = msgspec.to_builtins(job.state) | {
            "events": f"{location}/events",
            "jobKey": job_key(self._secret, job.id),
        }
        if job.monitor is not None and operations.of(job.target).asks_for_token:
            content["operationLocation"] = _path_of(job.monitor)
        if started.callback is not None:
            content["callback"] = as_registered(started.callback)
        request.scope["gateway.span"].of_job(job.id)
        headers = {"Location": location}
        if started.repeated and job.state.ended:
            answer = json_answer(content, 200, headers)
        else:
            answer = json_answer(content, 202, headers | {"Retry-After": str(retry_hint(started.age))})
        answer.headers.update(request_ids(started.upstream))
        answer.headers.update(clean(started.upstream, ("Content-Location",)))
        return answer


def _path_of(url: str) -> str:
    """The path and query of a URL, as a reference that leads nowhere but to the same host."""
    parts = urlsplit(url)
    path = f"/.{parts.path}" if parts.path.startswith("//") else parts.path or "/"  # `//` would begin a host
    return urlunsplit(("", "", path, parts.query, ""))


async def _checked(request: Request, asked: GraphRequest, path: str) -> CopyRequest:
    """The request for a copy or another operation. Raises GatewayError."""
    callback = callback_request_from_headers(
        *(_taken(request, _CALLBACK_HEADERS).get(name) for name in _CALLBACK_HEADERS)
    )
    body: bytes | None = await body_of(request)
    operation = asked.operation
    if not body and not operation.needs_body:
        body, content = None, {}
    else:
        content = json_object(body or b"")
    if operation is MOVE and not isinstance(content.get("parentReference"), dict):
        raise operations.not_forwarded("PATCH without a parentReference in its body")
    headers = _taken(request, _UPSTREAM_HEADERS if operation is COPY else _HEADERS_OF_OTHERS)
    kind = request.headers.get("Content-Type", None if body is None else "application/json")
    if kind is not None:
        headers["Content-Type"] = kind
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise invalid("Idempotency-Key must be 1 to 255 visible ASCII characters. Nothing was started.")
    return CopyRequest(
        method=request.method,
        asked=asked,
        path=path,
        body=body,
        content=content,
        headers=headers,
        idempotency_key=key,
        callback=callback,
        label=_label(request),
        trace=_trace(request),
    )


def _label(request: Request) -> str | None:
    """The value of `Gateway-Label`: UTF-8 if its bytes are, else Latin-1. Raises GatewayError."""
    label = _taken(request, ("Gateway-Label",)).get("Gateway-Label")
    if label is None:
        return None
    with suppress(UnicodeDecodeError):
        label = label.encode("latin-1").decode()
    if not is_label(label):
        raise invalid(f"Gateway-Label must be 1 to {LONGEST_LABEL} printable characters. Nothing was started.")
    return label


def _trace(request: Request) -> str | None:
    place: str | None = request.scope["gateway.span"].place
    return place


def _taken(request: Request, names: Sequence[str]) -> dict[str, str]:
    return {name: ", ".join(request.headers.getlist(name)) for name in names if name in request.headers}
