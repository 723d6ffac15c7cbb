"""A GET over a session's connections, without aiohttp's request and response objects: half the CPU of a poll.

The connector, its pool and the parser are aiohttp's, with the bounds of `sessions`. Where their private parts differ
from those that are known here, and through a proxy, a GET takes the session's ordinary way: `IS_DIRECT` says which.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
import msgspec
from aiohttp import ClientRequest, ClientSession, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector, Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import DataQueue, StreamReader
from yarl import URL

from gateway.outbound.reply import Reply
from gateway.outbound.sessions import BODY_LIMIT, MOST_HEADERS, UPSTREAM_HEAD_LIMIT, AnswerTooLong, read_body

_PARAMETERS: Final[Mapping[str, Any]] = {
    "read_until_eof": True,
    "auto_decompress": False,
    "max_line_size": UPSTREAM_HEAD_LIMIT,
    "max_field_size": UPSTREAM_HEAD_LIMIT,
    "max_headers": MOST_HEADERS,
}
_CALLS: tuple[tuple[Callable[..., Any], str], ...] = (
    (BaseConnector.connect, "self req traces timeout"),
    (Connection.release, "self"),
    (Connection.close, "self"),
    (DataQueue.read, "self"),
)
_UNLIMITED = ClientTimeout()
_BREAK = re.compile(r"[\r\n\0]")


def _is_known() -> bool:
    """Whether the private parts take what they are given here."""
    given = inspect.signature(ResponseHandler.set_response_params).parameters
    return _PARAMETERS.keys() <= given.keys() and all(
        list(inspect.signature(call).parameters) == names.split() for call, names in _CALLS
    )


IS_DIRECT = _is_known()


class BodyLost(Exception):
    """The head of a response came and its body did not, for the reason that is the cause; `reply` has no body."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("the body was lost")
        self.reply = reply


class _Origin:
    """What the requests to one origin share: the request that finds a connection, and the head after its first line."""

    __slots__ = ("__weakref__", "head", "request")

    def __init__(self, request: ClientRequest) -> None:
        self.request = request
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        self.head = b" HTTP/1.1\r\n%b" % lines.encode()


class Address(msgspec.Struct, frozen=True):
    """A URL that a `Getter` was given. `origin` is None where requests take the session's ordinary way."""

    url: str
    path: bytes
    origin: _Origin | None


class Getter:
    """GETs with one session, which keeps no cookies and follows no redirects."""

    def __init__(self, session: ClientSession, *, proxy: bool) -> None:
        self._session = session
        self._connector: Any = session.connector  # a session that is open has one
        self._is_direct = IS_DIRECT and not proxy
        self._origins: WeakValueDictionary[tuple[str, str, int | None], _Origin] = WeakValueDictionary()

    def address(self, url: str) -> Address:
        """The address of a valid http or https URL without a user, encoded as it goes out."""
        if not self._is_direct:
            return Address(url, b"", None)
        target = URL(url, encoded=True)
        key = (target.scheme, target.raw_authority, target.port)
        origin = self._origins.get(key)
        if origin is None:
            request = ClientRequest(
                "GET",
                target.origin(),
                headers=self._session.headers,
                loop=asyncio.get_running_loop(),
                session=self._session,
            )
            origin = self._origins[key] = _Origin(request)
        return Address(url, target.raw_path_qs.encode(), origin)

    async def get(self, address: Address, headers: Mapping[str, str], seconds: float) -> Reply:
        """GET within `seconds`; `headers` go out beside the session's own.

        Raises BodyLost, and whatever aiohttp or a hostile response raises.
        """
        if address.origin is None:
            return await self._ordinary(address.url, headers, seconds)
        request = b"GET %b%b%b\r\n" % (address.path, address.origin.head, _lines(headers))
        return await self._direct(address.origin, request, seconds)

    async def _ordinary(self, url: str, headers: Mapping[str, str], seconds: float) -> Reply:
        response: aiohttp.ClientResponse | None = None
        try:
            async with self._session.get(
                URL(url, encoded=True),
                headers=headers,
                allow_redirects=False,
                timeout=ClientTimeout(total=seconds),
            ) as response:
                return Reply(response.status, response.headers, await read_body(response))
        except Exception as error:
            if response is None:
                raise
            raise BodyLost(Reply(response.status, response.headers, b"")) from error

    async def _direct(self, origin: _Origin, request: bytes, seconds: float) -> Reply:
        head: RawResponseMessage | None = None
        may_repeat = True
        try:
            async with asyncio.timeout(seconds):
                while True:
                    connection = await self._connector.connect(origin.request, [], _UNLIMITED)
                    try:
                        head, payload = await _answer(connection, request)
                        body = payload.read_nowait() if payload.is_eof() else await payload.read()
                        if len(body) > BODY_LIMIT:
                            raise AnswerTooLong
                    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                        connection.close()
                        if head is not None or not may_repeat:
                            raise
                        may_repeat = False  # a kept connection may have gone: once more, as a session does
                    except BaseException:
                        connection.close()
                        raise
                    else:
                        connection.release()
                        return Reply(head.code, head.headers, body)
        except Exception as error:
            if head is None:
                raise
            raise BodyLost(Reply(head.code, head.headers, b"")) from error


async def _answer(connection: Connection, request: bytes) -> tuple[RawResponseMessage, StreamReader]:
    """Send a request; the final head of its response, and the body that follows."""
    protocol = connection.protocol
    if protocol is None or protocol.transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(**_PARAMETERS)
    protocol.transport.write(request)
    while True:
        head, payload = await protocol.read()
        if not 100 <= head.code < 200 or head.code == 101:
            return head, payload


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines. Raises ValueError for a value that would end its line."""
    if not headers:
        return b""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_BREAK.search, lines)):
        raise ValueError("a header holds a line break")
    return "".join(f"{line}\r\n" for line in lines).encode()
