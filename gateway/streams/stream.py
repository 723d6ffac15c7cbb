"""A stream of one or several jobs' events as a Server-Sent Events response.

A stream holds a cursor and never a queue. While it is level with its tails it costs no task at all: the tails push into
its socket. When the socket is full it gets a task that waits and then catches up from the log; a reader that takes
nothing for `send_timeout` is cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
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
log = EventLog("gateway.sse")

_COMMENT = b":\n\n"
_BEAT = chunk(_COMMENT)
_LAST_CHUNK = b"0\r\n\r\n"
_LOOK_AGAIN = 1.0


class Line(Protocol):
    """A connection that the answer's head was sent on; `full` while the peer is behind by more than its buffer takes.

    What is written must be chunks. Whoever takes it is told once, by `lost`, that it is given back or gone.
    """

    @property
    def full(self) -> bool: ...

    def take(self, holder: Feed) -> None: ...

    def write(self, data: bytes) -> None: ...

    async def writable(self) -> None: ...

    def give_back(self, patience: float) -> None: ...

    def abort(self) -> None: ...


class _Nothing:
    """The class wants content; what a stream sends comes from its tails."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


_HEAD = EventSourceResponse(_Nothing(), ping=0)
"""The head of every stream. One, since making it takes a twentieth of what opening a stream does."""


