"""The outbound HTTP sessions, their address checks, and their limits on response bodies.

Both kinds of session follow no redirects, keep no cookies, decompress nothing and take no proxy from the environment.
Every address of a name is checked when its socket is created: a check in the resolver alone is bypassed by an IP
literal. No other module uses aiohttp's private parts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import aiohttp
from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from gateway.core.addresses import is_public
from gateway.outbound.names import Names

POLL_SECONDS = 10.0
CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
BODY_LIMIT = 1 << 20
"""Most bytes of an upstream body; a response with a longer body is not usable."""
HEADER_LIMIT = 32 << 10
"""Most bytes of a line or field in an upstream response head: a monitor URL of 4 KiB must fit."""
ANSWER_LIMIT = 64 << 10
"""Most bytes accepted of a receiver's response, head and body together."""
RECEIVER_BODY_LIMIT = 16 << 10
"""Most bytes read, and discarded, of a receiver's response body."""

_IDENTITY = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "copy-gateway"}


class AddressRefused(OSError):
    """The address may not be dialled."""


class AnswerTooLong(aiohttp.ClientError):
    """A receiver's response exceeded `ANSWER_LIMIT`."""


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


def receiver_session(names: Names, allows: Callable[[str, int], bool]) -> ClientSession:
    """A session for callbacks, with a new connection per attempt.

    `allows(address, port)` decides whether an address may be dialled.
    """
    return ClientSession(
        connector=_ReceiverConnector(names, allows),
        timeout=ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
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

    Closing aborts the transport, since the TLS shutdown waits for a receiver that may never read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._bytes_left = ANSWER_LIMIT

    def data_received(self, data: bytes) -> None:
        accepted = self._bytes_left
        self._bytes_left = max(0, accepted - len(data))
        super().data_received(data[:accepted])
        if len(data) > accepted:
            self.set_exception(AnswerTooLong())  # a head that arrived before is still read
            self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _ReceiverConnector(TCPConnector):
    def __init__(self, names: Names, allows: Callable[[str, int], bool]) -> None:
        def dial(address: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, where = address
            if not allows(str(where[0]), int(where[1])):
                raise AddressRefused("not an allowed address")
            return socket.socket(family, kind, protocol)

        super().__init__(limit=0, force_close=True, use_dns_cache=False, resolver=_Resolver(names), socket_factory=dial)
        protocol: type[ResponseHandler] = BoundedResponse
        self._factory = partial(protocol, loop=asyncio.get_running_loop())  # aiohttp has no public way to set it
