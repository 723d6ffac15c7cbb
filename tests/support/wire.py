"""A line between a gateway and its database that a test can hold, cut, or cut at a chosen message or answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from tests.support.harness import free_port

Direction = Literal["asked", "answered"]


class Wire:
    """`url` leads through it. Held, it takes connections and bytes and passes nothing on; down, it takes none."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._port = free_port()  # nobody takes it while the line is down
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._left: dict[Direction, int | None] = {"asked": None, "answered": None}
        self._words: tuple[bytes, ...] = ()
        self._asked: Counter[object] = Counter()
        """How many of the words were asked, by connection."""
        self._open: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._cuts = 0

    @property
    def url(self) -> str:
        user = self._to.netloc.rpartition("@")[0]
        return self._to._replace(netloc=f"{user}@127.0.0.1:{self._port}").geturl()

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)

    async def down(self) -> None:
        """Break all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Break all connections."""
        self._cuts += 1
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._open)

    def hold(self) -> None:
        self._passing.clear()

    def let_go(self) -> None:
        self._passing.set()

    def cut_after(self, direction: Direction, messages: int) -> None:
        """Break whichever connection brings one more than that in a direction; what comes too much is not passed on."""
        self._left[direction] = messages

    def cut_at_answer_to(self, *words: bytes) -> None:
        """Break the connection on which messages with these words were asked, one after the other, when the last one's
        answer comes, which is lost.
        """
        self._words = words
        self._asked.clear()

    def mend(self) -> None:
        self._left = {"asked": None, "answered": None}
        self._words = ()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        cuts = self._cuts
        with suppress(OSError):
            there, back = await asyncio.open_connection(self._to.hostname, self._to.port)
            pumps = {
                asyncio.ensure_future(self._pass(reader, back, "asked", task)),
                asyncio.ensure_future(self._pass(there, writer, "answered", task)),
            }
            self._pumps |= pumps
            if cuts == self._cuts:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._pumps -= pumps
            back.transport.abort()
        writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction, connection: object
    ) -> None:
        while chunk := await reader.read(1 << 16):
            asked = self._asked[connection]
            if way == "asked" and asked < len(self._words) and self._words[asked] in chunk:
                self._asked[connection] += 1
            if way == "answered" and 0 < len(self._words) == asked:
                return
            left = self._left[way]
            if left is not None:
                if left == 0:
                    return
                self._left[way] = left - 1
            await self._passing.wait()
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Wire]:
    wire = Wire(url)
    await wire.up()
    try:
        yield wire
    finally:
        wire.let_go()
        await wire.down()
