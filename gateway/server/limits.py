"""Limits on what connections do together: how many requests start at once, and how long each may take to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState

STARTS_PER_TURN = 8
"""Most requests that start in one turn of the event loop: about 5 ms of work."""


HEAD_SECONDS = 30.0
"""Time for the head of a request, and for the first byte on a new connection."""

LINGER_SECONDS = 5.0
"""How long a client may go on sending after a response that came before its request's end."""


class StartLimiter:
    """Starts requests in order of arrival, at most `STARTS_PER_TURN` in one turn of the event loop.

    So the loop's timers fire in time even when thousands of streams reconnect at once. Without the limit, other jobs'
    polls were 1.6 s late.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._remaining = STARTS_PER_TURN
        self._queue: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def submit(self, start: Callable[[], None]) -> None:
        """Call `start` now, or in a later turn of the loop when the limit is reached."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn)
        if self._remaining:
            self._remaining -= 1
            start()
        else:
            self._queue.append(start)

    def _turn(self) -> None:
        started = min(len(self._queue), STARTS_PER_TURN)
        self._remaining = STARTS_PER_TURN - started
        self._is_scheduled = started > 0
        if self._is_scheduled:
            self._loop.call_soon(self._turn)  # first, so that an error raised by a start does not stop the queue
        for _ in range(started):
            self._queue.popleft()()


class Deadlines:
    """Calls functions `seconds` after they were added, unless they are removed before.

    One timer serves all: what is added first is due first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._due: dict[Callable[[], None], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, late: Callable[[], None]) -> None:
        """Call `late` in time. One that was added before keeps its time."""
        self._due.setdefault(late, self._loop.time() + self._seconds)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def remove(self, late: Callable[[], None]) -> None:
        self._due.pop(late, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer = None
        while self._due:
            late, due = next(iter(self._due.items()))
            if due > now:
                self._timer = self._loop.call_at(due, self._sweep)
                return
            del self._due[late]
            late()


class Shared(NamedTuple):
    """What all connections of a server share: the starts of requests, the times of heads, and of lingering clients."""

    starts: StartLimiter
    heads: Deadlines
    lingering: Deadlines


_SHARED: WeakKeyDictionary[ServerState, Shared] = WeakKeyDictionary()


def shared_by(server: ServerState, loop: asyncio.AbstractEventLoop) -> Shared:
    found = _SHARED.get(server)
    if found is None:
        found = Shared(StartLimiter(loop), Deadlines(loop, HEAD_SECONDS), Deadlines(loop, LINGER_SECONDS))
        _SHARED[server] = found
    return found
