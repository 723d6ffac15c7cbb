"""A balancer for the demo with replicas: each new connection goes to the next gateway that takes it."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute, SocketListener

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

    from anyio.abc import SocketStream, TaskGroup

HOST = "127.0.0.1"


class Balancer:
    """Passes on bytes and reads none of them. `ports` are where the gateways listen."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = 0
        self._given: dict[int, int] = {}

    def serving(self, port: int) -> int | None:
        """Which of the gateways, counted from 0, has the connection that comes from this port."""
        return self._given.get(port)

    async def carry(self, client: SocketStream) -> None:
        """Let a connection reach a gateway, until both sides have ended it; when no gateway takes it, it is closed."""
        async with client:
            port: int = client.extra(SocketAttribute.remote_port, 0)  # noqa: S610 - Django is not here
            for _ in self._ports if port else ():  # without, it has left again
                turn = self._turn
                self._turn = (turn + 1) % len(self._ports)
                with suppress(OSError):
                    gateway = await anyio.connect_tcp(HOST, self._ports[turn])
                    break
            else:
                return
            self._given[port] = turn
            try:
                async with gateway, anyio.create_task_group() as ways:
                    ways.start_soon(_pass_on, client, gateway)
                    ways.start_soon(_pass_on, gateway, client)
            finally:
                del self._given[port]


@asynccontextmanager
async def balancing(listening: socket.socket, ports: Sequence[int]) -> AsyncIterator[Balancer]:
    """A balancer that takes connections on that socket, and cuts them off at the end."""
    balancer = Balancer(ports)
    failure: Exception | None = None
    async with await SocketListener.from_socket(listening) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(_accept, listener, balancer, tasks)
        try:
            yield balancer
        except Exception as error:  # noqa: BLE001 - the task group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _accept(listener: SocketListener, balancer: Balancer, tasks: TaskGroup) -> None:
    while True:
        try:
            client = await listener.accept()
        except OSError:  # it left again, or there are too many files open
            await anyio.sleep(0.1)
        else:
            tasks.start_soon(balancer.carry, client)


async def _pass_on(one: SocketStream, other: SocketStream) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for chunk in one:
            await other.send(chunk)
    await other.send_eof()
