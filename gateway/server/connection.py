"""One HTTP connection under uvicorn, which a stream may hijack until the stream ends.

A stream lives for up to an hour and needs neither the task of its request nor the parser, the scope and the middleware
of the application. Without them a stream takes 8 KiB instead of 21, and an event goes straight to the socket.

The parser gets one whole head at a time, once it is checked, and then its body: never a second request before the first
one's response is complete. So what a client sends ahead costs its bytes and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.core.errors import REQUEST_TIMEOUT, REQUEST_TOO_LARGE, GatewayError, invalid
from gateway.server import heads
from gateway.server.limits import shared_by
from gateway.server.responses import LingeringTransport, Owner, RawHeaders, Unchunked, knows_no_chunks, whole

READ_AHEAD_LIMIT = 64 << 10
"""Most bytes of a pipelined next request that are buffered during a stream; beyond them the connection is aborted.
During another response the client is read no further."""
BUFFER_LIMIT = 8 * READ_AHEAD_LIMIT
"""Most bytes that are buffered in any case."""

FRAMING_LIMIT = 16 << 10
"""Most bytes of chunk extensions and trailers in a body."""
_FRAMING_OF_A_CHUNK = 16

CHUNKS_PER_TURN = 32 << 10
PIECES_PER_TURN = 500
"""Most bytes of a body in chunks that are parsed in one turn of the event loop, and most pieces: about 5 ms of work."""

LINGER_LIMIT = 16 << 20
"""Most bytes that are discarded of a request after its response. A connection closed with unread bytes is reset, and
the client loses the response."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits, which a stream may hijack and hand back.

    A refused request is answered by the application, with the scope's `gateway.refusal`, a GatewayError.
    """

    timed_out = False
    """Whether the kernel closed the connection, since the peer read nothing for too long."""
    _owner: Owner | None = None
    _keep_alive = False
    _buffer = b""
    """What was received and not parsed."""
    _is_in_head = False
    _is_in_body = False
    _body_left: int | None = 0
    """Bytes of the body to come, None for a body in chunks."""
    _tail = b""
    """The last bytes that were parsed of a body in chunks."""
    _framing_left = 0
    _kept_alive: bool | None = None
    """Whether the connection stays open if the body ends before the response begins."""
    _refusal: GatewayError | None = None
    has_ended = False
    """Whether the client sends no more, but may still read."""
    _is_over = False
    """Whether all that still comes is discarded."""
    _linger_left = LINGER_LIMIT
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
        self._shared = shared_by(server_state, self.loop)

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
        if started is None or self._refusal is not None or self.transport.is_closing():
            owner.released()
            return
        started.disconnected = True
        self._owner = owner
        self._keep_alive = started.keep_alive
        self.flow.resume_reading()  # otherwise a disconnect of the client would not be noticed
        self._drop_references()
        if len(self._buffer) > READ_AHEAD_LIMIT:
            self.abort()

    @property
    def write(self) -> Callable[[bytes], None]:
        """The function with which the owner writes, one whole chunk a call; HTTP/1.0 has no chunks, only their data."""
        started = self._started
        return self._write_data_of if started is not None and knows_no_chunks(started) else self.transport.write

    async def writable(self) -> None:
        """Wait until the connection is no longer `full`, or is closed."""
        await self.flow.drain()

    def respond(self, status: int, headers: RawHeaders, body: bytes, flush_seconds: float) -> None:
        """Write the owner's whole response, and hand back the connection."""
        lines = (*self.server_state.default_headers, *headers)
        self.transport.write(whole(status, lines, body, keep_alive=self._keep_alive))
        self.hand_back(flush_seconds)

    def hand_back(self, flush_seconds: float) -> None:
        """Release the owner after its last byte, then read the client's next request or close the connection.

        The peer has `flush_seconds` to read the rest of the write buffer.
        """
        self._release_owner()
        self.loop.call_soon(self._close_when_flushed, flush_seconds)
        if self._keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close without flushing, since the peer may read nothing."""
        self.transport.abort()

    def linger(self) -> None:
        """End the response, and discard what the client still sends, for `LINGER_SECONDS` and `LINGER_LIMIT`."""
        self._is_over = True
        self._buffer = b""
        if not self.transport.is_closing():
            self.transport.write_eof()
            self._shared.lingering.add(self.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._shared.heads.add(self._expire)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.abort()
            return
        if not self._buffer and not self._is_in_body:
            data = data.lstrip(b"\r\n")  # empty lines before a request mean nothing
            if not data:
                return
            self._shared.heads.remove(self._expire)  # its time begins with its first byte
        self._buffer += data
        if self._owner is not None:
            if len(self._buffer) > READ_AHEAD_LIMIT:
                self.abort()
            return
        if not self._is_answering:
            self._unset_keepalive_if_required()
            self._read()
        self._hold_back()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what has come whole. A client whose stream or wait has begun has left."""
        self.has_ended = self._owner is None and self._is_busy
        return self.has_ended

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, TimeoutError)
        super().connection_lost(exc)
        self._shared.heads.remove(self._expire)
        self._shared.lingering.remove(self.abort)
        self._release_owner()
        self._drop_references()

    def on_message_begin(self) -> None:
        self._is_in_body = True
        super().on_message_begin()
        own = cast("dict[str, Any]", self.scope)
        own["gateway.connection"] = self
        if self._refusal is not None:
            own["gateway.refusal"] = self._refusal

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # trailers mean nothing here, and are no headers
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._framing_left = min(self._framing_left + _FRAMING_OF_A_CHUNK, FRAMING_LIMIT)

    def on_body(self, body: bytes) -> None:
        self._framing_left += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()
        if self._kept_alive is not None and not self.cycle.response_started:
            self.cycle.keep_alive = self._kept_alive
            self.cycle.transport = self.transport

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._buffer and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._read()
            self._hold_back()
        if not (self._is_answering or self._is_in_body):
            self._drop_references()  # also the caller's token: an idle connection must not keep it
        self._close_if_ended()

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request has come, and its response is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return not self._is_in_body and cycle is not None and not cycle.response_complete

    def _read(self) -> None:
        """Parse what was received, up to the end of a request."""
        try:
            while self._buffer and not self._is_over and not self._is_answering and not self.transport.is_closing():
                if not (self._read_body() if self._is_in_body else self._read_head()):
                    return
        except GatewayError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError:
            self._refuse(invalid("The request is malformed: its target is no URL."))
        except httptools.HttpParserError as error:
            self._refuse(invalid(f"The request is malformed: {error}."))

    def _read_head(self) -> bool:
        """Whether the head is complete. Raises GatewayError and HttpParserError."""
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            heads.check_partial(self._buffer)
            self._shared.heads.add(self._expire)
            return False
        head = heads.checked(self._buffer[:end])
        self._shared.heads.remove(self._expire)
        self._kept_alive = None
        self._parse_head(head.data)
        self._buffer = self._buffer[end:]
        if not head.is_current:
            self.cycle.waiting_for_100_continue = False
        if self._is_in_body:
            self._body_left = None if head.length is None else int(head.length)
            self._tail = b""
            self._framing_left = FRAMING_LIMIT
            self._kept_alive = head.is_current and self.cycle.keep_alive
            self.cycle.keep_alive = False  # while the rest of the body could be taken for the next request
            self._linger_at_end()
        return True

    def _parse_head(self, data: bytes) -> None:
        self._is_in_head = True
        self.parser.feed_data(data)
        self._is_in_head = False

    def _read_body(self) -> bool:
        """Whether more can be read now. Raises GatewayError and HttpParserError."""
        if self._body_left is None:
            return self._read_chunks()
        data, self._buffer = self._buffer[: self._body_left], self._buffer[self._body_left :]
        self._body_left -= len(data)
        self.parser.feed_data(data)
        return True

    def _read_chunks(self) -> bool:
        """The same of a body in chunks. Such a body ends with an empty line, but not each of those is its end."""
        data, rest = self._tail + self._buffer[:CHUNKS_PER_TURN], self._buffer[CHUNKS_PER_TURN:]
        at = len(self._tail)
        for _ in range(PIECES_PER_TURN):
            end = data.find(b"\r\n\r\n", max(0, at - 3)) + 4
            end = len(data) if end < 4 else end
            self._framing_left -= end - at
            self.parser.feed_data(data[at:end])
            if self._framing_left < 0:
                what = f"The chunk extensions and trailers of a body must be at most {FRAMING_LIMIT} bytes."
                raise GatewayError(REQUEST_TOO_LARGE, what)
            at = end
            if at == len(data) or not self._is_in_body:
                break
        self._tail, self._buffer = data[max(0, at - 3) : at], data[at:] + rest
        if self._is_in_body and self._buffer:
            self.loop.call_soon(self._read_on)
            return False
        return True

    def _read_on(self) -> None:
        """Go on with a body in chunks, in a turn of its own."""
        if self._owner is not None or self.transport.is_closing():
            return
        self._read()
        if len(self._buffer) <= READ_AHEAD_LIMIT and (not self._is_in_body or len(self.cycle.body) <= HIGH_WATER_LIMIT):
            self.flow.resume_reading()
        self._hold_back()
        self._close_if_ended()

    def _close_if_ended(self) -> None:
        if self.has_ended and self._owner is None and not self._is_busy:
            self.transport.close()

    @property
    def _is_busy(self) -> bool:
        """Whether a request waits for its response, or more of its body has come than one turn of the loop parses."""
        return self._is_answering or (self._is_in_body and bool(self._buffer))

    def _hold_back(self) -> None:
        """Read no further from a client that has sent too much ahead."""
        if len(self._buffer) > READ_AHEAD_LIMIT and (self._is_in_body or self._is_answering):
            self.flow.pause_reading()
        if len(self._buffer) > BUFFER_LIMIT:  # the application reads on when it waits for a body or a disconnect
            self.abort()

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error, whatever else comes. A response that has begun goes on, and ends the connection."""
        method, headers = heads.echoed(self._buffer)
        self._is_over = True
        self._buffer = b""
        if self._is_in_body and not self._is_in_head:
            cycle = self.cycle
            if cycle.response_started:
                return
            method = cycle.scope["method"].encode()
            found = (line for line in cycle.scope["headers"] if line[0] in heads.ECHOED)
            headers = b"".join(b"\r\n%b: %b" % line for line in found)
            cycle.disconnected = cycle.response_complete = True  # uvicorn discards what the application still sends
            cycle.message_event.set()
        self._kept_alive = None
        self._refusal = error
        self.parser = httptools.HttpRequestParser(self)
        self._parse_head(b"%b / HTTP/1.1%b\r\nConnection: close\r\n\r\n" % (method, headers))
        self._linger_at_end()

    def _linger_at_end(self) -> None:
        self.cycle.transport = LingeringTransport(self.transport, self.linger)  # type: ignore[assignment]

    def _expire(self) -> None:
        """Refuse a head that did not come in time; close a new connection on which nothing came."""
        if self._buffer:
            self._refuse(GatewayError(REQUEST_TIMEOUT))
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._started = cycle
        self._shared.starts.submit(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not cycle.disconnected:  # the client may have left while the request was queued
            super()._start_asgi_task(cycle, Unchunked(cycle, app) if knows_no_chunks(cycle) else app)

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
