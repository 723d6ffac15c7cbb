"""Requests over a session's connections, without aiohttp's request and response objects: half the CPU of a poll.

The connector, its pool and the parser are aiohttp's, with the bounds of `sessions`. Where their private parts differ
from those that are known here, and through a proxy, a request takes the session's ordinary way: `IS_DIRECT` says which.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import aiohttp
import msgspec
from aiohttp import ClientRequest, ClientSession, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector, Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, DataQueue, StreamReader
from yarl import URL

from gateway.outbound.reply import Reply
from gateway.outbound.sessions import (
    BODY_LIMIT,
    MOST_HEADERS,
    POLL_SECONDS,
    UPSTREAM_HEAD_LIMIT,
    AnswerTooLong,
    BoundedAnswer,
    SentBody,
)

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
_USUAL = ClientTimeout(connect=POLL_SECONDS)
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")


def _is_known() -> bool:
    """Whether the private parts take what they are given here."""
    given = inspect.signature(ResponseHandler.set_response_params).parameters
    calls = all(list(inspect.signature(call).parameters) == names.split() for call, names in _CALLS)
    return calls and _PARAMETERS.keys() <= given.keys() and hasattr(StreamReader, "_buffer")


IS_DIRECT = _is_known()


class BodyLost(Exception):
    """The head of a response came and its body did not, for the reason that is the cause; `reply` has no body."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("the body was lost")
        self.reply = reply


class Unsent(Exception):
    """Nothing of the request was handed to a connection, for the reason that is the cause."""


