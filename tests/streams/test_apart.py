"""What goes wrong with one reader, or with the store, is not felt by the other readers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.responses import Response

from gateway.core.job import Event
from gateway.store.sqlite import SQLiteStore
from gateway.streams.wait import Wait
from gateway.telemetry.metrics import Metrics
from tests.streams.test_tails import Client, Scene, staged

pytestmark = pytest.mark.virtual_time


class Broken(Client):
    """A connection that fails, from a moment on, at whatever is written."""

    is_broken = False
    takes_events = False

    def write(self, data: bytes) -> None:
        if self.is_broken and not (self.takes_events and b"data:" in data):
            raise RuntimeError("broken")
        super().write(data)


async def broken_stream(scene: Scene) -> Broken:
    client = Broken()
    await scene.join(0, client)
    await anyio.sleep(1)
    client.is_broken = True
    return client


async def broken_wait(scene: Scene) -> Client:
    def answer(_newest: Event, _is_held: bool) -> Response:
        raise RuntimeError("broken")

    client = Client()
    known = Event(1, "progress", status_changed=False, data=b"{}")
    wait = Wait(scene.tails, Metrics(), "j", known, lambda seq, _ended: seq > 1, answer, seconds=1000, send_timeout=50)
    await wait({"type": "http", "method": "GET", "gateway.connection": client}, client.receive, client.send)
    return client


@pytest.mark.parametrize("when", ["an event", "the end", "a heartbeat", "the drain"])
@pytest.mark.parametrize("reader", [broken_stream, broken_wait])
async def test_a_reader_that_fails(when: str, reader: Callable[[Scene], Any], tmp_path: Path) -> None:
    """It is cut, so that it comes again; those before and behind it go on."""
    if reader is broken_wait and when in ("a heartbeat", "the end"):
        return  # a wait has none
    async with staged(tmp_path, heartbeat=7) as scene:
        await scene.join(0)
        broken = await reader(scene)
        await scene.join(0)
        await anyio.sleep(1)
        others = [client for client, _ in scene.clients if client is not broken]
        match when:
            case "an event":
                await scene.append()
            case "the end":
                broken.takes_events = True
                await scene.append("completed")
            case "a heartbeat":
                await anyio.sleep(10)
            case "the drain":
                scene.tails.drain(random.Random(1))
        await anyio.sleep(1)
        assert broken.aborted
        assert not any(client.aborted for client in others)
        if when in ("the end", "the drain"):
            assert all(client.ended for client in others)
            assert scene.tails.open == 0
            return
        await scene.append("completed")
        await anyio.sleep(1)
        assert [client.ids for client in others] == [list(range(1, scene.job.seq + 1))] * 2
        assert all(client.ended for client in others)


async def test_heartbeats_while_the_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between would take a silent stream for a dead one, and its clients could only come back here."""
    answered = anyio.Event()
    read = SQLiteStore.read

    async def hanging(self: SQLiteStore, *asked: Any) -> Any:
        await answered.wait()
        return await read(self, *asked)

    async with staged(tmp_path, heartbeat=7) as scene:
        await scene.join(0)
        await anyio.sleep(1)
        ((client, _),) = scene.clients
        monkeypatch.setattr(SQLiteStore, "read", hanging)
        await anyio.sleep(70)
        assert client.chunks.count(b":\n\n") >= 8
        answered.set()
        await scene.append("completed")
        await anyio.sleep(1)
        assert client.ids == [1, 2]
        assert client.ended
