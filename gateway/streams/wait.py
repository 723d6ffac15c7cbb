"""A request that waits for news of one job: a reader of the job's tail that writes nothing until it is answered.

A wait has no task besides its request's, which waits for the client to leave until the tail or the deadline wakes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import anyio
from starlette.types import Receive

from gateway.core.job import Event
from gateway.store import Slice
from gateway.streams.tails import Tail, Tails
from gateway.telemetry.metrics import Metrics


class Wait:
    """`is_news` gets the number of a log's newest event and whether the log has ended, and says whether the wait ends.

    `reason` is why it has ended: `ended` by news, `expired`, `drained`, or `left` by the client.
    """

    def __init__(self, tails: Tails, metrics: Metrics, is_news: Callable[[int, bool], bool]) -> None:
        self._tails = tails
        self._metrics = metrics
        self._is_news = is_news
        self._scope = anyio.CancelScope()
        self.reason: Literal["ended", "expired", "drained", "left"] = "expired"

    async def hold(self, job_id: str, head: Slice, seconds: float, receive: Receive) -> Event | None:
        """Wait for news after `head`. Returns the newest event, None if `head` is still the newest.

        The wait ends after `seconds`, at a drain, and when `receive`, the request's, tells of the client's leave.
        Raises StoreUnavailable.
        """
        self._tails.come(self, of_many=False)
        tail = self._tails.join(job_id, head, self)
        try:
            if self._is_news(tail.head, tail.ended):
                self.reason = "ended"
            else:
                await self._sleep(seconds, receive)
            if self.reason == "left" or tail.head <= head.head:
                return None
            newest = await self._tails.after(tail, tail.head - 1)
            return newest[-1] if newest else None
        except anyio.get_cancelled_exc_class():
            self.reason = "drained"
            raise
        finally:
            self._tails.leave(tail, self)
            self._tails.go(self)
            self._metrics.streams_ended.labels(self.reason).inc()

    def push(self, tail: Tail, events: Sequence[Event], shared: bytes) -> None:  # noqa: ARG002 - as every reader's
        if self._is_news(tail.head, tail.ended):
            self._wake("ended")

    def beat(self, now: float) -> None:
        """Send nothing: the answer has not begun."""

    def finish(self, last_words: bytes, reason: str, grace: float | None = None) -> None:  # noqa: ARG002 - as above
        self._wake("drained")

    async def _sleep(self, seconds: float, receive: Receive) -> None:
        self._scope.deadline = anyio.current_time() + seconds
        with self._scope:
            while (await receive())["type"] != "http.disconnect":
                pass  # the body of the request, which means nothing here
            self.reason = "left"

    def _wake(self, reason: Literal["ended", "drained"]) -> None:
        if not self._scope.cancel_called:
            self.reason = reason
            self._scope.cancel()
