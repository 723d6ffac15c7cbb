"""One HTTP connection under uvicorn, which a stream may hijack until the stream ends.

A stream lives for up to an hour and needs neither the task of its request nor the parser, the scope and the middleware
of the application. Without them a stream takes 8 KiB instead of 21, and an event goes straight to the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

READ_AHEAD_LIMIT = 64 << 10
"""Most bytes of a pipelined next request that are buffered during a stream; beyond them the connection is aborted."""

STARTS_PER_TURN = 8
"""Most requests that start in one turn of the event loop: about 5 ms of work."""


class Owner(Protocol):
    """The object that has hijacked a connection."""

    def released(self) -> None:
        """The connection was handed back or closed; the owner must not use it any more. Called once."""


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


_LIMITERS: WeakKeyDictionary[ServerState, StartLimiter] = WeakKeyDictionary()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which a stream may hijack and hand back."""

    _owner: Owner | None = None
    _keep_alive = False
    _is_parsing = False
    """Whether the parser is in the middle of a request."""
    _read_ahead = b""
    _started: RequestResponseCycle | None = None
    """The latest request that was started."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        limiter = _LIMITERS.get(server_state)
        if limiter is None:
            limiter = _LIMITERS[server_state] = StartLimiter(self.loop)
        self._limiter = limiter

    @property
    def full(self) -> bool:
        """Whether the write buffer is above its high-water mark: the peer is a slow consumer."""
        return self.flow.write_paused

    def hijack(self, owner: Owner) -> None:
        """Make `owner` the only writer. Either the head of the response was sent, or the owner will `respond`.

        If the connection is closed already, `owner` is released at once. The application may return after this call;
        uvicorn discards everything that the application sends afterwards.
        """
        started = self._started
        if started is None or self.transport.is_closing():
            owner.released()
            return
        started.disconnected = True
        self._owner = owner
        self._keep_alive = started.keep_alive
        self.flow.resume_reading()  # otherwise a disconnect of the client would not be noticed
        if not self.pipeline and not self._is_parsing:
            self._drop_references()

    @property
    def write(self) -> Callable[[bytes], None]:
        """The function with which the owner writes, one whole chunk a call; HTTP/1.0 has no chunks, only their data."""
        started = self._started
        return self._write_data_of if started is not None and _knows_no_chunks(started) else self.transport.write

    async def writable(self) -> None:
        """Wait until the connection is no longer `full`, or is closed."""
        await self.flow.drain()

    def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, flush_seconds: float) -> None:
        """Write the owner's whole response, and hand back the connection."""
        lines = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        if not self._keep_alive:
            lines.append(b"connection: close\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", body)))
        self.hand_back(flush_seconds)

    def hand_back(self, flush_seconds: float) -> None:
        """Release the owner after its last byte, then read the client's next request or close the connection.

        The peer has `flush_seconds` to read the rest of the write buffer.
        """
        self._release_owner()
        if self._started is not None:
            self._started.response_complete = True
        self.loop.call_soon(self._close_when_flushed, flush_seconds)
        if not self._keep_alive:
            self.transport.close()
            return
        self.on_response_complete()
        data, self._read_ahead = self._read_ahead, b""
        if data:
            self.data_received(data)

    def abort(self) -> None:
        """Close without flushing, since the peer may read nothing."""
        self.transport.abort()

    def on_message_begin(self) -> None:
        self._is_parsing = True
        super().on_message_begin()
        self.scope["gateway.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        self._is_parsing = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._owner is None:
            super().data_received(data)
            return
        self._read_ahead += data
        if len(self._read_ahead) > READ_AHEAD_LIMIT:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._release_owner()
        self._drop_references()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._started = cycle
        self._limiter.submit(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not cycle.disconnected:  # the client may have left while the request was queued
            super()._start_asgi_task(cycle, _Unchunked(cycle, app) if _knows_no_chunks(cycle) else app)

    def _write_data_of(self, chunk: bytes) -> None:
        self.transport.write(chunk[chunk.index(b"\r\n") + 2 : -2])

    def _drop_references(self) -> None:
        """Break the reference cycles of a request, which would otherwise stay until a garbage collection."""
        self.cycle = self.scope = self.headers = self._started = None  # type: ignore[assignment]

    def _close_when_flushed(self, seconds: float) -> None:
        """If the write buffer is not empty, close the connection once it is flushed, at the latest after `seconds`."""
        if self.transport.get_write_buffer_size():
            self.transport.close()
            self.loop.call_later(seconds, self.transport.abort)

    def _release_owner(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.released()


class _Unchunked:
    """The application for a client older than HTTP/1.1: a response without a length ends with the connection.

    uvicorn would send it in chunks, which such a client takes for the body.
    """

    def __init__(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._cycle = cycle
        self._app = app
        cycle.keep_alive = False

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        cycle = self._cycle
        has_length = True

        async def unchunked(message: Any) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
                if not has_length:
                    cycle.chunked_encoding = False
            elif not has_length:
                cycle.expected_content_length = len(message.get("body", b""))  # uvicorn holds the body to it
            await send(message)

        await self._app(scope, receive, unchunked)


def _knows_no_chunks(cycle: RequestResponseCycle) -> bool:
    return cycle.scope["http_version"] in ("0.9", "1.0")


def configured(app: Any, **options: Any) -> Config:
    """Uvicorn's configuration of an application on these connections; `options` are its further parameters.

    Its access log is off: it writes whole URLs, and a job's URL is a capability.
    """
    return Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        **options,
    )
