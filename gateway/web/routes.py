"""The HTTP face: parse, call, answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route, request_response

from gateway.core.callback import revealed, wish_of_headers
from gateway.core.errors import GatewayError, StoreUnavailable, invalid, unavailable
from gateway.core.job import Job, Target
from gateway.core.keys import job_key
from gateway.graph import items
from gateway.jobs.copies import Copies, CopyRequest, Refused, Started
from gateway.jobs.schedule import retry_hint
from gateway.jobs.watch import tell_end
from gateway.store import Store
from gateway.streams import cursor
from gateway.streams.stream import Stream, come_back
from gateway.streams.tails import Tails
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.web.access import Access, unknown_job
from gateway.web.answers import json_answer
from gateway.web.bodies import body_of, json_object
from gateway.web.passing import PassedOn, passed_back

MOST_JOBS = 200
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_UPSTREAM_HEADERS = ("Authorization", "Prefer", "client-request-id", "traceparent", "tracestate")
_CALLBACK_HEADERS = ("Gateway-Callback-Url", "Gateway-Callback-Events")
_READ_HEADERS = (*_UPSTREAM_HEADERS, "Accept", "If-None-Match")
_FORWARDED = {"read": "{item}", "copy": "{item}/copy"}
FORWARDED = tuple(f"/{version}/{rest}" for version in ("v1.0", "beta") for rest in _FORWARDED.values())
"""What Graph's requests are counted and logged as."""

log = EventLog("gateway.routes")


