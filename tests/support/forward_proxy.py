"""A forward proxy: CONNECT for https, and plain requests in absolute form for http."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from tests.support.fake_receiver import raw


class ForwardProxy:
    """`asked` holds each request line; `heads` the whole heads.

    `refusal`, a status line, is answered in place of each; `hangs` lets them wait. With `password` only who knows it is
    served. `names` leads host names to other hosts, `ports` to other ports.
    """

    def __init__(self, password: str | None = None) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self.refusal: bytes | None = None
        self.hangs = False
        self.names: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self._password = password

    @property
    def url_with_password(self) -> str:
        return self.url.replace("//", f"//{self._password}@")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self.heads.append(head)
        self.asked.append(f"{method} {target}")
        if self.hangs:
            await asyncio.sleep(3600)
        refusal = self.refusal
        if self._password is not None and refusal is None:
            basic = base64.b64encode(self._password.encode())
            if b"Proxy-Authorization: Basic " + basic + b"\r\n" not in head:
                refusal = b'407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"'
        if refusal is not None:
            writer.write(b"HTTP/1.1 " + refusal + b"\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        await self._pass_on(method, target, head, reader, writer)

    async def _pass_on(
        self, method: str, target: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        parts = urlsplit(target if method != "CONNECT" else f"//{target}")
        host = parts.hostname or ""
        there, back = await asyncio.open_connection(self.names.get(host, host), self.ports.get(host, parts.port))
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                back.write(head.replace(target.encode(), parts._replace(scheme="", netloc="").geturl().encode(), 1))
            await asyncio.wait(
                {asyncio.ensure_future(_pump(reader, back)), asyncio.ensure_future(_pump(there, writer))},
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            back.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxying(password: str | None = None) -> AsyncIterator[ForwardProxy]:
    """`password` as `user:password`."""
    proxy = ForwardProxy(password)
    async with raw(proxy.serve) as proxy.url:
        yield proxy
