"""`kill -9` at any moment, and a start on what it left."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from gateway.simulator import Simulator, running
from tests.support.fake_upstream import faking
from tests.support.harness import FOLDER, OPERATOR, TOKEN, Event, Process, events, free_port, tail


async def post(session: aiohttp.ClientSession, url: str, number: int) -> dict[str, Any] | None:
    """The 202's body, None when the gateway died before it answered."""
    wish = {"name": f"copy {number}"}
    query = {"simulate": "copy", "seconds": "6", "steps": "30"}
    try:
        async with session.post(f"{url}{FOLDER}/copy", json=wish, params=query, headers=TOKEN) as response:
            assert response.status == 202, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer
    except aiohttp.ClientError:
        return None


async def jobs(session: aiohttp.ClientSession, gateway: Process) -> list[dict[str, Any]]:
    async with session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
        found: list[dict[str, Any]] = (await response.json())["value"]
        return found


async def follow(session: aiohttp.ClientSession, url: str) -> list[Event]:
    """As EventSource would: reconnect with the last id until the terminal event has come."""
    seen: list[Event] = []
    while not seen or seen[-1].name == "progress":
        headers = {"Last-Event-ID": seen[-1].id} if seen else {}
        try:
            async with session.get(url, headers=headers) as response:
                assert response.status == 200
                seen += [event async for event in events(response)]
        except aiohttp.ClientError:
            await anyio.sleep(0.1)
    return seen


async def test_sixty_jobs_survive_two_kills(tmp_path: Path) -> None:
    """Each goes on from its log and ends once, ids rise without gap for its reader, no copy is started twice."""
    async with (
        running(Simulator()) as upstream,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        port = free_port()
        gateway = await Process(upstream.url, tmp_path, port=port).start()
        started = await asyncio.gather(*(post(session, gateway.url, number) for number in range(60)))
        assert all(started)
        readers = [asyncio.create_task(follow(session, job["events"])) for job in started if job]
        for pause in (1.3, 1.7):
            await anyio.sleep(pause)
            gateway.kill()
            gateway = await Process(upstream.url, tmp_path, port=port).start()
        async with gateway:
            with anyio.fail_after(60):
                logs = await asyncio.gather(*readers)
            replayed = await asyncio.gather(*(tail(session, job["events"]) for job in started if job))
    assert logs == replayed
    for log in logs:
        assert [int(event.id) for event in log] == list(range(1, len(log) + 1))
        assert [event.name for event in log].count("completed") == 1
        assert log[-1].name == "completed"
    assert len(upstream.asked("copy")) == 60


async def test_what_was_answered_with_202_is_known_after_a_kill_amid_a_burst(tmp_path: Path) -> None:
    """Killed while requests come in: every job that was promised is there."""
    async with (
        running(Simulator()) as upstream,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        port = free_port()
        gateway = await Process(upstream.url, tmp_path, port=port).start()
        burst = [asyncio.create_task(post(session, gateway.url, number)) for number in range(300)]
        while sum(task.done() for task in burst) < 70:  # noqa: ASYNC110 - until it is amid the burst
            await anyio.sleep(0.001)
        gateway.kill()
        promised = [job for job in await asyncio.gather(*burst) if job is not None]
        assert 70 <= len(promised) < 300
        async with Process(upstream.url, tmp_path, port=port) as gateway:
            for job in promised:
                async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
                    assert response.status in (200, 202)
    asked = [request.body for request in upstream.asked("copy")]
    assert len(set(asked)) == len(asked) >= len(promised)


async def test_an_idempotency_key_in_flight_at_the_kill(tmp_path: Path) -> None:
    """Afterwards nobody knows what became of its copy, and nobody starts a second one."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        port = free_port()
        gateway = await Process(upstream.url, tmp_path, port=port).start()

        async def copy(key: str) -> tuple[int, Any]:
            headers = {**TOKEN, "Idempotency-Key": key}
            async with session.post(f"{gateway.url}{FOLDER}/copy", json={}, headers=headers) as response:
                return response.status, await response.json()

        async def never(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(30)
            return web.Response()

        upstream.on_copy = never
        in_flight = asyncio.create_task(copy("in-flight"))
        while upstream.copies() < 1:  # noqa: ASYNC110 - until it is upstream
            await anyio.sleep(0.01)
        gateway.kill()
        with pytest.raises(aiohttp.ClientError):
            await in_flight
        upstream.on_copy = upstream.accept
        async with Process(upstream.url, tmp_path, port=port) as gateway:
            for _ in range(2):
                status, body = await copy("in-flight")
                assert (status, body["error"]["code"]) == (502, "outcomeUnknown")
        assert upstream.copies() == 1


async def test_an_answer_that_was_lost_in_the_kill(tmp_path: Path) -> None:
    """The job was stored, but its 202 was never read: the key gives that job, its jobKey too, after the restart."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        port = free_port()
        gateway = await Process(upstream.url, tmp_path, port=port).start()
        head = f"POST {FOLDER}/copy HTTP/1.1\r\nHost: {gateway.url.removeprefix('http://')}\r\nContent-Length: 2\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (TOKEN | {"Idempotency-Key": "lost"}).items())
        with socket.create_connection(("127.0.0.1", port)) as never_read:
            never_read.sendall(f"{head}\r\n{{}}".encode())
            with anyio.fail_after(10):
                while not (listed := await jobs(session, gateway)):  # noqa: ASYNC110 - until it is stored
                    await anyio.sleep(0.02)
            gateway.kill()
        async with Process(upstream.url, tmp_path, port=port):
            headers = TOKEN | {"Idempotency-Key": "lost"}
            async with session.post(f"{gateway.url}{FOLDER}/copy", data=b"{}", headers=headers) as response:
                again = await response.json()
            assert (response.status, again["jobId"]) == (202, listed[0]["jobId"])
            key = {"Authorization": f"Bearer {again['jobKey']}"}
            async with session.delete(f"{gateway.url}/jobs/{again['jobId']}", headers=key) as response:
                assert response.status == 204
        assert upstream.copies() == 1
