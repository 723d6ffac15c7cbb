"""The demo's balancer, in front of listeners that only say who they are."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from gateway.cli.demo.balancer import HOST, Balancer, balancing

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def behind(*names: str) -> AsyncIterator[tuple[Balancer, int]]:
    """A balancer and its port; an empty name is a port at which nobody listens."""
    async with AsyncExitStack() as stack:
        ports, answering = [], []
        for name in names:
            listening = socket.create_server((HOST, 0))
            ports.append(listening.getsockname()[1])
            if name:
                listener = await stack.enter_async_context(await SocketListener.from_socket(listening))
                answering.append((listener.serve, _Echo(name).answer))
            else:
                listening.close()
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        for serve, answer in answering:
            tasks.start_soon(serve, answer)
        listening = socket.create_server((HOST, 0))
        port = listening.getsockname()[1]
        yield await stack.enter_async_context(balancing(listening, ports)), port


class _Echo:
    """Says its name, then all that was said to it once that has come to its end."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def answer(self, stream: SocketStream) -> None:
        async with stream:
            await stream.send(self._name.encode())
            heard = b"".join([chunk async for chunk in stream])
            await stream.send(heard)
            await stream.send_eof()
            with anyio.move_on_after(5), pytest.raises(anyio.EndOfStream):
                await stream.receive()


def port_of(stream: SocketStream) -> int:
    return int(stream.extra(SocketAttribute.local_port))  # noqa: S610 - Django is not here


async def names(port: int, count: int) -> Sequence[str]:
    """Who answers one connection after the other."""
    found = []
    for _ in range(count):
        async with await anyio.connect_tcp(HOST, port) as stream:
            with anyio.fail_after(5):
                found.append((await stream.receive()).decode())
    return found


async def test_one_after_the_other() -> None:
    """Each connection goes to the next."""
    async with behind("a", "b", "c") as (_, port):
        assert await names(port, 7) == ["a", "b", "c", "a", "b", "c", "a"]


async def test_one_that_refuses_is_passed_over() -> None:
    """The next one has its turn instead; with none left the connection is closed."""
    async with behind("a", "", "", "d") as (_, port):
        assert await names(port, 5) == ["a", "d", "a", "d", "a"]
    async with behind("", "") as (_, port), await anyio.connect_tcp(HOST, port) as stream:
        with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_bytes_and_ends_go_both_ways() -> None:
    """More than fits into any buffer, and a side that has ended can still be answered."""
    said = bytes(range(256)) * 40_000
    async with behind("a") as (_, port):
        with anyio.fail_after(20):
            async with await anyio.connect_tcp(HOST, port) as stream:
                await stream.send(said)
                await stream.send_eof()
                assert b"".join([chunk async for chunk in stream]) == b"a" + said


async def test_it_knows_who_serves_whom() -> None:
    """For as long as the connection lasts."""
    async with behind("", "b", "c") as (balancer, port):
        async with await anyio.connect_tcp(HOST, port) as one, await anyio.connect_tcp(HOST, port) as two:
            for number, stream in ((1, one), (2, two)):
                await stream.receive()
                assert balancer.serving(port_of(stream)) == number
            own = port_of(one)
        with anyio.fail_after(5):
            while balancer.serving(own) is not None:  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(0.01)


async def test_it_ends_with_what_is_open() -> None:
    """And what went wrong meanwhile comes out as it was."""
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    with socket.create_server((HOST, 0)) as silent:
        with pytest.raises(KeyError, match="as it was"):  # noqa: PT012
            async with balancing(listening, [silent.getsockname()[1]]):
                stream = await anyio.connect_tcp(HOST, port)
                raise KeyError("as it was")
        async with stream:
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp(HOST, port)
