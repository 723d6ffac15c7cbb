"""Callbacks over the wire: where they may go, and one attempt.

A receiver's address is chosen by whoever registers it, so it is judged where it is really dialled, at every attempt: a
name may lead elsewhere by then. Redirects are never followed, cookies never kept, proxies never taken from the
environment, and no connection serves twice.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp
from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from gateway.core.addresses import Network, ReceiverRule, port_of, split
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.core.errors import GatewayError, unavailable
from gateway.graph.dialects import named_wait
from gateway.outbound.names import Names, NoAddress, NotLookedUp

CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
BODY_LIMIT = 16 << 10
"""Bytes of an answer's body that are read, and dropped."""
ANSWER_LIMIT = 64 << 10
"""Bytes of an answer that are taken at all, whatever they are."""

_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "copy-gateway"}
_ADDRESS_RULE = "must lead to public addresses only, at port 443"
_NO_ALLOWED_ADDRESS = "its name leads to no allowed address"
"""Said of a name without addresses as well: nobody can explore the operator's network with it."""


class Receivers:
    """`rule` says which addresses may be dialled."""

    def __init__(self, rule: ReceiverRule) -> None:
        self._rule = rule
        self._sessions: dict[bool, ClientSession] = {}
        self._names: Names

    @classmethod
    @asynccontextmanager
    async def open(cls, allowed: Sequence[Network], name_servers: Sequence[str] = ()) -> AsyncIterator[Receivers]:
        """`name_servers` as `address:port`, in the place of the system's."""
        receivers = cls(ReceiverRule(allowed))
        async with AsyncExitStack() as stack:
            receivers._names = names = stack.enter_context(Names(name_servers))
            for tls in (True, False):
                connector = _Connector(names, receivers._socket_factory(tls=tls))
                receivers._sessions[tls] = await stack.enter_async_context(_session(connector))
            yield receivers

    async def check(self, url: str) -> None:
        """Judge a URL and every address that its host has now.

        Raises GatewayError: 400 callbackUrlNotAllowed, or 503 when its name cannot be looked up now. What the 400 says
        is the rule, the same whether a name has no address or an internal one: nobody can explore the operator's
        network with it.
        """
        wrong = self._rule.objection(url)
        parts = split(url)
        if wrong is None and parts is not None:
            port, tls = port_of(parts), parts.scheme == "https"
            try:
                found = await self._names.check(parts.hostname or "")
            except NoAddress:
                found = []
            except NotLookedUp:
                raise unavailable(
                    "The host of the callback's url could not be looked up now. Nothing was started or registered: "
                    "try again."
                ) from None
            if not found or not all(self._rule.allows(address, port, tls=tls) for address in found):
                wrong = _ADDRESS_RULE if tls else "must be https"
        if wrong is not None:
            more = " The operator allows other networks, and http to them, with GATEWAY_CALLBACK_ALLOW."
            raise GatewayError(400, "callbackUrlNotAllowed", f"The callback's url {wrong}.{more}")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        """One attempt; `now` in seconds since 1970."""
        try:
            return await self._post(url, headers, body, now)
        except aiohttp.ConnectionTimeoutError:
            return Failed(f"no connection within {CONNECT_SECONDS:g} seconds")
        except TimeoutError:
            return Failed(f"no answer within {ATTEMPT_SECONDS:g} seconds")
        except Exception as error:  # noqa: BLE001 - whatever a hostile receiver makes the client raise is a failed attempt
            return Failed(_reason(error))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        parts = split(url)
        if parts is None or self._rule.objection(url) is not None:  # registered under another GATEWAY_CALLBACK_ALLOW
            return Failed("its address is not allowed")
        session = self._sessions[parts.scheme == "https"]
        async with session.post(
            URL(url, encoded=True), data=body, headers={**_HEADERS, **headers}, allow_redirects=False
        ) as response:
            code = response.status
            with suppress(aiohttp.ClientError, TimeoutError, OSError):  # the code has told how it went
                await _drop(response)
            if 200 <= code < 300:
                return Delivered()
            if code == 410:
                return Gone()
            if 300 <= code < 400:
                return Failed(f"answered {code}; redirects are not followed")
            asked = named_wait(response.headers, now) if code in (429, 503) else None
            return Failed(f"answered {code}", asked)

    def _socket_factory(self, *, tls: bool) -> Callable[[AddrInfoType], socket.socket]:
        def dial(address: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, where = address
            if not self._rule.allows(str(where[0]), int(where[1]), tls=tls):
                raise _NotAllowed("not an allowed address")
            return socket.socket(family, kind, protocol)

        return dial


class _NotAllowed(OSError):
    pass


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
        """The names end with the receivers."""


class _TooLong(aiohttp.ClientError):
    pass


class _Exchange(ResponseHandler):
    """Takes so much of an answer and no more: the parser queues interim heads, and reads extensions, for ever.

    It ends by aborting: the proper end of TLS waits for a receiver that may never read it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._room = ANSWER_LIMIT

    def data_received(self, data: bytes) -> None:
        room = self._room
        self._room = max(0, room - len(data))
        super().data_received(data[:room])
        if len(data) > room:
            self.set_exception(_TooLong())  # a head that came before is read all the same
            self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Connector(TCPConnector):
    def __init__(self, names: Names, socket_factory: Callable[[AddrInfoType], socket.socket]) -> None:
        super().__init__(
            limit=0, force_close=True, use_dns_cache=False, resolver=_Resolver(names), socket_factory=socket_factory
        )
        exchange: type[ResponseHandler] = _Exchange
        self._factory = partial(exchange, loop=asyncio.get_running_loop())  # aiohttp has no other way to name one


def _session(connector: TCPConnector) -> ClientSession:
    return ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


async def _drop(response: aiohttp.ClientResponse) -> None:
    left = BODY_LIMIT
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)


def _reason(error: Exception) -> str:
    """Plain words; never the client's own, which may carry the URL or an address."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        certificate = error.certificate_error
        return f"TLS: {getattr(certificate, 'verify_message', '') or 'the certificate is not valid'}"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS: no secure connection could be made"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, NotLookedUp):
            return "its name could not be looked up"
        return _NO_ALLOWED_ADDRESS if isinstance(cause, NoAddress | _NotAllowed) else "the connection was not accepted"
    if isinstance(error, _TooLong):
        return "its answer is too long"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "the connection broke before an answer"
    return "its answer is not HTTP" if isinstance(error, aiohttp.ClientError) else "the attempt failed"
