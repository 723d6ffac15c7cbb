"""The outbound HTTP sessions, their address checks, and their limits on responses.

All sessions follow no redirects, keep no cookies, decompress nothing and take no proxy from the environment. Every
address of a name is checked when its socket is created: a check in the resolver alone is bypassed by an IP literal.
Through a proxy the addresses are the proxy's to judge. Only this module and `exchange` use aiohttp's private parts.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import (
    AddrInfoType,
    BytesPayload,
    ClientRequest,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    TraceConfig,
)
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import StreamReader

from gateway.outbound.names import Names

POLL_SECONDS = 10.0
CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
BODY_LIMIT = 1 << 20
"""Most bytes of an upstream body; a response with a longer body is not usable."""
UPSTREAM_HEAD_LIMIT = 128 << 10
"""Most bytes of an upstream response's head, interim heads included."""
MOST_HEADERS = 1000
"""Most fields of an upstream head, and of its trailer."""
MOST_INTERIM = 64
"""Most interim (1xx) heads before an upstream response."""
FRAMING_LIMIT = 32 << 10
"""Most bytes that frame an upstream body, besides a quarter of the body: sizes of chunks, extensions, a trailer. Each
chunk costs some 8 us: a body in chunks of one byte would stop the loop for seconds."""
HEAD_LIMIT = 32 << 10
"""Most bytes of the head of a receiver's response, in however many lines."""
ANSWER_LIMIT = 64 << 10
"""Most bytes accepted of a receiver's response: interim heads, its head and its body together."""
RECEIVER_BODY_LIMIT = 16 << 10
"""Most bytes read, and discarded, of a receiver's response body."""
USER_AGENT = "copy-gateway"

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_SUCCESS = b"HTTP/1.1 2"
_PIECE = 16 << 10
"""Most bytes that aiohttp's parser gets at once: it parses all the heads in them before anybody can count them."""


class AddressRefused(OSError):
    """The address may not be dialled."""


class AnswerTooLong(aiohttp.ClientError):
    """A response exceeded its limit; the text says which."""


class AnswerMalformed(aiohttp.ClientError):
    """A response was not HTTP after its head."""


def upstream_session(
    seconds: float,
    *traces: TraceConfig,
    user_agent: str = USER_AGENT,
    proxy: str | None = None,
    reaches: Callable[[str], bool] | None = None,
    callers: bool = False,
    kept: bool = True,
    bounded: bool = True,
) -> ClientSession:
    """A session for upstream and monitors; `seconds` is the timeout of one request.

    The session has no connection limit: at most one poll per job is in flight, and a limit would make healthy polls
    wait for hanging ones. `reaches(address)` decides whether an address may be dialled; it is not asked when the
    session goes through a `proxy`, an http URL. `callers`: the headers of requests are a caller's, each character one
    byte. `kept`: a connection serves several requests. `bounded`: bodies have a limit.
    """
    return ClientSession(
        connector=_UpstreamConnector(
            BODY_LIMIT if bounded else None, None if proxy else reaches, callers=callers, force_close=not kept
        ),
        request_class=CallersRequest if callers else ClientRequest,
        proxy=proxy,
        timeout=ClientTimeout(total=seconds),
        headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": user_agent},
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=UPSTREAM_HEAD_LIMIT,
        max_field_size=UPSTREAM_HEAD_LIMIT,
        max_headers=MOST_HEADERS,
        trace_configs=list(traces),
    )


def receiver_session(
    names: Names, refusal: Callable[[str, int], str | None], proxy: str | None = None
) -> ClientSession:
    """A session for callbacks, with a new connection per attempt.

    `refusal(address, port)` says why an address may not be dialled, None if it may; AddressRefused carries its text. It
    is not asked about a `proxy`, an http URL.
    """
    return ClientSession(
        connector=_ReceiverConnector(names, refusal if proxy is None else lambda _address, _port: None),
        proxy=proxy,
        timeout=ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=HEAD_LIMIT,  # these three never bind: `BoundedResponse` counts the whole head
        max_field_size=HEAD_LIMIT,
        max_headers=HEAD_LIMIT,
    )


