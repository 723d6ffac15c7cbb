"""One attempt of a callback over the wire, and the check of a callback's URL and addresses.

The registrant chooses the receiver's address. So the address is judged where it is dialled, at every attempt: a name
may have another address by then.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp
from aiohttp import ClientSession
from yarl import URL

from gateway.core.addresses import Network, ReceiverRule, port_of, split
from gateway.core.callback import Delivered, Failed, Gone, Outcome
from gateway.core.errors import CALLBACK_URL_NOT_ALLOWED, GatewayError, unavailable
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
_ADDRESS_RULE = "must lead to public addresses only, at port 443"
_NO_ALLOWED_ADDRESS = "its name leads to no allowed address"
"""Also the text for a name without addresses, so that it reveals nothing about the operator's network."""


class Receivers:
    """The client of all receivers; `rule` says which addresses may be dialled."""

    def __init__(self, rule: ReceiverRule) -> None:
        self._rule = rule
        self._sessions: dict[bool, ClientSession] = {}
        self._names: Names

    @classmethod
    @asynccontextmanager
    async def open(cls, allowed: Sequence[Network], name_servers: Sequence[str] = ()) -> AsyncIterator[Receivers]:
        """Open the sessions. `name_servers`, each as `address:port`, replace the name servers of the system."""
        receivers = cls(ReceiverRule(allowed))
        async with AsyncExitStack() as stack:
            receivers._names = names = stack.enter_context(Names(name_servers))
            for tls in (True, False):
                session = receiver_session(names, partial(receivers._allows, tls=tls))
                receivers._sessions[tls] = await stack.enter_async_context(session)
            yield receivers

    async def check(self, url: str) -> None:
        """Judge a URL and every address that its host has now.

        Raises GatewayError: 400 callbackUrlNotAllowed, or 503 when the DNS lookup gets no answer now. The 400 states
        the rule. Its message is the same for a name without addresses and a name with an internal address, so that it
        reveals nothing about the operator's network.
        """
        objection = self._rule.objection(url)
        parts = split(url)
        if objection is None and parts is not None:
            port, tls = port_of(parts), parts.scheme == "https"
            try:
                found = await self._names.check(parts.hostname or "")
            except NoAddress:
                found = []
            except LookupTimeout:
                raise unavailable(
                    "The host of the callback's url could not be looked up now. Nothing was started or registered: "
                    "try again."
                ) from None
            if not found or not all(self._rule.allows(address, port, tls=tls) for address in found):
                objection = _ADDRESS_RULE if tls else "must be https"
        if objection is not None:
            more = " The operator allows other networks, and http to them, with GATEWAY_CALLBACK_ALLOW."
            raise GatewayError(CALLBACK_URL_NOT_ALLOWED, f"The callback's url {objection}.{more}")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        """Make one attempt; `now` in seconds since 1970. Every failure is returned as Failed."""
        try:
            return await self._post(url, headers, body, now)
        except aiohttp.ConnectionTimeoutError:
            return Failed(f"no connection within {CONNECT_SECONDS:g} seconds")
        except TimeoutError:
            return Failed(f"no answer within {ATTEMPT_SECONDS:g} seconds")
        except Exception as error:  # noqa: BLE001 - a hostile receiver can make the client raise any error
            return Failed(_reason(error))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        parts = split(url)
        if parts is None or self._rule.objection(url) is not None:  # allowed by an earlier GATEWAY_CALLBACK_ALLOW
            return Failed("its address is not allowed")
        session = self._sessions[parts.scheme == "https"]
        async with session.post(
            URL(url, encoded=True), data=body, headers={**_HEADERS, **headers}, allow_redirects=False
        ) as response:
            code = response.status
            with suppress(Exception):  # the head has decided, whatever the body is
                await drop_body(response)
            if 200 <= code < 300:
                return Delivered()
            if code == 410:
                return Gone()
            if 300 <= code < 400:
                return Failed(f"answered {code}; redirects are not followed")
            wait = named_wait(response.headers, now) if code in (429, 503) else None
            return Failed(f"answered {code}", wait)

    def _allows(self, address: str, port: int, *, tls: bool) -> bool:
        return self._rule.allows(address, port, tls=tls)


def _reason(error: Exception) -> str:
    """The reason in fixed words; the client's own message may contain the URL or an address."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        certificate = error.certificate_error
        return f"TLS: {getattr(certificate, 'verify_message', '') or 'the certificate is not valid'}"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS: no secure connection could be made"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, LookupTimeout):
            return "its name could not be looked up"
        return (
            _NO_ALLOWED_ADDRESS if isinstance(cause, NoAddress | AddressRefused) else "the connection was not accepted"
        )
    if isinstance(error, AnswerTooLong):
        return str(error)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "the connection broke before an answer"
    return "its answer is not HTTP" if isinstance(error, aiohttp.ClientError) else "the attempt failed"
