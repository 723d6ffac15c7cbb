"""A stream of one or several jobs' events as a Server-Sent Events response.

A stream holds a cursor and never a queue. While it is level with its tails it costs no task but the server's own, which
waits for the client to leave; the tails push into its socket. When the socket is full it gets a task that waits and
then catches up from the log; a reader that takes nothing for `send_timeout` is cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any

import anyio
import msgspec
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import cursor
from gateway.errors import StoreUnavailable
from gateway.events import Event, frame
from gateway.logs import EventLog
from gateway.metrics import Metrics
from gateway.store import Slice
from gateway.tails import Tail, Tails

RETRY = b"retry: 2000\n\n"
log = EventLog("gateway.sse")

_COMMENT = {"type": "http.response.body", "body": b":\n\n", "more_body": True}
_LOOK_AGAIN = 1.0


class _Nothing:
    """The base class wants content; what this stream sends comes from its tails."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


_NOTHING = _Nothing()


class Stream(EventSourceResponse):
    """`heads` and `where` follow `job_ids`: what was known of each log, and after which number to read it."""

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
        super().__init__(_NOTHING, ping=0, send_timeout=send_timeout)
        self._tails = tails
        self._metrics = metrics
        self._sent = metrics.sent
        self._job_ids = job_ids
        self._heads = heads
        self._where = where
        self._max_age = max_age
        self._follows: dict[Tail, int] = {}
        self._busy = True
        self._over = ""
        self._ending: tuple[bytes, str] | None = None
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # Nothing on the way out looks at a body, so pushes go to the server's own `send`, past every wrapper.
        self._out: Send = scope.get("gateway.send", send)
        self._abort = scope.get("gateway.abort")
        timer = asyncio.get_running_loop().call_later(self._max_age, self.finish, b"", "expired")
        self._enter()
        if self._tails.draining:
            self.finish(b"", "drained")
        try:
            await self._give(RETRY + self._tell_gone())
            await self._catch_up()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            timer.cancel()
            self._leave()

    def push(self, tail: Tail, events: Sequence[Event], shared: dict[str, Any]) -> None:
        place = self._follows.get(tail)
        if self._busy or self._over or place is None:
            return  # it reads by itself, or has had the end of this tail meanwhile
        if len(self._where) == 1 and self._where[0] < events[0].seq:
            self._where[0] = events[-1].seq
            self._sent.events += len(events)
            message = shared
        else:
            events = [event for event in events if event.seq > self._where[place]]
            message = {"type": "http.response.body", "body": self._frames(place, events), "more_body": True}
            self._sent_at = self._now()
        if tail.ended:
            self._unfollow(tail)
            if not self._follows:
                self._over = "ended"
                message = {**message, "more_body": False}
        self._begin(message)

    def beat(self, now: float) -> None:
        if self._busy or self._over or now - self._sent_at < self._tails.heartbeat / 2:
            return  # a stream of many jobs hears the beat of each of their tails
        if len(self._where) > 1:
            self._sent_at = now
        self._begin(_COMMENT)

    def finish(self, last_words: bytes, reason: str, grace: float | None = None) -> None:
        if self._over:
            return
        if self._busy:
            self._ending = (last_words, reason)
            if grace is not None:
                asyncio.get_running_loop().call_later(grace, self._cut)
            return
        self._over = reason
        self._begin({"type": "http.response.body", "body": last_words, "more_body": False})

    def _enter(self) -> None:
        self._tails.come(self)
        for place, (job_id, head) in enumerate(zip(self._job_ids, self._heads, strict=True)):
            if head is not None and not (head.ended and self._where[place] >= head.head):
                self._follows[self._tails.join(job_id, head, self)] = place

    def _leave(self) -> None:
        for tail in list(self._follows):
            self._unfollow(tail)
        self._tails.go(self)
        self._over = self._over or "left"
        self._metrics.streams_ended.labels(self._over).inc()
        if self._over == "stalled":
            log.warning("stream_cut", jobs=len(self._job_ids), after=self.send_timeout)

    def _unfollow(self, tail: Tail) -> None:
        del self._follows[tail]
        self._tails.leave(tail, self)

    def _tell_gone(self) -> bytes:
        told = []
        for place, head in enumerate(self._heads):
            if head is None and self._where[place] != cursor.GONE:
                self._where[place] = cursor.GONE
                data = msgspec.json.encode({"jobId": self._job_ids[place]})
                told.append(frame(cursor.composite(self._where), b"event: gone\ndata: %b\n\n" % data))
        return b"".join(told)

    def _frames(self, place: int, events: Sequence[Event]) -> bytes:
        frames = []
        for event in events:
            self._where[place] = event.seq
            frames.append(frame(cursor.composite(self._where), event.body()))
        self._sent.events += len(events)
        return b"".join(frames)

    def _begin(self, message: dict[str, Any]) -> None:
        """Start a send and, when it does not finish at once, let a task of its own see it through."""
        self._sent.bytes += len(message["body"])
        sending = self._out(message)
        try:
            waiting_for = sending.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - one reader's trouble must not end the pump, and with it all readers
            log.warning("send_failed", error=type(error).__name__)
            self._cut()
            return
        self._busy = True
        self._tails.spawn(self._see_through(_resumed(sending, waiting_for)))  # type: ignore[arg-type]

    async def _see_through(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            with anyio.move_on_after(self.send_timeout) as patience:
                await sending
            if patience.cancelled_caught:
                self._cut()
            elif not self._over:
                await self._catch_up()
        except Exception as error:  # noqa: BLE001 - as in `_begin`
            log.warning("send_failed", error=type(error).__name__)
            self._cut()

    async def _catch_up(self) -> None:
        """Send what came after the cursor until the stream is level with all its tails, or over."""
        while not self._over:
            if self._ending is not None:
                last_words, self._over = self._ending
                await self._give(last_words, more=False)
                return
            behind = next((tail for tail, place in self._follows.items() if self._where[place] < tail.head), None)
            if behind is None:
                if self._follows:
                    self._busy = False
                else:
                    self._over = "ended"
                    await self._give(b"", more=False)
                return
            await self._read_on(behind)

    async def _read_on(self, tail: Tail) -> None:
        place = self._follows[tail]
        try:
            events = await self._tails.after(tail, self._where[place])
        except StoreUnavailable:
            await self._give(_COMMENT["body"])  # type: ignore[arg-type]
            await anyio.sleep(_LOOK_AGAIN)
            return
        if self._over:
            return
        body = self._frames(place, events)
        if not events or events[-1].terminal:
            self._unfollow(tail)
            if not self._follows:
                self._over = "ended"
        await self._give(body, more=not self._over)

    async def _give(self, body: bytes, *, more: bool = True) -> None:
        self._sent.bytes += len(body)
        with anyio.move_on_after(self.send_timeout) as patience:
            await self._out({"type": "http.response.body", "body": body, "more_body": more})
        if patience.cancelled_caught:
            self._cut()

    def _cut(self) -> None:
        """Drop a reader that takes nothing: closing would flush to it first, for as long as it likes."""
        if self._over:
            return
        self._over = "stalled"
        if self._abort is not None:
            self._abort()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def come_back(rng: random.Random) -> Response:
    """What a stream with a last id gets instead of a refusal, which EventSource would take as final."""
    body = b"retry: %d\n\n: busy, come back\n\n" % rng.randint(4000, 6000)
    return Response(body, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@coroutine
def _resumed(begun: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Drive on, inside a task, a coroutine that was begun by hand and now waits for a future."""
    try:
        while True:
            try:
                came = yield waiting_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is the inner coroutine's to handle
                waiting_for = begun.throw(error)
            else:
                waiting_for = begun.send(came)
    except StopIteration:
        return