async def drop_body(response: aiohttp.ClientResponse) -> None:
    """Read and discard up to `RECEIVER_BODY_LIMIT` bytes, so that a receiver that is still sending is not cut off."""
    left = RECEIVER_BODY_LIMIT
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)


class SentBody(BytesPayload):
    """A request's body that knows whether its request was handed to a connection that was still open.

    `sent` stays False while nothing of the request, head or body, can have reached the other side.
    """

    sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        transport = writer.transport if isinstance(writer, StreamWriter) else None
        self.sent = transport is not None and not transport.is_closing()
        await super().write_with_length(writer, content_length)


def trusted() -> ssl.SSLContext | bool:
    """Which certificates count, for a connector: the system's, and those in the file that `SSL_CERT_FILE` names."""
    named = os.environ.get("SSL_CERT_FILE")
    return _trusting(named) if named else True


@cache
def _trusting(_file: str) -> ssl.SSLContext:
    """OpenSSL itself takes the file from the environment, but in place of the system's own."""
    context = ssl.create_default_context()
    own = ssl.get_default_verify_paths()
    context.load_verify_locations(
        cafile=own.openssl_cafile if Path(own.openssl_cafile).is_file() else None,
        capath=own.openssl_capath,
    )
    context.set_alpn_protocols(("http/1.1",))
    return context


