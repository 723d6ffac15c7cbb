"""HTTP client of Microsoft Graph: start a copy or a sibling of it, read an item, poll a monitor.

No exception of aiohttp leaves this module: its message holds the whole URL, and a monitor URL is a credential.
Redirects are never followed, cookies never kept, proxies never taken from the environment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import aiohttp
import msgspec
from aiohttp import ClientSession, TraceConfig
from yarl import URL

from gateway.core.addresses import MonitorRule, origin, port_of, split
from gateway.graph.dialects import NoAnswer
from gateway.outbound.reply import Reply
from gateway.outbound.sessions import POLL_SECONDS, read_body, upstream_session


class NotSent(Exception):
    """Upstream could not be reached; nothing of the request was sent."""


class Broken(Exception):
    """The exchange failed or timed out after the request was sent: whether upstream acted on it is unknown."""


class Monitor(msgspec.Struct, frozen=True):
    """How a job is polled. `host`, as `host:port`, is the host whose polling rate the job shares."""

    url: str
    target: Any
    session: Any
    host: str


class ItemReply:
    """An upstream response whose body has not been read yet."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.code = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in chunks as they arrive. Raises Broken when the response breaks off."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Broken from None


class Upstream:
    """Client of one upstream. `url` is its base URL; `rule` decides which monitor URLs may be polled."""

    def __init__(self, *, url: str, rule: MonitorRule) -> None:
        self._base = url.rstrip("/")
        self.origin = origin(url)
        self._rule = rule
        self._graph: ClientSession
        self._polls: dict[str, ClientSession]

    @classmethod
    @asynccontextmanager
    async def open(cls, *, url: str, rule: MonitorRule, copy_timeout: float) -> AsyncIterator[Upstream]:
        """Open the HTTP sessions. `copy_timeout` bounds one copy request or item read, in seconds."""
        upstream = cls(url=url, rule=rule)
        async with AsyncExitStack() as stack:
            trace = TraceConfig()
            trace.on_request_headers_sent.append(_mark_sent)
            upstream._graph = await stack.enter_async_context(upstream_session(copy_timeout, trace))
            upstream._polls = {
                "own": await stack.enter_async_context(upstream_session(POLL_SECONDS)),
                "public": await stack.enter_async_context(upstream_session(POLL_SECONDS, public_only=True)),
            }
            yield upstream

    def resolve(self, location: str) -> str | None:
        """A `Location` header as an absolute URL; None when it is not a valid URL."""
        try:
            url = urljoin(self._base + "/", location)
        except ValueError:
            return None
        return url if split(url) is not None else None

    def monitor(self, url: str) -> Monitor | None:
        """The way to poll a monitor URL; None when the URL is not allowed."""
        kind = self._rule.judge(url)
        parts = split(url)
        if kind is None or parts is None:
            return None
        return Monitor(url, URL(url, encoded=True), self._polls[kind], f"{parts.hostname}:{port_of(parts)}")

    def allows(self, url: str) -> bool:
        """Whether a URL is on a host that may be asked for a job's status."""
        return self.monitor(url) is not None

    async def start(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Send a request to a raw path with its query, once; `body` may be None. Raises NotSent or Broken."""
        sent: list[bool] = []
        try:
            async with self._graph.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type",),  # a request without a body has none
                allow_redirects=False,
                trace_request_ctx=sent,
            ) as response:
                return Reply(response.status, response.headers, await read_body(response) or b"")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise (Broken if sent else NotSent) from None

    @asynccontextmanager
    async def read_item(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[ItemReply]:
        """GET a raw path with its query. Raises NotSent or Broken."""
        sent: list[bool] = []
        try:
            response = await self._graph.get(
                URL(self._base + path, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=sent
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise (Broken if sent else NotSent) from None
        async with response:
            yield ItemReply(response)

    async def poll(self, monitor: Monitor, headers: Mapping[str, str]) -> Reply | NoAnswer:
        """GET a monitor once, without `Authorization`. Every failure is returned as NoAnswer."""
        session: ClientSession = monitor.session
        try:
            async with session.get(monitor.target, headers=headers, allow_redirects=False) as response:
                body = await read_body(response)
                if body is None:
                    return NoAnswer("more than 1 MiB")
                return Reply(response.status, response.headers, body)
        except TimeoutError:
            return NoAnswer("timed out", hung=True)
        except Exception as error:  # noqa: BLE001 - a hostile response may make aiohttp raise anything
            return NoAnswer(type(error).__name__)


async def _mark_sent(_session: ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.append(True)