class Routes:
    """`public_url` is without a final slash; None takes it from each request."""

    def __init__(
        self,
        *,
        store: Store,
        copies: Copies,
        tails: Tails,
        metrics: Metrics,
        read_item: Callable[..., Any],
        stop_watching: Callable[[str], None],
        access: Access,
        public_url: str | None,
        send_timeout: float,
        stream_max_age: float,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store = store
        self._copies = copies
        self._tails = tails
        self._metrics = metrics
        self._read_item = read_item
        self._stop_watching = stop_watching
        self._access = access
        self._public_url = public_url
        self._send_timeout = send_timeout
        self._stream_max_age = stream_max_age
        self._clock = clock
        self._rng = rng

    def table(self) -> list[BaseRoute]:
        return [
            Route("/jobs/{job}/events", self.job_events),
            Route("/events", self.events),
            Route("/jobs/{job}", self.job),
            Route("/jobs/{job}", self.stop, methods=["DELETE"]),
            Route("/jobs", self.jobs),
            Route("/jobs", self.watch, methods=["POST"]),
            Mount("/v1.0", app=request_response(self.graph)),
            Mount("/beta", app=request_response(self.graph)),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/metrics", self.figures),
            Route("/openapi.json", self.openapi),
            Route("/asyncapi.json", self.asyncapi),
            Route("/docs", self.docs),
        ]

    async def graph(self, request: Request) -> Response:
        """Start a copy, or read an item."""
        path = request.scope["raw_path"].decode("latin-1")
        asked = items.parse(request.method, path)
        request.scope["gateway.route"] = f"/{asked.version}/{_FORWARDED[asked.action]}"
        if query := request.scope["query_string"]:
            path += "?" + query.decode("latin-1")
        if asked.action == "read":
            return PassedOn(self._read_item(path, _taken(request, _READ_HEADERS)))
        callback = wish_of_headers(*(_taken(request, _CALLBACK_HEADERS).get(name) for name in _CALLBACK_HEADERS))
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
        """Watch a monitor URL that the caller holds."""
        self._access.check(request)
        wish = json_object(await body_of(request))
        url = wish.get("monitorUrl")
        if not isinstance(url, str):
            raise invalid("monitorUrl must be a text: the URL that upstream gave in Location.")
        for name, limit in (("operation", 64), ("driveId", 256)):
            value = wish.get(name)
            if value is not None and not (isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()):
                raise invalid(f"{name} must be a text of 1 to {limit} printable characters, or be left out.")
        target = Target(drive_id=wish.get("driveId"), trace=_trace(request))
        job = await self._copies.watch(url, target, wish.get("operation") or "ItemCopy")
        return self._accepted(request, Started(job))

    async def jobs(self, request: Request) -> Response:
        """List jobs, newest first."""
        self._access.check(request)
        query = request.query_params
        limit = query.get("limit", "50")
        if not re.fullmatch(r"\d{1,3}", limit) or not 1 <= int(limit) <= MOST_JOBS:
            raise invalid(f"limit must be a whole number from 1 to {MOST_JOBS}.")
        try:
            found, following = await self._store.page(
                limit=int(limit), status=query.get("status"), before=query.get("cursor")
            )
        except ValueError:
            raise invalid("cursor is not one that this gateway gave. Take it from nextLink.") from None
        answer: dict[str, Any] = {"value": [job.state for job in found]}
        if following is not None:
            link = request.url.include_query_params(cursor=following)
            answer["nextLink"] = f"{self._base(request)}/jobs?{link.query}"
        return json_answer(answer)

    async def job(self, request: Request) -> Response | Stream:
        """A job's state now, or its stream when that is preferred."""
        if prefers_stream(request.headers.get("Accept", "")):
            return await self.job_events(request)
        job = await self._store.get(request.path_params["job"])
        if job is None:
            raise unknown_job()
        if job.state.ended:
            return json_answer(job.state)
        return json_answer(job.state, 202, {"Retry-After": str(retry_hint(self._clock() - job.created))})

    async def stop(self, request: Request) -> Response:
        """Stop watching a job."""
        job_id = request.path_params["job"]
        self._access.check(request, job_id)
        now = self._clock()
        job = await self._store.stop(job_id, now)
        if job is None:
            raise unknown_job()
        self._stop_watching(job_id)
        if job.ended == now:  # and not before
            tell_end(job, self._metrics)
        return Response(status_code=204)

    async def job_events(self, request: Request) -> Response | Stream:
        """A job's event stream."""
        return await self._stream(request, [request.path_params["job"]])

    async def events(self, request: Request) -> Response | Stream:
        """Several jobs' events on one stream."""
        job_ids = request.query_params.getlist("job")
        if not 1 <= len(job_ids) <= MOST_JOBS or len(set(job_ids)) != len(job_ids):
            raise invalid(f"Name 1 to {MOST_JOBS} different jobs, as ?job=A&job=B.")
        return await self._stream(request, job_ids)

    async def health(self, _request: Request) -> Response:
        return json_answer({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        if self._tails.draining:
            raise unavailable("The gateway is shutting down.", 1)
        await self._store.ping()
        return json_answer({"status": "ready"})

    async def figures(self, request: Request) -> Response:
        figures, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return Response(figures, headers={"Content-Type": content_type})

    async def openapi(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - most gateways are never asked, and all start

        return Response(docs.openapi_json(self._base(request)), media_type="application/json")

    async def asyncapi(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - as above

        return Response(docs.asyncapi_json(self._base(request)), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        from gateway.web import docs  # noqa: PLC0415 - as above

        return HTMLResponse(docs.html(self._base(request)), headers={"Content-Security-Policy": docs.POLICY})

    async def _stream(self, request: Request, job_ids: Sequence[str]) -> Response | Stream:
        last = cursor.last_id(request.headers.get("Last-Event-ID"), request.query_params)
        try:
            self._judge_room()
            heads = await self._tails.heads(job_ids)
            self._judge_room()  # many that came at once have waited together
        except (GatewayError, StoreUnavailable):
            if request.method == "GET":
                reason = "draining" if self._tails.draining else "full" if self._tails.full else "store"
                self._metrics.streams_refused.labels(reason).inc()
                log.warning("stream_refused", reason=reason, resumed=last is not None)
            if last is None:
                raise
            return come_back(self._rng)  # EventSource would take any status but 200 for the end
        if all(head is None for head in heads):
            raise unknown_job()
        where = cursor.positions(last, [head.head if head else cursor.GONE for head in heads])
        if all(
            at == cursor.GONE if head is None else head.ended and at >= head.head
            for head, at in zip(heads, where, strict=True)
        ):
            return Response(status_code=204)
        return Stream(
            self._tails,
            self._metrics,
            job_ids,
            heads,
            where,
            send_timeout=self._send_timeout,
            max_age=self._stream_max_age * self._rng.uniform(0.8, 1.0),
        )

    def _judge_room(self) -> None:
        """Raises GatewayError when no stream may be opened now."""
        if self._tails.draining:
            raise unavailable("The gateway is shutting down. Open the stream again.", 1)
        if self._tails.full:
            raise unavailable("The gateway has as many streams open as it may. Try again later.", 5)

    def _accepted(self, request: Request, started: Started) -> Response:
        job: Job = started.job
        location = f"{self._base(request)}/jobs/{job.id}"
        content = msgspec.to_builtins(job.state) | {
            "events": f"{location}/events",
            "jobKey": job_key(self._store.secret, job.id),
        }
        if started.callback is not None:
            content["callback"] = revealed(started.callback)
        request.scope["gateway.span"].of_job(job.id)
        answer = json_answer(content, 202, {"Location": location})
        for name in ("request-id", "client-request-id"):
            if name in started.upstream:
                answer.headers[name] = started.upstream[name]
        return answer

    def _base(self, request: Request) -> str:
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get("Host", "")
        if not _HOST.fullmatch(host):
            server = request.scope.get("server") or ("127.0.0.1", 80)
            host = f"{server[0]}:{server[1]}"
        return f"{request.scope['scheme']}://{host}"


def prefers_stream(accept: str) -> bool:
    """Whether an `Accept` header names event streams before JSON: by quality, then by order; `*/*` alone is JSON."""
    stream = json = -1.0
    first = ""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if re.fullmatch(r"q=(0(\.\d{0,3})?|1(\.0{0,3})?)", parameter):
                quality = float(parameter[2:])
        if kind == "text/event-stream":
            stream = quality
            first = first or "stream"
        elif kind == "application/json":
            json = quality
            first = first or "json"
    return stream > 0 and (stream > json or (stream == json and first == "stream"))


def _trace(request: Request) -> str | None:
    place: str | None = request.scope["gateway.span"].place
    return place


def _taken(request: Request, names: Sequence[str]) -> dict[str, str]:
    return {name: ", ".join(request.headers.getlist(name)) for name in names if name in request.headers}
