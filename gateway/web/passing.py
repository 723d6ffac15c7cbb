"""Upstream's answers passed on to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.errors import GatewayError
from gateway.graph.client import Broken, ItemReply, NotSent
from gateway.graph.dialects import Reply

_REFUSAL_HEADERS = (
    "Content-Type",
    "Content-Encoding",
    "Retry-After",
    "WWW-Authenticate",
    "request-id",
    "client-request-id",
)
_ITEM_HEADERS = (*_REFUSAL_HEADERS, "ETag")
_SANDBOX = {"Content-Security-Policy": "sandbox"}


def passed_back(reply: Reply, status: int) -> Response:
    """A refusal as upstream sent it."""
    return Response(reply.body, status, _kept(reply.headers, _REFUSAL_HEADERS))


class PassedOn(Response):
    """An item as upstream sends it, without holding it in memory."""

    def __init__(self, reading: AbstractAsyncContextManager[ItemReply]) -> None:
        super().__init__()
        self._reading = reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            async with self._reading as reply:
                await self._pass_on(reply, scope, send)
        except NotSent:
            raise GatewayError(502, "upstreamUnreachable", "Upstream could not be reached. Try again.") from None
        except Broken:
            raise GatewayError(502, "upstreamUnreachable", "Upstream did not answer. Try again.") from None

    async def _pass_on(self, reply: ItemReply, scope: Scope, send: Send) -> None:
        self.init_headers(_kept(reply.headers, _ITEM_HEADERS))
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": reply.code, "headers": headers})
        try:
            async for chunk in reply.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Broken:
            scope["gateway.connection"].abort()  # a proper end would pass half an item off as a whole one
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Those of the headers that are plain text, as HTTP's are meant to be."""
    kept = {name: headers[name] for name in names if headers.get(name, "").isascii() and name in headers}
    return kept | _SANDBOX
