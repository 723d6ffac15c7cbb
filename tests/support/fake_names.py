"""A name server on loopback, for names that a test makes up."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

_NO_SUCH_NAME, _BROKEN = 3, 2
_KINDS = {socket.AF_INET: 1, socket.AF_INET6: 28}


class FakeNames(asyncio.DatagramProtocol):
    """`table` leads from names to addresses; names below `hang` get no answer, those below `broken` a failure.

    Nothing is to be kept: a name may lead elsewhere the next time.
    """

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table
        self.asked: list[str] = []
        self.server = ""
        self._news = asyncio.Event()
        self._transport: Any = None

    async def heard(self, name: str) -> None:
        """It was asked for this name."""
        while name not in self.asked:
            self._news.clear()
            await self._news.wait()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.server = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: Any) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name = ".".join(labels).lower()
        question, (kind,) = data[12 : at + 5], struct.unpack_from("!H", data, at + 1)
        self.asked.append(name)
        self._news.set()
        if "hang" in labels:
            return
        known = self.table.get(name, [])
        code = _BROKEN if "broken" in labels else 0 if known else _NO_SUCH_NAME
        found = [address for address in known if _KINDS[_family(address)] == kind]
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(packed := _packed(address))) + packed
            for address in found
        )
        counts = struct.pack("!HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        self._transport.sendto(data[:2] + counts + question + records, addr)


@asynccontextmanager
async def naming(table: dict[str, list[str]] | None = None) -> AsyncIterator[FakeNames]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(
        lambda: FakeNames({} if table is None else table), local_addr=("127.0.0.1", 0)
    )
    try:
        yield names
    finally:
        transport.close()
        await asyncio.sleep(0)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _packed(address: str) -> bytes:
    return ip_address(address).packed
