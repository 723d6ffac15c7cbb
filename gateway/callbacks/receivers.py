"""One attempt of a callback over the wire, and the check of a callback's URL and addresses.

The registrant chooses the receiver's address. So the address is judged where it is dialled, at every attempt: a name
may have another address by then.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp
from aiohttp import ClientSession
from yarl import URL

from gateway.core.addresses import Network, Objection, ReceiverRule, is_address, port_of, split
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.core.errors import CALLBACK_URL_NOT_ALLOWED, GatewayError, unavailable
from gateway.outbound import causes
from gateway.outbound.names import LookupTimeout, Names, NoAddress
from gateway.outbound.reply import named_wait
from gateway.outbound.sessions import (
    ATTEMPT_SECONDS,
    CONNECT_SECONDS,
    AddressRefused,
    AnswerTooLong,
    drop_body,
    receiver_session,
)

_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "copy-gateway"}
_BROKE = "the connection broke before an answer"
_NO_CONNECTION = f"no connection within {CONNECT_SECONDS:g} seconds"
_UNREACHABLE = "its network cannot be reached"
_NOT_CONNECTED = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ENETUNREACH: _UNREACHABLE,
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ETIMEDOUT: _NO_CONNECTION,
}


_ELSEWHERE = "1.1.1.1"
"""Stands for the address of a name behind a proxy, which judges where names lead: any public one."""


class Receivers:
    """The client of all receivers; `rule` says which addresses may be dialled.

    `proxied`: they are reached through a proxy. Then only an address in a URL is judged, and no name is looked up.
    """

    def __init__(self, rule: ReceiverRule, *, proxied: bool = False) -> None:
        self._rule = rule
        self._proxied = proxied
        self._sessions: dict[bool, ClientSession] = {}
        self._names: Names

    @classmethod
    @asynccontextmanager
    async def open(
        cls, allowed: Sequence[Network], name_servers: Sequence[str] = (), *, proxy: str | None = None
    ) -> AsyncIterator[Receivers]:
        """Open the sessions. `name_servers`, each as `address:port`, replace the name servers of the system.

        `proxy` is the http URL of a proxy to all receivers.
        """
        receivers = cls(ReceiverRule(allowed), proxied=proxy is not None)
        async with AsyncExitStack() as stack:
            receivers._names = names = stack.enter_context(Names(name_servers))
            for tls in (True, False):
                session = receiver_session(names, partial(receivers._refusal, tls=tls), proxy)
                receivers._sessions[tls] = await stack.enter_async_context(session)
            yield receivers

    async def check(self, url: str) -> None:
        """Judge a URL and every address that its host has now.

        Raises GatewayError: 400 callbackUrlNotAllowed, which states the rule and no address, or 503 when the DNS
        lookup gets no answer now.
        """
        objection = self._rule.objection(url)
        parts = split(url)
        if objection is None and parts is not None:
            port, tls = port_of(parts), parts.scheme == "https"
            try:
                host = parts.hostname or ""
                found = [_behind_proxy(host)] if self._proxied else await self._names.check(host)
            except NoAddress:
                raise GatewayError(
                    CALLBACK_URL_NOT_ALLOWED,
                    "The callback's url must have a host that resolves: DNS has no address of it.",
                ) from None
            except LookupTimeout:
                raise unavailable(
                    "The host of the callback's url could not be looked up now. Nothing was started or registered: "
                    "try again."
                ) from None
            refusals = (self._rule.refusal(address, port, tls=tls) for address in found)
            objection = next((refusal for refusal in refusals if refusal is not None), None)
        if objection is not None:
            more = " The operator allows other networks, and any port and http there, with GATEWAY_CALLBACK_ALLOW."
            raise GatewayError(
                CALLBACK_URL_NOT_ALLOWED, f"The callback's url {objection}.{more if objection.liftable else ''}"
            )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        """Make one attempt; `now` in seconds since 1970. Every failure is returned as Failed."""
        try:
            return await self._post(url, headers, body, now)
        except aiohttp.ConnectionTimeoutError:
            return Failed(_NO_CONNECTION)
        except TimeoutError:
            return Failed(f"no answer within {ATTEMPT_SECONDS:g} seconds")
        except (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError) as error:
            return Failed(causes.cause(error))
        except Exception as error:  # noqa: BLE001 - a hostile receiver can make the client raise any error
            return Failed(_reason(error))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        parts, objection = split(url), self._rule.objection(url)
        if parts is None or objection is not None:  # allowed by an earlier GATEWAY_CALLBACK_ALLOW
            return Failed(f"its url {objection}")
        tls = parts.scheme == "https"
        if self._proxied and (why := self._refusal(_behind_proxy(parts.hostname or ""), port_of(parts), tls=tls)):
            return Failed(f"its url {why}")
        session = self._sessions[tls]
        async with session.post(
            URL(url, encoded=True), data=body, headers={**_HEADERS, **headers}, allow_redirects=False
        ) as response:
            outcome = _outcome(response, now)
            with suppress(Exception, asyncio.CancelledError):  # the head has decided, whatever becomes of the body
                await drop_body(response)
            return outcome

    def _refusal(self, address: str, port: int, *, tls: bool) -> Objection | None:
        return self._rule.refusal(address, port, tls=tls)


def _outcome(response: aiohttp.ClientResponse, now: float) -> Outcome:
    code = response.status
    if 200 <= code < 300:
        return Delivered(code)
    if code == 410:
        return Gone()
    if 300 <= code < 400:
        return Failed(f"answered {code}; redirects are not followed", status=code)
    return Failed(f"answered {code}", named_wait(response.headers, now) if code in (429, 503) else None, code)


def _behind_proxy(host: str) -> str:
    return host if is_address(host) else _ELSEWHERE


def _reason(error: Exception) -> str:
    """The reason in fixed words; the client's own message may contain the URL or an address."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error.__cause__
    for one in (cause, error):
        if isinstance(one, ssl.SSLError) and not isinstance(one, ssl.SSLEOFError):
            return f"TLS: {_tls_reason(one)}"
    if isinstance(cause, LookupTimeout):
        return "its name could not be looked up"
    if isinstance(cause, NoAddress):
        return "its name does not resolve"
    if isinstance(cause, AddressRefused):
        return f"its url {cause}"
    if isinstance(error, AnswerTooLong):
        return str(error)
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError | ssl.SSLEOFError):
        return _BROKE
    if isinstance(error, aiohttp.ClientConnectorError):
        return _NOT_CONNECTED.get(error.os_error.errno or 0, "no connection could be made")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return _BROKE
    return "its answer is not HTTP" if isinstance(error, aiohttp.ClientError) else "the attempt failed"


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.partition(",")[0] or "the certificate is not valid"  # OpenSSL adds the host's name
    detail = f" ({error.reason.replace('_', ' ').lower()})" if error.reason else ""
    return f"no secure connection could be made{detail}"
