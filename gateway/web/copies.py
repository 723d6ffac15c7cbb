"""Graph's own requests, forwarded: start a copy, read an item. And the watch of a monitor URL that the caller has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.callback import as_registered, callback_request_from_headers
from gateway.core.errors import invalid
from gateway.core.job import Job, Target
from gateway.core.keys import job_key
from gateway.graph import items
from gateway.jobs.copies import Copies, CopyRequest, Refused, Started
from gateway.web.answers import PassedOn, json_answer, passed_back
from gateway.web.requests import Access, PublicUrl, body_of, json_object

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UPSTREAM_HEADERS = ("Authorization", "Prefer", "client-request-id", "traceparent", "tracestate")
_CALLBACK_HEADERS = ("Gateway-Callback-Url", "Gateway-Callback-Events", "Gateway-Callback-Secret")
_READ_HEADERS = (*_UPSTREAM_HEADERS, "Accept", "If-None-Match")
_FORWARDED = {"read": "{item}", "copy": "{item}/copy"}
FORWARDED = tuple(f"/{version}/{rest}" for version in ("v1.0", "beta") for rest in _FORWARDED.values())
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
        """Start a copy, or read an item. Raises GatewayError."""
        path = request.scope["raw_path"].decode("latin-1")
        asked = items.parse(request.method, path)
        request.scope["gateway.route"] = f"/{asked.version}/{_FORWARDED[asked.action]}"
        if query := request.scope["query_string"]:
            path += "?" + query.decode("latin-1")
        if asked.action == "read":
            return PassedOn(self._read_item(path, _taken(request, _READ_HEADERS)))
        callback = callback_request_from_headers(
            *(_taken(request, _CALLBACK_HEADERS).get(name) for name in _CALLBACK_HEADERS)
        )
        body = await body_of(request)
        json_object(body)
        headers = _taken(request, _UPSTREAM_HEADERS)
        headers["Content-Type"] = request.headers.get("Content-Type", "application/json")
        key = request.headers.get("Idempotency-Key")
        if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
            raise invalid("Idempotency-Key must be 1 to 255 visible ASCII characters. Nothing was started.")
        try:
            started = await self._copies.start(
                CopyRequest(asked.version, asked.prefix, path, body, headers, key, callback, _trace(request))
            )
        except Refused as refused:
            return passed_back(refused.reply, refused.status)
        return self._accepted(request, started)

    async def watch(self, request: Request) -> Response:
        """Watch a monitor URL that the caller has. Raises GatewayError."""
        self._access.check(request)
        wanted = json_object(await body_of(request))
        url = wanted.get("monitorUrl")
        if not isinstance(url, str):
            raise invalid("monitorUrl must be a text: the URL that upstream gave in Location.")
        for name, limit in (("operation", 64), ("driveId", 256)):
            value = wanted.get(name)
            if value is not None and not (isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()):
                raise invalid(f"{name} must be a text of 1 to {limit} printable characters, or be left out.")
        target = Target(drive_id=wanted.get("driveId"), trace=_trace(request))
        job = await self._copies.watch(url, target, wanted.get("operation") or "ItemCopy")
        return self._accepted(request, Started(job))

    def _accepted(self, request: Request, started: Started) -> Response:
        job: Job = started.job
        location = f"{self._public_url.of(request)}/jobs/{job.id}"
        content = msgspec.to_builtins(job.state) | {
            "events": f"{location}/events",
            "jobKey": job_key(self._secret, job.id),
        }
        if started.callback is not None:
            content["callback"] = as_registered(started.callback)
        request.scope["gateway.span"].of_job(job.id)
        answer = json_answer(content, 202, {"Location": location})
        for name in ("request-id", "client-request-id"):
            if name in started.upstream:
                answer.headers[name] = started.upstream[name]
        return answer


def _trace(request: Request) -> str | None:
    place: str | None = request.scope["gateway.span"].place
    return place


def _taken(request: Request, names: Sequence[str]) -> dict[str, str]:
    return {name: ", ".join(request.headers.getlist(name)) for name in names if name in request.headers}
