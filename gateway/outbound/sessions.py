"""The outbound HTTP sessions, their address checks, and their limits on response bodies.

Both kinds of session follow no redirects, keep no cookies, decompress nothing and take no proxy from the environment.
Every address of a name is checked when its socket is created: a check in the resolver alone is bypassed by an IP
literal. No other module uses aiohttp's private parts.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from functools import partial

import aiohttp
from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, StreamReader, TCPConnector, TraceConfig
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

from gateway.core.addresses import is_public
from gateway.outbound.names import Names

POLL_SECONDS = 10.0
CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
BODY_LIMIT = 1 << 20
"""Most bytes of an upstream body; a response with a longer body is not usable."""
HEADER_LIMIT = 32 << 10
"""Most bytes of a line or field in an upstream response head: a monitor URL of 4 KiB must fit."""
HEAD_LIMIT = 32 << 10
"""Most bytes of the head of a receiver's response, in however many lines."""
ANSWER_LIMIT = 64 << 10
"""Most bytes accepted of a receiver's response: interim heads, its head and its body together."""
RECEIVER_BODY_LIMIT = 16 << 10
"""Most bytes read, and discarded, of a receiver's response body."""

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_IDENTITY = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "copy-gateway"}


class AddressRefused(OSError):
    """The address may not be dialled."""


class AnswerTooLong(aiohttp.ClientError):
    """A receiver's response exceeded `HEAD_LIMIT` or `ANSWER_LIMIT`; the text says which."""


def upstream_session(seconds: float, *traces: TraceConfig, public_only: bool = False) -> ClientSession:
    """A session for upstream and monitors; `seconds` is the timeout of one request.

    The session has no connection limit: at most one poll per job is in flight, and a limit would make healthy polls
    wait for hanging ones. `public_only` refuses addresses that are not public.
    """
    connector = TCPConnector(limit=0, socket_factory=_public_socket if public_only else None)
    return ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=seconds),
        headers=_IDENTITY,
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=HEADER_LIMIT,
        max_field_size=HEADER_LIMIT,
        trace_configs=list(traces),
    )


def receiver_session(names: Names, refusal: Callable[[str, int], str | None]) -> ClientSession:
    """A session for callbacks, with a new connection per attempt.

    `refusal(address, port)` says why an address may not be dialled, None if it may; AddressRefused carries its text.
    """
    return ClientSession(
        connector=_ReceiverConnector(names, refusal),
        timeout=ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=HEAD_LIMIT,  # these three never bind: `BoundedResponse` counts the whole head
        max_field_size=HEAD_LIMIT,
        max_headers=HEAD_LIMIT,
    )


async def read_body(response: aiohttp.ClientResponse) -> bytes | None:
    """The body of an upstream response; None beyond `BODY_LIMIT`: the connection is then closed, not drained."""
    length = response.content_length
    if length is not None and length <= BODY_LIMIT:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            response.close()
            return None
    return bytes(body)


async def drop_body(response: aiohttp.ClientResponse) -> None:
    """Read and discard up to `RECEIVER_BODY_LIMIT` bytes, so that a receiver that is still sending is not cut off."""
    left = RECEIVER_BODY_LIMIT
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)


def _public_socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, where = address
    if not is_public(str(where[0])):
        raise AddressRefused("not a public address")
    return socket.socket(family, kind, protocol)


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
        def dial(address: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, where = address
            if (why := refusal(str(where[0]), int(where[1]))) is not None:
                raise AddressRefused(why)
            return socket.socket(family, kind, protocol)

        super().__init__(limit=0, force_close=True, use_dns_cache=False, resolver=_Resolver(names), socket_factory=dial)
        protocol: type[ResponseHandler] = BoundedResponse
        self._factory = partial(protocol, loop=asyncio.get_running_loop())  # aiohttp has no public way to set it