class _Origin:
    """What the requests to one origin share: the request that finds a connection, and the head after its first line."""

    __slots__ = ("__weakref__", "head", "headers", "request")

    def __init__(self, request: ClientRequest) -> None:
        self.request = request
        self.headers = {name.lower(): (name, value) for name, value in request.headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        self.head = b" HTTP/1.1\r\n%b" % lines.encode()


class Address(msgspec.Struct, frozen=True):
    """A URL that a `Client` was given. `origin` is None where requests take the session's ordinary way."""

    url: str
    path: bytes
    origin: _Origin | None


class Client:
    """Requests with one session, which keeps no cookies and follows no redirects."""

    def __init__(self, session: ClientSession, *, proxy: bool) -> None:
        self._session = session
        self._connector: Any = session.connector  # a session that is open has one
        loop = asyncio.get_running_loop()
        self._time, self._call_at = loop.time, loop.call_at
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

    def get(self, address: Address, headers: Mapping[str, str], seconds: float) -> Coroutine[Any, Any, Reply]:
        """GET within `seconds`; `headers` go out beside the session's own, each character as one byte if it is direct.

        Raises BodyLost, and whatever aiohttp or a hostile response raises.
        """
        if address.origin is None:
            return self._ordinary("GET", address.url, headers, seconds)
        request = b"GET %b%b%b\r\n" % (address.path, address.origin.head, _lines(headers))
        return self._direct(address.origin, request, seconds)

    async def send(
        self,
        method: str,
        address: Address,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        is_enough: Callable[[int, Mapping[str, str]], bool],
    ) -> Reply:
        """Send a request with a body once, within `seconds`, on a connection that the session does not keep.

        Each character of `headers` goes out as one byte. The body of a response is not waited for if its status and
        headers are enough. Raises Unsent, BodyLost, and whatever aiohttp or a hostile response raises.
        """
        if address.origin is None:
            return await self._ordinary(method, address.url, headers, seconds, SentBody(body), is_enough)
        until = self._time() + seconds
        try:
            request = _head(method, address.path, address.origin, headers, len(body)) + body
            connected = await self._connected(address.origin, seconds)
        except Exception as error:
            raise Unsent from error
        return await self._exchange(*connected, request, until, is_enough)

    async def _ordinary(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        seconds: float,
        body: SentBody | None = None,
        is_enough: Callable[[int, Mapping[str, str]], bool] | None = None,
    ) -> Reply:
        response: aiohttp.ClientResponse | None = None
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type",),  # a request without a body has none
                allow_redirects=False,
                timeout=ClientTimeout(total=seconds),
            ) as response:
                if is_enough is not None and is_enough(response.status, response.headers):
                    response.close()
                    return Reply(response.status, response.headers, b"")
                return Reply(response.status, response.headers, await read_body(response))
        except Exception as error:
            if response is not None:
                raise BodyLost(Reply(response.status, response.headers, b"")) from error
            if body is not None and not body.sent:
                raise Unsent from error
            raise

    async def _direct(self, origin: _Origin, request: bytes, seconds: float) -> Reply:
        until = self._time() + seconds
        try:
            return await self._exchange(*await self._connected(origin, seconds), request, until)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            seconds = max(until - self._time(), 0.001)
        # a kept connection may have gone
        return await self._exchange(*await self._connected(origin, seconds), request, until)

    async def _connected(
        self, origin: _Origin, seconds: float
    ) -> tuple[Connection, BoundedAnswer, asyncio.WriteTransport]:
        limits = _USUAL if seconds == POLL_SECONDS else ClientTimeout(connect=seconds)
        connection: Connection = await self._connector.connect(origin.request, [], limits)
        protocol, transport = connection.protocol, connection.transport
        if not isinstance(protocol, BoundedAnswer) or transport is None or transport.is_closing():
            connection.close()
            raise aiohttp.ServerDisconnectedError
        return connection, protocol, transport

    async def _exchange(
        self,
        connection: Connection,
        protocol: BoundedAnswer,
        transport: asyncio.WriteTransport,
        request: bytes,
        until: float,
        is_enough: Callable[[int, Mapping[str, str]], bool] | None = None,
    ) -> Reply:
        head: RawResponseMessage | None = None
        timer = self._call_at(until, protocol.expire)
        try:
            protocol.set_response_params(**_PARAMETERS)
            transport.write(request)
            head, payload = await protocol.read()
            while 100 <= head.code < 200 and head.code != 101:
                head, payload = await protocol.read()
            if is_enough is not None and is_enough(head.code, head.headers):
                connection.close()
                return Reply(head.code, head.headers, b"")
            body = await _body(payload)
        except BaseException as error:
            connection.close()
            if head is None or head.code < 200 or not isinstance(error, Exception):
                raise
            raise BodyLost(Reply(head.code, head.headers, b"")) from error
        finally:
            timer.cancel()
        connection.release()
        return Reply(head.code, head.headers, body)


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of an upstream response. Raises AnswerTooLong beyond `BODY_LIMIT`, and the connection is closed."""
    length = response.content_length
    if length is not None and length <= BODY_LIMIT:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            response.close()
            raise AnswerTooLong
    return bytes(body)


async def _body(payload: StreamReader) -> bytes:
    """A whole body. Raises AnswerTooLong, and whatever ended it."""
    if payload.is_eof() and payload.exception() is None and payload is not EMPTY_PAYLOAD:
        body = b"".join(payload._buffer)  # noqa: SLF001 - a read would have the parser go on, though it is at the end
    else:
        body = await payload.read()
    if len(body) > BODY_LIMIT:
        raise AnswerTooLong
    return body


def _head(method: str, path: bytes, origin: _Origin, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request with a body. Raises ValueError for a value with a control character."""
    fields = origin.headers | {name.lower(): (name, value) for name, value in headers.items()}
    lines = [f"{method} {path.decode()} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.values())]
    _check(lines)
    return b"%b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (
        "\r\n".join(lines).encode("latin-1", "replace"),
        length,
    )


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines, each character one byte. Raises ValueError for a value with a control character."""
    if not headers:
        return b""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    _check(lines)
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace")


def _check(lines: Iterable[str]) -> None:
    """Raises ValueError."""
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a header holds a control character")
