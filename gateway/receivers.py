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
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self

import aiohttp
import anyio
from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.addresses import Network, ReceiverRule, port_of, split
from gateway.deliveries import Delivered, Failed, Gone, Outcome
from gateway.dialects import retry_after
from gateway.errors import GatewayError

CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0
RESOLVE_SECONDS = 5.0
CHECKING_THREADS, DIALLING_THREADS = 32, 256
"""Most names resolved at once, for registrations and for attempts: more than there are attempts at once."""
BODY_LIMIT = 16 << 10
"""Bytes of an answer's body that are read, and dropped."""

_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "copy-gateway"}
_ADDRESS_RULE = "must lead to public addresses only, at port 443"


class Receivers:
    """`rule` says which addresses may be dialled."""

    def __init__(self, rule: ReceiverRule) -> None:
        self._rule = rule
        self._sessions: dict[bool, ClientSession] = {}
        self._names: _Names

    @classmethod
    @asynccontextmanager
    async def open(cls, allowed: Sequence[Network]) -> AsyncIterator[Receivers]:
        receivers = cls(ReceiverRule(allowed))
        async with AsyncExitStack() as stack:
            receivers._names = stack.enter_context(_Names(CHECKING_THREADS))
            dialled = stack.enter_context(_Names(DIALLING_THREADS))
            for tls in (True, False):
                connector = TCPConnector(
                    limit=0,
                    force_close=True,
                    use_dns_cache=False,
                    resolver=dialled,
                    socket_factory=receivers._socket_factory(tls=tls),
                )
                receivers._sessions[tls] = await stack.enter_async_context(_session(connector))
            yield receivers

    async def check(self, url: str) -> None:
        """Judge a URL and every address that its host has now. Raises GatewayError: 400 callbackUrlNotAllowed.

        What is said is the rule, the same whether a name has no address or an internal one: nobody can explore the
        operator's network with it.
        """
        wrong = self._rule.objection(url)
        parts = split(url)
        if wrong is None and parts is not None:
            port, tls = port_of(parts), parts.scheme == "https"
            try:
                with anyio.fail_after(RESOLVE_SECONDS):
                    found = await self._names.resolve(parts.hostname or "", port)
            except (OSError, TimeoutError):
                found = []
            if not found or not all(self._rule.allows(address["host"], port, tls=tls) for address in found):
                wrong = _ADDRESS_RULE if tls else "must be https"
        if wrong is not None:
            more = " The operator allows other networks, and http to them, with GATEWAY_CALLBACK_ALLOW."
            raise GatewayError(400, "callbackUrlNotAllowed", f"The callback's url {wrong}.{more}")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        """One attempt; `now` in seconds since 1970."""
        try:
            return await self._post(url, headers, body, now)
        except TimeoutError:
            return Failed(f"no answer within {ATTEMPT_SECONDS:g} seconds")
        except Exception as error:  # noqa: BLE001 - whatever a hostile receiver makes the client raise is a failed attempt
            return Failed(_reason(error))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        if self._rule.objection(url) is not None:  # it was registered under another GATEWAY_CALLBACK_ALLOW
            return Failed("its address is not allowed")
        session = self._sessions[url.startswith("https:")]
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
            asked = retry_after(response.headers, now) if code in (429, 503) else None
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


class _Names(AbstractResolver):
    """Resolves receivers' names in threads of its own, so that slow name servers of theirs hold up nobody else."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="receiver-names")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        def look_up() -> list[tuple[Any, ...]]:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)

        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=where[0],
                port=where[1],
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, protocol, _, where in found
        ]

    async def close(self) -> None:
        """Both sessions share it: it ends with the block."""


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
        if isinstance(cause, _NotAllowed):
            return "its address is not allowed"
        return "its name does not resolve" if isinstance(cause, socket.gaierror) else "the connection was not accepted"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "the connection broke before an answer"
    return "its answer is not HTTP" if isinstance(error, aiohttp.ClientError) else "the attempt failed"
