"""A request that waits for news of one job: a reader of the job's tail that writes nothing until it is answered.

As a stream, a wait hijacks its connection and has no task. The tail, a timer or the drain has it answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.job import Event
from gateway.store import Slice
from gateway.streams.tails import Tail, Tails
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics

HOLD = "gateway.hold"
"""The key in an ASGI message that starts a response whose status is known later. Its value takes a `Finish`."""

RawHeaders = Sequence[tuple[bytes, bytes]]
Finish = Callable[[int, RawHeaders], RawHeaders]
"""Gets the status and the headers of a response that was held; returns all its headers."""

log = EventLog("gateway.sse")

_SEQ = attrgetter("seq")


class Transport(Protocol):
    """A connection on which nothing of the response was sent. Its `released` is called once, as for a stream.

    `has_ended`: the client sends no more, so that its leaving would not be seen.
    """

    @property
    def has_ended(self) -> bool: ...

    def hijack(self, owner: Wait) -> None: ...

    def respond(self, status: int, headers: RawHeaders, body: bytes, flush_seconds: float) -> None: ...

    def abort(self) -> None: ...


class Wait:
    """The response to a request that waits, at most `seconds`, for news.

    `known` is the newest event when the request came. `is_news` gets the number of a log's newest event and whether the
    log has ended, and says whether the wait ends. `answer` makes the response from the newest event; it also gets
    whether the wait was as long as preferred, which it is unless the gateway drains or the client may have left. The
    client has `send_timeout` seconds to read the response.
    """

    weight = 20
    """Its push makes and logs a whole response."""

    __slots__ = (
        "_answer",
        "_finish",
        "_is_head",
        "_is_news",
        "_job_id",
        "_known",
        "_metrics",
        "_reason",
        "_seconds",
        "_send_timeout",
        "_tail",
        "_tails",
        "_timer",
        "_transport",
    )

    _finish: Finish
    _is_head: bool
    _tail: Tail
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        tails: Tails,
        metrics: Metrics,
        job_id: str,
        known: Event,
        is_news: Callable[[int, bool], bool],
        answer: Callable[[Event, bool], Response],
        *,
        seconds: float,
        send_timeout: float,
    ) -> None:
        self._tails = tails
        self._metrics = metrics
        self._job_id = job_id
        self._known = known
        self._is_news = is_news
        self._answer = answer
        self._seconds = seconds
        self._send_timeout = send_timeout
        self._reason = ""
        self._transport: Transport | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Raises StoreUnavailable."""
        self._tails.come(self, of_many=False)
        self._tail = self._tails.join(self._job_id, Slice(self._known.seq, self._known.terminal, ()), self)
        try:
            for newest in await self._tails.after(self._tail, max(self._known.seq, self._tail.head - 1)):
                self._known = newest
            await send({"type": "http.response.start", "status": 202, "headers": [], HOLD: self._hold})
        except BaseException:
            self._leave("failed")
            raise
        self._is_head = scope["method"] == "HEAD"
        self._transport = scope["gateway.connection"]
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._wake, "expired")
        self._transport.hijack(self)
        if self._is_news(self._tail.head, self._tail.ended):
            self._wake("ended")
        elif self._tails.draining:
            self._wake("drained")
        elif self._transport.has_ended:
            self._wake("left")

    def push(self, tail: Tail, events: Sequence[Event], shared: bytes) -> None:  # noqa: ARG002 - as every reader's
        if self._is_news(tail.head, tail.ended):
            self._wake("ended")

    def beat(self, now: float) -> None:
        """Send nothing: the answer has not begun."""

    def finish(self, last_words: bytes, reason: str, grace: float | None = None) -> None:  # noqa: ARG002 - as above
        self._wake(reason)

    def fail(self, error: Exception) -> None:
        log.warning("send_failed", error=type(error).__name__)
        if self._transport is not None:
            self._reason = "failed"
            self._transport.abort()

    def released(self) -> None:
        self._timer.cancel()
        self._leave(self._reason or "left")

    def _hold(self, finish: Finish) -> None:
        self._finish = finish

    def _leave(self, reason: str) -> None:
        self._reason = reason
        self._tails.leave(self._tail, self)
        self._tails.go(self)
        self._metrics.streams_ended.labels(reason).inc()

    def _wake(self, reason: str) -> None:
        if self._reason or self._transport is None:
            return
        self._reason = reason
        newest = self._tail.events[-1] if self._tail.events else self._known
        response = self._answer(max(newest, self._known, key=_SEQ), reason in ("ended", "expired"))
        headers = self._finish(response.status_code, response.raw_headers)
        body = b"" if self._is_head else bytes(response.body)
        self._transport.respond(response.status_code, headers, body, self._send_timeout)