class BoundedAnswer(ResponseHandler):
    """Bounds each response of a connection: its head, interim heads included, and if `body` says so its body.

    aiohttp's parser would queue interim heads, and read extensions, for ever. A response that nobody asked for ends the
    connection. Closing aborts the transport, since the TLS shutdown waits for a peer that may never read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, body: int | None, callers: bool) -> None:
        super().__init__(loop=loop)
        self._body_limit = body
        self._callers = callers
        self._bytes_left: int | None = UPSTREAM_HEAD_LIMIT
        self._interim_left = MOST_INTERIM
        self._is_final = False
        self._sent = 0  # bytes after those with the final head

    @property
    def writing_paused(self) -> bool:
        """Whether a head without a body also waits for `write_bytes`, where `CallersRequest` rewrites it."""
        return self._callers or super().writing_paused

    def set_response_params(self, **params: Any) -> None:
        """Called for each request: its response has the whole limit."""
        self._bytes_left, self._interim_left, self._is_final = UPSTREAM_HEAD_LIMIT, MOST_INTERIM, False
        self._sent = 0
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if not self._is_final and (data[0].code >= 200 or data[0].code == 101):
            self._is_final, self._bytes_left = True, None
        elif self._is_final or not self._interim_left:
            self._bytes_left = -1
            return
        else:
            self._interim_left -= 1
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if not data:
            super().data_received(data)  # aiohttp's own call, to go on with what it has
        start = 0
        while start < len(data):
            end = start + _PIECE
            # An error in the body would take along a head that came in the same bytes. A start's head has decided, as
            # has any that is no success; a poll's success needs its body, and one call of the parser is cheaper.
            alone = self._callers or not data.startswith(_SUCCESS, start)
            if alone and not self._is_final and (empty_line := _EMPTY_LINE.search(data, start, end)):
                end = empty_line.end()
            piece, start = data[start:end], end
            if self._is_final:
                self._sent += len(piece)
            elif self._bytes_left is not None:
                self._bytes_left -= len(piece)
            super().data_received(piece)
            if self._exceeds():
                self.set_exception(AnswerTooLong())  # a head that arrived before is still read
                self._end(AnswerTooLong())
            elif self.exception() is not None:
                self._end(AnswerMalformed())  # aiohttp would leave whoever reads the body waiting
            else:
                continue
            return

    def close(self) -> None:
        self.abort()

    def expire(self) -> None:
        """End an exchange whose time is over."""
        self.set_exception(TimeoutError())
        self._end(TimeoutError())

    def _exceeds(self) -> bool:
        if self._bytes_left is not None:
            return self._bytes_left < 0
        body = 0 if self._payload is None else self._payload.total_bytes
        return self._sent - body > FRAMING_LIMIT + body // 4 or (
            self._body_limit is not None and body > self._body_limit
        )

    def _end(self, error: Exception) -> None:
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


def _dial(refusal: Callable[[str, int], str | None], address: AddrInfoType) -> socket.socket:
    """The socket for an address. Raises AddressRefused with the text of `refusal(address, port)`, if it has one."""
    family, kind, protocol, _, where = address
    if (why := refusal(str(where[0]), int(where[1]))) is not None:
        raise AddressRefused(why)
    return socket.socket(family, kind, protocol)


class _UpstreamConnector(TCPConnector):
    def __init__(
        self, body: int | None, reaches: Callable[[str], bool] | None, *, callers: bool, force_close: bool
    ) -> None:
        def refusal(address: str, _port: int) -> str | None:
            return None if reaches is None or reaches(address) else "not an allowed address"

        super().__init__(limit=0, force_close=force_close, socket_factory=partial(_dial, refusal), ssl=trusted())
        protocol: Callable[..., ResponseHandler] = BoundedAnswer
        self._factory = partial(protocol, asyncio.get_running_loop(), body=body, callers=callers)


class CallersRequest(ClientRequest):
    """A request whose head is written in Latin-1: byte for byte as it came from the caller.

    aiohttp writes UTF-8, which would encode each byte of the caller's beyond ASCII once more.
    """

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: aiohttp.connector.Connection, content_length: int | None = None
    ) -> None:
        if isinstance(writer, StreamWriter) and writer._headers_buf is not None:  # noqa: SLF001 - there is no other way
            writer._headers_buf = writer._headers_buf.decode().encode("latin-1", "replace")  # noqa: SLF001
        await super().write_bytes(writer, conn, content_length)


class _Resolver(AbstractResolver):
    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - the connectors ask for any
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._names.dialled(host)
        ]

    async def close(self) -> None:
        """Nothing to close: `Receivers` owns the `Names`."""


class BoundedResponse(ResponseHandler):
    """Accepts at most `ANSWER_LIMIT` bytes: aiohttp's parser would queue interim heads, and read extensions, for ever.

    The parser gets each head by itself: an error in the body would take along a head that came in the same bytes.
    Closing aborts the transport, since the TLS shutdown waits for a receiver that may never read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._bytes_left = ANSWER_LIMIT
        self._head_left = HEAD_LIMIT
        self._head_tail = b""  # the last bytes of an unfinished head: its empty line may begin in them
        self._has_head = False

    def data_received(self, data: bytes) -> None:
        if self._parser is None or not data:  # data without a parser comes again; no data resumes the parser
            super().data_received(data)
            return
        accepted = data[: self._bytes_left]
        self._bytes_left -= len(accepted)
        rest = accepted if self._has_head else self._read_heads(accepted)
        if rest:
            super().data_received(rest)
        if len(accepted) < len(data):
            self._refuse("its answer is too long")

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        self._has_head = data[0].code >= 200 or data[0].code == 101
        super().feed_data(data, size)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _read_heads(self, data: bytes) -> bytes:
        """Parse interim heads and the final head; returns what follows the final head."""
        text, head, parsed = self._head_tail + data, 0, len(self._head_tail)
        while parsed < len(text) and not self._has_head:
            empty_line = _EMPTY_LINE.search(text, head)
            end = len(text) if empty_line is None else empty_line.end()
            accepted = text[parsed : min(end, parsed + self._head_left)]
            self._head_left -= len(accepted)
            super().data_received(accepted)
            if self.exception() is None and parsed + len(accepted) < end:
                self._refuse("the head of its answer is too long")
            if self.exception() is not None:
                return b""
            parsed = end
            if empty_line is not None:
                head, self._head_left = end, HEAD_LIMIT
        self._head_tail = text[max(head, len(text) - 2) :]
        return text[parsed:]

    def _refuse(self, why: str) -> None:
        self.set_exception(AnswerTooLong(why))  # a final head that was parsed before is still read
        self.close()


class _ReceiverConnector(TCPConnector):
    def __init__(self, names: Names, refusal: Callable[[str, int], str | None]) -> None:
        super().__init__(
            limit=0,
            force_close=True,
            use_dns_cache=False,
            resolver=_Resolver(names),
            socket_factory=partial(_dial, refusal),
            ssl=trusted(),
        )
        protocol: type[ResponseHandler] = BoundedResponse
        self._factory = partial(protocol, loop=asyncio.get_running_loop())  # aiohttp has no public way to set it
