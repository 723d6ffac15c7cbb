"""HTTP client of Microsoft Graph: start an operation, read an item, poll a monitor.

No exception of aiohttp leaves this module: its message holds the whole URL, and a monitor URL is a credential. Only a
poll follows redirects. Cookies are never kept, proxies never taken from the environment.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
from aiohttp import ClientResponse, ClientSession, TraceConfig
from multidict import CIMultiDict
from yarl import URL

from gateway.core.addresses import MonitorRule, origin, port_of, resolved, split
from gateway.graph.dialects import NoAnswer, leads_elsewhere
from gateway.graph.operations import COPY, GraphRequest, Operation
from gateway.outbound.causes import cause
from gateway.outbound.decoding import Undecodable, decoded
from gateway.outbound.exchange import Address, BodyLost, Client, Unsent
from gateway.outbound.reply import Reply
from gateway.outbound.sessions import BODY_LIMIT, POLL_SECONDS, USER_AGENT, upstream_session

HOPS = 3
"""Most redirects that one poll follows."""

_STATUS_URLS = ("Azure-AsyncOperation", "Operation-Location", "Location")
"""The headers that may hold the URL of an operation, the one that counts first."""
_VERSIONED = re.compile(r"/(v1\.0|beta)/")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
_OF_OPERATION = {"Prefer": "include-unknown-enum-members"}
"""Graph then tells words that it has come to know later, instead of `unknownFutureValue`."""
_BODY_HEADERS = ("Content-Type", "Content-Encoding")


class Unanswered(Exception):
    """The exchange failed; the message is the cause, in fixed words."""


class NotSent(Unanswered):
    """Upstream could not be reached; nothing of the request was sent."""


class Broken(Unanswered):
    """The exchange failed or timed out after the request was sent: whether upstream acted on it is unknown."""


class Monitor(msgspec.Struct, frozen=True):
    """How a job is polled. `host`, as `host:port`, is the host whose polling rate the job shares. `is_own`: it is of
    upstream's own origin, where a caller's token may go.
    """

    url: str
    address: Address
    client: Any
    host: str
    is_own: bool = False


class ItemReply:
    """An upstream response whose body has not been read yet.

    `location` is the absolute URL of a redirect to an allowed host, None for anything else.
    """

    def __init__(self, response: ClientResponse, location: str | None) -> None:
        self.code = response.status
        self.headers: Mapping[str, str] = response.headers
        self.location = location
        self._response = response

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in chunks as they arrive. Raises Broken when the response breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Broken(cause(error)) from None


class Upstream:
    """Client of one upstream. `url` is its base URL; `rule` decides which monitor URLs may be polled."""

    def __init__(self, *, url: str, rule: MonitorRule) -> None:
        self._base = url.rstrip("/")
        self.origin = origin(url)
        self._rule = rule
        self._copy_timeout: float
        self._starts: Client
        self._reads: ClientSession
        self._polls: dict[str, Client]

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        url: str,
        rule: MonitorRule,
        copy_timeout: float,
        user_agent: str = USER_AGENT,
        proxy: str | None = None,
    ) -> AsyncIterator[Upstream]:
        """Open the HTTP sessions. `copy_timeout` bounds one copy request or item read, in seconds.

        `proxy` is the http URL of a proxy for upstream and monitors. An upstream over http is on loopback, where no
        proxy leads: it is reached directly.
        """
        upstream = cls(url=url, rule=rule)
        upstream._copy_timeout = copy_timeout
        own = proxy if url.startswith("https:") else None
        trace = TraceConfig()
        trace.on_request_headers_sent.append(_mark_sent)

        async with AsyncExitStack() as stack:

            async def opened(seconds: float, *traces: TraceConfig, via: str | None, **limits: Any) -> ClientSession:
                session = upstream_session(seconds, *traces, user_agent=user_agent, proxy=via, **limits)
                return await stack.enter_async_context(session)

            # A start has a connection of its own: a kept one may be gone, and a POST cannot be repeated to find out.
            starts = await opened(copy_timeout, via=own, callers=True, kept=False)
            upstream._starts = Client(starts, proxy=own is not None)
            upstream._reads = await opened(copy_timeout, trace, via=own, callers=True, bounded=False)
            upstream._polls = {
                "own": Client(await opened(POLL_SECONDS, via=own), proxy=own is not None),
                "public": Client(await opened(POLL_SECONDS, via=proxy, reaches=rule.reaches), proxy=proxy is not None),
            }
            yield upstream

    def resolve(self, location: str, asked: GraphRequest) -> str | None:
        """The status URL of an answer as an absolute URL; None when it is not a valid URL.

        The path of an operation may lack the version, which is then that of the request.
        """
        if asked.operation.asks_for_token and not _ABSOLUTE.match(location):
            path = f"/{location.lstrip('/')}"
            location = path if _VERSIONED.match(path) else f"{self._base}/{asked.version}{path}"
        return resolved(self._base + "/", location)

    def monitor(self, url: str, operation: Operation = COPY) -> Monitor | None:
        """The way to poll a monitor URL; None when the URL is not allowed. That of an operation must be upstream's own,
        since it is asked for under a token.
        """
        found = self._monitor(url)
        return None if found is None or (operation.asks_for_token and not found.is_own) else found

    def _monitor(self, url: str) -> Monitor | None:
        kind = self._rule.judge(url)
        parts = split(url)
        if kind is None or parts is None:
            return None
        client = self._polls[kind]
        is_own = kind == "own" and origin(url) == self.origin
        return Monitor(url, client.address(url), client, f"{parts.hostname}:{port_of(parts)}", is_own)

    def allows(self, url: str) -> bool:
        """Whether a URL is on a host that may be asked for a job's status."""
        return self._monitor(url) is not None

    async def start(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Send a request to a raw path with its query, once; `body` may be None. Raises NotSent or Broken.

        Each character of `path` and `headers` is one byte. The head of the response decides: a body that breaks off, is
        too long or cannot be decoded counts as none, and that of a 202 with a status URL is not waited for.
        """
        address = self._starts.address(self._base + path)
        is_lost = False
        try:
            reply = await self._starts.send(method, address, headers, body or b"", self._copy_timeout, _has_status_url)
        except Unsent as unsent:
            raise NotSent(cause(unsent.__cause__ or unsent)) from None
        except BodyLost as lost:
            reply, is_lost = lost.reply, True
        except Exception as error:  # noqa: BLE001 - a hostile response may make aiohttp raise anything
            raise Broken(cause(error)) from None
        _require_status(reply.code)
        return _whole(reply, is_lost=is_lost)

    @asynccontextmanager
    async def read_item(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[ItemReply]:
        """GET a raw path with its query; each character of both is one byte. Raises NotSent or Broken."""
        sent: list[bool] = []
        url = self._base + path
        try:
            response = await self._reads.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=sent
            )
        except Exception as error:  # noqa: BLE001 - as above
            raise (Broken if sent else NotSent)(cause(error)) from None
        async with response:
            _require_status(response.status)
            location = resolved(url, response.headers.get("Location", "")) if 300 <= response.status < 400 else None
            yield ItemReply(response, location if location is not None and self.allows(location) else None)

    async def poll(
        self, monitor: Monitor, headers: Mapping[str, str], authorization: str | None = None
    ) -> Reply | NoAnswer:
        """GET a monitor once. Every failure is returned as NoAnswer.

        Redirects to allowed hosts are followed, `HOPS` at most and within the poll's time; another one is returned.
        `authorization`, for the status of an operation, goes to upstream's own origin only.
        """
        under = headers
        if authorization is not None and monitor.is_own:
            under = {**headers, **_OF_OPERATION, "Authorization": authorization}
        now = asyncio.get_running_loop().time
        until = now() + POLL_SECONDS
        hops: list[str] = []
        reply = await _polled(monitor, under, POLL_SECONDS)
        for _ in range(HOPS):
            if isinstance(reply, NoAnswer) or not leads_elsewhere(reply):
                break
            url = resolved(monitor.url, reply.headers.get("Location", ""))
            there = None if url is None else self._monitor(url)
            if there is None:
                break
            monitor = there
            if not monitor.is_own:
                under = headers  # nor where others lead back to
            hops.append(monitor.url)
            reply = await _polled(monitor, under, max(until - now(), 0.001))
        return msgspec.structs.replace(reply, hops=tuple(hops)) if hops and isinstance(reply, Reply) else reply


def status_url(operation: Operation, headers: Mapping[str, str]) -> str | None:
    """The URL of a job's status, as the answer to its start has it."""
    names = _STATUS_URLS if operation.asks_for_token else ("Location",)
    return next(filter(None, map(headers.get, names)), None)


def _has_status_url(code: int, headers: Mapping[str, str]) -> bool:
    return code == 202 and any(headers.get(name) for name in _STATUS_URLS)


def _require_status(code: int) -> None:
    """Raises Broken for a status that no server can pass on: 101, and what HTTP does not know."""
    if not 200 <= code < 600:
        raise Broken("not HTTP")


async def _polled(monitor: Monitor, headers: Mapping[str, str], seconds: float) -> Reply | NoAnswer:
    """One exchange. A body that cannot be had costs a success; any other code may tell enough by itself."""
    client: Client = monitor.client
    reply: Reply | None = None
    try:
        reply = await client.get(monitor.address, headers, seconds)
        if "Content-Encoding" in reply.headers:
            return msgspec.structs.replace(reply, body=decoded(reply.body, reply.all("Content-Encoding"), BODY_LIMIT))
    except BodyLost as lost:
        reply, error = lost.reply, lost.__cause__ or lost
    except Exception as failure:  # noqa: BLE001 - a hostile response may make aiohttp raise anything
        error = failure
    else:
        return reply
    if reply is not None and not 200 <= reply.code < 300:
        return msgspec.structs.replace(reply, body=b"")
    if isinstance(error, Undecodable):
        return NoAnswer(str(error))
    return NoAnswer(cause(error), hung=isinstance(error, TimeoutError))


def _whole(reply: Reply, *, is_lost: bool) -> Reply:
    """A response with its body decoded, or as it came when that cannot be. If the body is lost, its headers go too."""
    if not is_lost and "Content-Encoding" not in reply.headers:
        return reply
    headers, body = CIMultiDict(reply.headers), reply.body
    if is_lost:
        for name in _BODY_HEADERS:
            headers.popall(name, None)
    else:
        with suppress(Undecodable):
            body = decoded(body, reply.all("Content-Encoding"), BODY_LIMIT)
            headers.popall("Content-Encoding")
    return Reply(reply.code, headers, body)


async def _mark_sent(_session: ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.append(True)