class Stream:
    """`heads` and `where` follow `job_ids`: what was known of each log, and after which number to read it.

    It answers the request and hands the connection to a `Feed`, which stays when all else of the request is gone.
    """

    def __init__(
        self,
        tails: Tails,
        metrics: Metrics,
        job_ids: Sequence[str],
        heads: Sequence[Slice | None],
        where: list[int],
        *,
        send_timeout: float,
        max_age: float,
    ) -> None:
        self._feed = Feed(tails, metrics, where, send_timeout)
        self._job_ids = job_ids
        self._heads = heads
        self._max_age = max_age

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await _HEAD(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": _HEAD.status_code, "headers": list(_HEAD.raw_headers)})
        await self._feed.begin(scope["gateway.connection"], self._job_ids, self._heads, self._max_age)


class Feed:
    """What a stream is to its tails: a line and a cursor, `where`, in the order of its jobs."""

    __slots__ = (
        "_busy",
        "_ending",
        "_follows",
        "_line",
        "_metrics",
        "_over",
        "_send_timeout",
        "_sent",
        "_sent_at",
        "_tails",
        "_timer",
        "_where",
        "_write",
    )

    _line: Line
    _write: Callable[[bytes], None]
    _timer: asyncio.TimerHandle

    def __init__(self, tails: Tails, metrics: Metrics, where: list[int], send_timeout: float) -> None:
        self._tails = tails
        self._metrics = metrics
        self._sent = metrics.sent
        self._where = where
        self._send_timeout = send_timeout
        self._follows: dict[Tail, int] = {}
        self._busy = True
        self._over = ""
        self._ending: tuple[bytes, str] | None = None
        self._sent_at = 0.0

    async def begin(self, line: Line, job_ids: Sequence[str], heads: Sequence[Slice | None], max_age: float) -> None:
        """Bring the reader level; it is then pushed to, without a task, until it is over."""
        self._line = line
        self._write = line.write
        self._timer = asyncio.get_running_loop().call_later(max_age, self.finish, b"", "expired")
        self._tails.come(self, of_many=len(job_ids) > 1)
        for place, (job_id, head) in enumerate(zip(job_ids, heads, strict=True)):
            if head is not None and not (head.ended and self._where[place] >= head.head):
                self._follows[self._tails.join(job_id, head, self)] = place
        line.take(self)
        if self._tails.draining:
            self.finish(b"", "drained")
        await self._go_on(RETRY + self._tell_gone(job_ids, heads))

    def push(self, tail: Tail, events: Sequence[Event], shared: bytes) -> None:
        if self._busy or self._over:
            return  # it reads by itself
        if self._line.full:
            self._lag()
            return
        if len(self._where) == 1 and self._where[0] < events[0].seq:
            self._where[0] = events[-1].seq
            self._sent.events += len(events)
            self._send(shared)
        else:
            place = self._follows.get(tail)
            if place is None:
                return  # it has had the end of this tail meanwhile
            events = [event for event in events if event.seq > self._where[place]]
            if events:
                self._send(chunk(self._frames(place, events)))
                self._sent_at = self._now()
        if tail.ended:
            self._unfollow(tail)
            if not self._follows:
                self._end("ended")

    def beat(self, now: float) -> None:
        is_alone = len(self._where) == 1
        if self._busy or self._over or (not is_alone and now - self._sent_at < self._tails.heartbeat):
            return
        if self._line.full:
            self._lag()
            return
        self._sent_at = now
        self._send(_BEAT)

    def finish(self, last_words: bytes, reason: str, grace: float | None = None) -> None:
        if self._over:
            return
        self._ending = (last_words, reason)
        if self._busy or self._line.full:
            if grace is not None:
                asyncio.get_running_loop().call_later(grace, self._cut, reason)
            if not self._busy:
                self._lag()
            return
        self._say_last(*self._ending)

    def lost(self) -> None:
        self._timer.cancel()
        for tail in list(self._follows):
            self._unfollow(tail)
        self._tails.go(self)
        self._over = self._over or "left"
        self._metrics.streams_ended.labels(self._over).inc()
        if self._over == "stalled":
            log.warning("stream_cut", jobs=len(self._where), after=self._send_timeout)

    def _unfollow(self, tail: Tail) -> None:
        del self._follows[tail]
        self._tails.leave(tail, self)

    def _tell_gone(self, job_ids: Sequence[str], heads: Sequence[Slice | None]) -> bytes:
        told = []
        for place, head in enumerate(heads):
            if head is None and self._where[place] != cursor.GONE:
                self._where[place] = cursor.GONE
                data = msgspec.json.encode({"jobId": job_ids[place]})
                told.append(frame(cursor.composite(self._where), b"event: gone\ndata: %b\n\n" % data))
        return b"".join(told)

    def _frames(self, place: int, events: Sequence[Event]) -> bytes:
        frames = []
        for event in events:
            self._where[place] = event.seq
            frames.append(frame(cursor.composite(self._where), event.body()))
        self._sent.events += len(events)
        return b"".join(frames)

    def _send(self, data: bytes) -> None:
        self._sent.bytes += len(data)
        self._write(data)

    def _lag(self) -> None:
        """The socket is full: read on from the log, in a task, once it takes something again."""
        self._busy = True
        self._tails.spawn(self._go_on(b""))

    async def _go_on(self, first: bytes) -> None:
        """Send what is to be said first and what came after the cursor, until level with all tails, or over."""
        try:
            await self._give(first)
            while not self._over:
                if self._ending is not None:
                    self._say_last(*self._ending)
                    return
                behind = next((tail for tail, place in self._follows.items() if self._where[place] < tail.head), None)
                if behind is not None:
                    await self._read_on(behind)
                elif self._follows:
                    self._busy = False
                    self._sent_at = self._now()
                    return
                else:
                    self._end("ended")
        except Exception as error:  # noqa: BLE001 - one reader's trouble must not end the task group, and with it all
            log.warning("send_failed", error=type(error).__name__)
            self._cut("failed")
        except BaseException:
            self._cut("drained")
            raise

    async def _read_on(self, tail: Tail) -> None:
        try:
            events = await self._tails.after(tail, self._where[self._follows[tail]])
        except StoreUnavailable:
            await self._give(_COMMENT)
            await anyio.sleep(_LOOK_AGAIN)
            return
        if self._over:
            return
        body = self._frames(self._follows[tail], events)
        if not events or events[-1].terminal:
            self._unfollow(tail)
        await self._give(body)

    async def _give(self, body: bytes) -> None:
        if self._line.full:
            with anyio.move_on_after(self._send_timeout) as patience:
                await self._line.writable()
            if patience.cancelled_caught:
                self._cut("stalled")
        if body and not self._over:
            self._send(chunk(body))

    def _say_last(self, last_words: bytes, reason: str) -> None:
        if last_words:
            self._send(chunk(last_words))
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._over = reason
        self._send(_LAST_CHUNK)
        self._line.give_back(self._send_timeout)

    def _cut(self, reason: str) -> None:
        """Drop the reader, in the middle if need be."""
        if not self._over:
            self._over = reason
            self._line.abort()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def come_back(rng: random.Random) -> Response:
    """What a stream with a last id gets instead of a refusal, which EventSource would take as final."""
    body = b"retry: %d\n\n: busy, come back\n\n" % rng.randint(4000, 6000)
    return Response(body, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
