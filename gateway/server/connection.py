"""One HTTP connection under uvicorn, which a stream may take over for good.

A stream lives for an hour and needs none of what its request came with: the task, the parser, the scope, the layers of
the application. Let go, a stream takes 8 KiB instead of 21, and an event goes straight to the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

MOST_AHEAD = 64 << 10
"""Bytes that a client may send behind the request of a stream, for its next one, before it is cut."""

BEGUN_IN_A_TURN = 8
"""Requests that begin in one turn of the loop: about 5 ms of work."""


class Holder(Protocol):
    """Who has taken a connection over."""

    def lost(self) -> None:
        """It is not the holder's any more: given back, or gone."""


class Door:
    """Requests begin in the order they came, and not all at once: when thousands of streams come back in the same
    moment, the loop's timers still come in time between them. Other jobs' polls were 1.6 s late without it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = BEGUN_IN_A_TURN
        self._waiting: deque[Callable[[], None]] = deque()
        self._turning = False

    def enter(self, begin: Callable[[], None]) -> None:
        """Have a request begun, now or in one of the next turns."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        if self._left:
            self._left -= 1
            begin()
        else:
            self._waiting.append(begin)

    def _turn(self) -> None:
        begun = min(len(self._waiting), BEGUN_IN_A_TURN)
        self._left = BEGUN_IN_A_TURN - begun
        self._turning = begun > 0
        if self._turning:
            self._loop.call_soon(self._turn)  # first, so that whatever is raised below shuts nobody out
        for _ in range(begun):
            self._waiting.popleft()()


_DOORS: WeakKeyDictionary[ServerState, Door] = WeakKeyDictionary()


class Connection(HttpToolsProtocol):
    """uvicorn's, for a while a stream's."""

    _holder: Holder | None = None
    _keep_alive = False
    _amid = False
    """Whether the parser is in the middle of a request."""
    _ahead = b""
    _answered: RequestResponseCycle | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        door = _DOORS.get(server_state)
        if door is None:
            door = _DOORS[server_state] = Door(self.loop)
        self._door = door

    @property
    def full(self) -> bool:
        """Whether the peer is behind by more than the buffer takes."""
        return self.flow.write_paused

    def take(self, holder: Holder) -> None:
        """Take it over, once the head of the answer is sent: its bytes are the holder's, until given back or lost.

        The application may return then: what it still sends goes nowhere.
        """
        answered = self._answered
        if answered is None or self.transport.is_closing():
            holder.lost()
            return
        answered.disconnected = True
        self._holder = holder
        self._keep_alive = answered.keep_alive
        self.flow.resume_reading()  # or the client's leaving would not be noticed
        if not self.pipeline and not self._amid:
            self._forget()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def writable(self) -> None:
        """Wait until it is not `full`, or gone."""
        await self.flow.drain()

    def give_back(self, patience: float) -> None:
        """The answer has ended, with its last chunk: go on with the client's next request, or close.

        What the socket does not take at once it must take within `patience` seconds.
        """
        self._lose()
        if self._answered is not None:
            self._answered.response_complete = True
        self.loop.call_soon(self._see_off, patience)
        if not self._keep_alive:
            self.transport.close()
            return
        self.on_response_complete()
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self.data_received(ahead)

    def abort(self) -> None:
        """Close at once: closing would first flush to a peer that takes nothing."""
        self.transport.abort()

    def on_message_begin(self) -> None:
        self._amid = True
        super().on_message_begin()
        self.scope["gateway.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        self._amid = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._holder is None:
            super().data_received(data)
            return
        self._ahead += data
        if len(self._ahead) > MOST_AHEAD:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lose()
        self._forget()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        self._door.enter(partial(self._begin, cycle, app))

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not cycle.disconnected:  # who has left while it waited wants nothing any more
            super()._start_asgi_task(cycle, app)

    def _forget(self) -> None:
        """What the requests left here refers to itself, and would stay until the collector comes."""
        self.cycle = self.scope = self.headers = self._answered = None  # type: ignore[assignment]

    def _see_off(self, patience: float) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.close()
            self.loop.call_later(patience, self.transport.abort)

    def _lose(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.lost()
