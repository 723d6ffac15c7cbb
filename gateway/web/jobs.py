"""The routes of jobs: their list, a job's state, the end of its watch, and the event streams."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.core.errors import JOB_NOT_FOUND, TOKEN_NOT_REQUIRED, GatewayError, StoreUnavailable, invalid, unavailable
from gateway.core.job import Event, Job, kind_of, known_status, reference
from gateway.graph import operations
from gateway.jobs.schedule import retry_hint
from gateway.jobs.tokens import Token, handed_in
from gateway.membership import Runtime
from gateway.store import Store
from gateway.streams import cursor
from gateway.streams.stream import Stream, come_back
from gateway.streams.tails import Tails
from gateway.streams.wait import Wait
from gateway.telemetry.logs import EventLog
from gateway.web import polls
from gateway.web.answers import json_answer
from gateway.web.polls import Poll
from gateway.web.requests import Access, PublicUrl, body_of, json_object, path_id, storable

MOST_JOBS = 200

log = EventLog("gateway.routes")


class JobRoutes:
    """`send_timeout` and `stream_max_age` are in seconds; `stop_watching` ends the polling of a job id, `hand_in` goes
    on with it under a token.
    """

    def __init__(
        self,
        store: Store,
        tails: Tails,
        access: Access,
        public_url: PublicUrl,
        runtime: Runtime,
        *,
        stop_watching: Callable[[str], None],
        hand_in: Callable[[str, Token], Awaitable[Job | None]],
        send_timeout: float,
        stream_max_age: float,
    ) -> None:
        self._store = store
        self._tails = tails
        self._metrics = runtime.metrics
        self._clock = runtime.clock
        self._rng = runtime.rng
        self._access = access
        self._public_url = public_url
        self._stop_watching = stop_watching
        self._hand_in = hand_in
        self._send_timeout = send_timeout
        self._stream_max_age = stream_max_age

    async def jobs(self, request: Request) -> Response:
        """List jobs, newest first."""
        self._access.check(request)
        query = request.query_params
        limit = query.get("limit", "50")
        if not re.fullmatch(r"\d{1,3}", limit) or not 1 <= int(limit) <= MOST_JOBS:
            raise invalid(f"limit must be a whole number from 1 to {MOST_JOBS}.")
        status = known_status(query["status"]) or storable(query["status"]) if "status" in query else None
        try:
            found, following = await self._store.page(limit=int(limit), status=status, before=query.get("cursor"))
        except ValueError:
            raise invalid("cursor is not one that this gateway gave. Take it from nextLink.") from None
        answer: dict[str, Any] = {"value": [job.state for job in found]}
        if following is not None:
            link = request.url.include_query_params(cursor=following)
            answer["nextLink"] = f"{self._public_url.of(request)}/jobs?{link.query}"
        return json_answer(answer)

    async def job(self, request: Request) -> ASGIApp:
        """A job's state, now or after the wait that the caller prefers; its stream when `Accept` prefers that."""
        if prefers_stream(request.headers.get("Accept", "")):
            return await self.job_events(request)
        job = await self._store.get(path_id(request, "job"))
        if job is None:
            raise GatewayError(JOB_NOT_FOUND)
        poll = polls.asked(request.headers)
        answer = partial(self._answer, poll, f"{self._public_url.of(request)}/jobs/{job.id}", job.created)
        now = Event(job.seq, kind_of(job.state.status), status_changed=False, data=msgspec.json.encode(job.state))
        if poll.wait is None or poll.is_answered_by(now.seq, now.terminal):
            return answer(now, is_held=poll.wait is not None)
        if self._tails.draining or self._tails.full:
            self._count_refusal(resumed=False)
            return answer(now, is_held=False)  # a poller comes again, but may take an error for its job's
        return Wait(
            self._tails,
            self._metrics,
            job.id,
            now,
            poll.is_answered_by,
            answer,
            seconds=poll.wait,
            send_timeout=self._send_timeout,
        )

    async def stop(self, request: Request) -> Response:
        """Stop watching a job; the copy goes on."""
        job_id = path_id(request, "job")
        self._access.check(request, job_id)
        now = self._clock()
        job = await self._store.stop(job_id, now)
        if job is None:
            raise GatewayError(JOB_NOT_FOUND)
        self._stop_watching(job_id)
        if job.ended == now:  # this request ended it
            self._metrics.report_end(job)
        return Response(status_code=204)

    async def token(self, request: Request) -> Response:
        """Hand in a token for a job whose status asks for one, and poll it here from now on."""
        job_id = path_id(request, "job")
        self._access.check(request, job_id)
        token = handed_in(json_object(await body_of(request)), self._clock())
        job = await self._store.get(job_id)
        if job is None:
            raise GatewayError(JOB_NOT_FOUND)
        if self._tails.draining:
            raise unavailable("The gateway is shutting down, so the token was not kept. Hand it in again.", 1)
        if not operations.of(job.target).asks_for_token or await self._hand_in(job_id, token) is None:
            raise GatewayError(TOKEN_NOT_REQUIRED)
        log.info("token_handed_in", job=reference(job_id))
        return Response(status_code=204)

    async def job_events(self, request: Request) -> Response:
        """A job's event stream."""
        return await self._stream(request, [path_id(request, "job")])

    async def events(self, request: Request) -> Response:
        """Several jobs' events on one stream."""
        job_ids = request.query_params.getlist("job")
        if not 1 <= len(job_ids) <= MOST_JOBS or len(set(job_ids)) != len(job_ids):
            raise invalid(f"Name 1 to {MOST_JOBS} different jobs, as ?job=A&job=B.")
        return await self._stream(request, job_ids)

    def _answer(self, poll: Poll, url: str, created: float, newest: Event, is_held: bool) -> Response:
        """A poller's answer: the state of a job's newest event, unless the poller has it."""
        headers = {"Preference-Applied": f"wait={poll.wait}"} if is_held else {}
        headers["ETag"] = polls.tag(newest.seq)
        if not newest.terminal:
            headers["Retry-After"] = str(retry_hint(self._clock() - created))
        if poll.knows(newest.seq):
            return Response(status_code=304, headers=headers)
        if not newest.terminal:
            headers["Location"] = url
        return json_answer(msgspec.Raw(newest.data), 200 if newest.terminal else 202, headers)

    async def _stream(self, request: Request, job_ids: Sequence[str]) -> Response:
        last = cursor.last_id(request.headers.get("Last-Event-ID"), request.query_params)
        try:
            self._judge_room()
            heads = await self._store.heads([storable(job_id) for job_id in job_ids])
            self._judge_room()  # many requests may have waited for the store together
        except (GatewayError, StoreUnavailable):
            if request.method == "GET":
                self._count_refusal(resumed=last is not None)
            if last is None:
                raise
            return come_back(self._rng)  # EventSource never reconnects after another status than 200
        if all(head is None for head in heads):
            raise GatewayError(JOB_NOT_FOUND)
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

    def _count_refusal(self, *, resumed: bool) -> None:
        reason = "draining" if self._tails.draining else "full" if self._tails.full else "store"
        self._metrics.streams_refused.labels(reason).inc()
        log.warning("stream_refused", reason=reason, resumed=resumed)

    def _judge_room(self) -> None:
        """Raises GatewayError, 503, when no stream may be opened now."""
        if self._tails.draining:
            raise unavailable("The gateway is shutting down. Open the stream again.", 1)
        if self._tails.full:
            raise unavailable("The gateway has as many streams open as it may. Try again later.")


ACCEPT_LIMIT = 4 << 10
"""Most characters of an `Accept` that are read."""


def prefers_stream(accept: str) -> bool:
    """Whether an `Accept` header prefers event streams to JSON: by quality, then by order; `*/*` alone means JSON."""
    stream = json = -1.0
    first = ""
    for part in accept[:ACCEPT_LIMIT].split(","):
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
