"""A stream of one or several jobs' events as a Server-Sent Events response.

A stream holds a cursor and never a queue. While it is caught up with its tails it costs no task: the tails push into
its socket. When the socket is full (a slow consumer), a task waits until it is writable and then catches up from the
log; a reader that reads nothing for `send_timeout` seconds is cut off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
import msgspec
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Event, chunk, frame
from gateway.store import Slice
from gateway.streams import cursor
from gateway.streams.tails import Tail, Tails
from gateway.telemetry.logs import EventLog
from gateway.telemetry.metrics import Metrics

RETRY = b"retry: 2000\n\n"
HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no", "Incremental": "?1"}
"""Of a stream: what stands between must not keep, compress or hold back its events (RFC 9111, nginx, RFC 10036)."""
log = EventLog("gateway.sse")

_COMMENT = b":\n\n"
_HEARTBEAT = chunk(_COMMENT)
_LAST_CHUNK = b"0\r\n\r\n"
_STORE_RETRY_SECONDS = 1.0


class Transport(Protocol):
    """A connection on which the head of the response was sent. `full` is true for a slow consumer: the write buffer is
    above its high-water mark. `timed_out` is true once the kernel has closed it, since the peer read nothing.

    The owner writes whole chunks, each with one `write`. Its `released` is called once, when the connection was handed
    back or closed.
    """

    @property
    def full(self) -> bool: ...

    @property
    def timed_out(self) -> bool: ...

    def hijack(self, owner: Subscriber) -> None: ...

    @property
    def write(self) -> Callable[[bytes], None]: ...

    async def writable(self) -> None: ...

    def hand_back(self, flush_seconds: float) -> None: ...

    def abort(self) -> None: ...


class Stream(EventSourceResponse):
    """`heads` and `positions` are in the order of `job_ids`: each log's head, and the number after which to read it.

    The response sends its headers and hands the connection to a `Subscriber`, which outlives the request. The base
    class provides the headers, and the whole response to HEAD. Its tasks and its process-wide state serve its own
    `__call__` only.
    """

    _base = vars(EventSourceResponse(iter(()), headers=HEADERS, ping=0))
    """The attributes that the base class sets, made once: this saves a twentieth of the cost of opening a stream."""

    _head = tuple(line for line in _base["raw_headers"] if line[0] != b"connection")
    """Without a `Connection` of the base class: the server says whether the connection is kept."""

    def __init__(
        self,
        tails: Tails,
        metrics: Metrics,
        job_ids: Sequence[str],
        heads: Sequence[Slice | None],
        positions: list[int],
        *,
        send_timeout: float,
        max_age: float,
    ) -> None:
        vars(self).update(self._base)
        self.raw_headers = [*self._head]  # middleware appends its headers to this list
        self._subscriber = Subscriber(tails, metrics, positions, send_timeout)
        self._job_ids = job_ids
        self._heads = heads
        self._max_age = max_age

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._subscriber.begin(scope["gateway.connection"], self._job_ids, self._heads, self._max_age)


class Subscriber:
    """A stream as its tails see it. `positions` holds, for each job, the number of the newest event sent."""

    weight = 1

    __slots__ = (
        "_end_reason",
        "_ending",
        "_follows",
        "_is_catching_up",
        "_metrics",
        "_positions",
        "_send_timeout",
        "_sent",
        "_sent_at",
        "_tails",
        "_timer",
        "_transport",
        "_write",
    )

    _transport: Transport
    _write: Callable[[bytes], None]
    _timer: asyncio.TimerHandle

    def __init__(self, tails: Tails, metrics: Metrics, positions: list[int], send_timeout: float) -> None:
        self._tails = tails
        self._metrics = metrics
        self._sent = metrics.sent
        self._positions = positions
        self._send_timeout = send_timeout
        self._follows: dict[Tail, int] = {}
        self._is_catching_up = True
        self._end_reason = ""
        self._ending: tuple[bytes, str] | None = None
        self._sent_at = 0.0

    async def begin(
        self, transport: Transport, job_ids: Sequence[str], heads: Sequence[Slice | None], max_age: float
    ) -> None:
        """Send all events after the cursor. Afterwards the tails push to the reader, without a task.

        The stream ends after `max_age` seconds at the latest.
        """
        self._transport = transport
        self._write = transport.write
        self._timer = asyncio.get_running_loop().call_later(max_age, self.finish, b"", "expired")
        self._tails.come(self, of_many=len(job_ids) > 1)
        for place, (job_id, head) in enumerate(zip(job_ids, heads, strict=True)):
            if head is not None and not (head.ended and self._positions[place] >= head.head):
                self._follows[self._tails.join(job_id, head, self)] = place
        transport.hijack(self)
        if self._tails.draining:
            self.finish(b"", "drained")
        await self._catch_up(RETRY + self._gone_frames(job_ids, heads))

    def push(self, tail: Tail, events: Sequence[Event], shared: bytes) -> None:
        if self._is_catching_up or self._end_reason:
            return  # the catch-up task reads the log
        if self._transport.full:
            self._start_catching_up()
            return
        if len(self._positions) == 1 and self._positions[0] < events[0].seq:
            self._positions[0] = events[-1].seq
            self._sent.events += len(events)
            self._send(shared)
        else:
            place = self._follows.get(tail)
            if place is None:
                return  # the last event of this log was sent meanwhile
            events = [event for event in events if event.seq > self._positions[place]]
            if events:
                self._send(chunk(self._frames(place, events)))
                self._sent_at = self._now()
        if tail.ended:
            self._unfollow(tail)
            if not self._follows:
                self._end("ended")

    def beat(self, now: float) -> None:
        is_alone = len(self._positions) == 1
        if self._is_catching_up or self._end_reason or (not is_alone and now - self._sent_at < self._tails.heartbeat):
            return
        if self._transport.full:
            self._start_catching_up()
            return
        self._sent_at = now
        self._send(_HEARTBEAT)

    def finish(self, last_words: bytes, reason: str, grace: float | None = None) -> None:
        if self._end_reason:
            return
        self._ending = (last_words, reason)
        if self._is_catching_up or self._transport.full:
            if grace is not None:
                asyncio.get_running_loop().call_later(grace, self._cut, reason)
            if not self._is_catching_up:
                self._start_catching_up()
            return
        self._send_last(*self._ending)

    def fail(self, error: Exception) -> None:
        log.warning("send_failed", error=type(error).__name__)
        self._cut("failed")

    def released(self) -> None:
        self._timer.cancel()
        for tail in list(self._follows):
            self._unfollow(tail)
        self._tails.go(self)
        self._end_reason = self._end_reason or ("stalled" if self._transport.timed_out else "left")
        self._metrics.streams_ended.labels(self._end_reason).inc()
        if self._end_reason == "stalled":
            log.warning("stream_cut", jobs=len(self._positions), after=self._send_timeout)

    def _unfollow(self, tail: Tail) -> None:
        del self._follows[tail]
        self._tails.leave(tail, self)

    def _gone_frames(self, job_ids: Sequence[str], heads: Sequence[Slice | None]) -> bytes:
        frames = []
        for place, head in enumerate(heads):
            if head is None and self._positions[place] != cursor.GONE:
                self._positions[place] = cursor.GONE
                data = msgspec.json.encode({"jobId": job_ids[place]})
                frames.append(frame(cursor.composite(self._positions), b"event: gone\ndata: %b\n\n" % data))
        return b"".join(frames)

    def _frames(self, place: int, events: Sequence[Event]) -> bytes:
        frames = []
        for event in events:
            self._positions[place] = event.seq
            frames.append(frame(cursor.composite(self._positions), event.body()))
        self._sent.events += len(events)
        return b"".join(frames)

    def _send(self, data: bytes) -> None:
        self._sent.bytes += len(data)
        self._write(data)

    def _start_catching_up(self) -> None:
        """Start a task that reads the log once the full socket is writable again."""
        self._is_catching_up = True
        self._tails.spawn(self._catch_up(b""))

    async def _catch_up(self, first: bytes) -> None:
        """Send `first` and the events after the cursor, until the stream is caught up with all tails or ends."""
        try:
            await self._send_when_writable(first)
            while not self._end_reason:
                if self._ending is not None:
                    self._send_last(*self._ending)
                    return
                behind = next(
                    (tail for tail, place in self._follows.items() if self._positions[place] < tail.head), None
                )
                if behind is not None:
                    await self._read_next(behind)
                elif self._follows:
                    self._is_catching_up = False
                    self._sent_at = self._now()
                    return
                else:
                    self._end("ended")
        except Exception as error:  # noqa: BLE001 - one reader's error must not end the task group of all readers
            self.fail(error)
        except BaseException:
            self._cut("drained")
            raise

    async def _read_next(self, tail: Tail) -> None:
        try:
            events = await self._tails.after(tail, self._positions[self._follows[tail]])
        except StoreUnavailable:
            await self._send_when_writable(_COMMENT)
            await anyio.sleep(_STORE_RETRY_SECONDS)
            return
        if self._end_reason:
            return
        body = self._frames(self._follows[tail], events)
        if not events or events[-1].terminal:
            self._unfollow(tail)
        await self._send_when_writable(body)

    async def _send_when_writable(self, body: bytes) -> None:
        if self._transport.full:
            with anyio.move_on_after(self._send_timeout) as waiting:
                await self._transport.writable()
            if waiting.cancelled_caught:
                self._cut("stalled")
        if body and not self._end_reason:
            self._send(chunk(body))

    def _send_last(self, last_words: bytes, reason: str) -> None:
        if last_words:
            self._send(chunk(last_words))
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._send(_LAST_CHUNK)
        self._end_reason = reason
        self._transport.hand_back(self._send_timeout)

    def _cut(self, reason: str) -> None:
        """Abort the connection, even in the middle of an event."""
        if not self._end_reason:
            self._end_reason = reason
            self._transport.abort()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def come_back(rng: random.Random) -> Response:
    """The response to a refused stream that resumes: EventSource reconnects after it, but not after an error status."""
    body = b"retry: %d\n\n: busy, come back\n\n" % rng.randint(4000, 6000)
    return Response(body, media_type="text/event-stream", headers=HEADERS)
