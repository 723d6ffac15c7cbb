"""The shared store's database goes away, hangs, or is full of others, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from aiohttp import web

from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import FOLDER, OPERATOR, TOKEN, Running, events, serving
from tests.support.wire import Wire, wired


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with faking() as upstream:
        yield upstream


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    async with wired(database_url) as wire:
        yield wire


@pytest.fixture
async def gateway(upstream: FakeUpstream, wire: Wire, tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(upstream.url, tmp_path, store_url=wire.url, heartbeat=0.5, lease=2, max_streams=3) as gateway:
        yield gateway


async def posted(gateway: Running, **options: Any) -> tuple[int, dict[str, Any], str | None]:
    options.setdefault("headers", TOKEN)
    async with gateway.session.post(f"{gateway.url}{FOLDER}/copy", json={"name": "x"}, **options) as response:
        return response.status, await response.json(), response.headers.get("Retry-After")


async def known_to_be_away(gateway: Running) -> None:
    """Readiness says so first."""
    with anyio.fail_after(10):
        while await status(gateway, "/readyz") != 503:  # noqa: ASYNC110 - it has to be asked
            await anyio.sleep(0.05)


async def back(gateway: Running) -> None:
    with anyio.fail_after(10):
        while await status(gateway, "/readyz") != 200:  # noqa: ASYNC110 - it has to be asked
            await anyio.sleep(0.05)


async def status(gateway: Running, path: str, **headers: str) -> int:
    async with gateway.session.get(gateway.url + path, headers=headers) as response:
        await response.read()
        return response.status


async def test_requests_while_it_is_away(gateway: Running, upstream: FakeUpstream, wire: Wire) -> None:
    """503 with Retry-After, and a copy before anything went upstream; a stream with a last id is told to come back;
    what is open stays open and goes on; the gateway lives, but is not ready.
    """
    job = await gateway.copy()
    path = f"/jobs/{job['jobId']}"
    async with gateway.session.get(job["events"]) as response:
        stream = events(response)
        assert (await anext(stream)).id == "1"
        await wire.down()
        await known_to_be_away(gateway)
        asked = upstream.copies()
        code, body, retry_after = await posted(gateway)
        assert (code, body["error"]["code"], retry_after) == (503, "serviceNotAvailable", "5")
        code, _, retry_after = await posted(gateway, headers={**TOKEN, "Idempotency-Key": "k"})
        assert (code, retry_after) == (503, "5")
        assert upstream.copies() == asked
        assert await status(gateway, path) == 503
        assert await status(gateway, f"{path}/events") == 503
        assert await status(gateway, "/jobs", **OPERATOR) == 503
        assert await status(gateway, "/healthz") == 200
        async with gateway.session.get(job["events"], headers={"Last-Event-ID": "1"}) as again:
            assert again.status == 200
            assert (await again.read()).startswith(b"retry: ")
        await wire.up()
        await back(gateway)
        upstream.on_poll = completed
        rest = [event async for event in stream]
    assert [event.name for event in rest][-1] == "completed"
    assert (await posted(gateway, headers={**TOKEN, "Idempotency-Key": "k"}))[0] == 202


async def completed(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "completed", "resourceId": "1"})


async def test_it_goes_away_while_a_copy_is_upstream(
    gateway: Running, upstream: FakeUpstream, wire: Wire, database_url: str
) -> None:
    """A short absence is waited out; a longer one is 502 outcomeUnknown, and the copy is never sent again, nor by
    another gateway, which learns from the store that nobody knows.
    """

    async def going(request: web.Request) -> web.StreamResponse:
        await wire.down()
        return await upstream.accept(request)

    upstream.on_copy = going
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_up_after, wire, 2.0)
        assert (await posted(gateway))[0] == 202
    headers = {**TOKEN, "Idempotency-Key": "k"}
    code, body, _ = await posted(gateway, headers=headers)
    assert (code, body["error"]["code"]) == (502, "outcomeUnknown")
    await wire.up()
    await back(gateway)
    upstream.on_copy = upstream.accept
    code, body, _ = await posted(gateway, headers=headers)
    assert (code, body["error"]["code"]) == (502, "outcomeUnknown")
    assert upstream.copies() == 2
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT outcome FROM keys") == "unknown"
    await connection.close()


async def _up_after(wire: Wire, seconds: float) -> None:
    await anyio.sleep(seconds)
    await wire.up()


@pytest.mark.parametrize("how", ["down", "held"])
async def test_a_verdict_seen_meanwhile_is_held(gateway: Running, upstream: FakeUpstream, wire: Wire, how: str) -> None:
    """And stored when the database is back; the monitor, which would have forgotten, is not asked again."""
    polls = 0
    seen = anyio.Event()

    async def once(request: web.Request) -> web.StreamResponse:
        nonlocal polls
        polls += 1
        if polls > 1:
            return web.Response(status=404)
        if how == "down":
            await wire.down()
        else:
            wire.hold()
        seen.set()
        return await completed(request)

    upstream.on_poll = once
    job = await gateway.copy()
    await seen.wait()
    await anyio.sleep(2.5)  # longer than its lease: it lapses, but nobody else was there to take over
    if how == "down":
        await wire.up()
    else:
        wire.let_go()
    await back(gateway)
    with anyio.fail_after(10):
        while await status(gateway, f"/jobs/{job['jobId']}") != 200:  # noqa: ASYNC110 - it has to be asked
            await anyio.sleep(0.05)
    async with gateway.session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
        assert (await response.json())["status"] == "completed"
    assert polls == 1


async def test_polling_stops_with_the_lease_and_goes_on(gateway: Running, upstream: FakeUpstream, wire: Wire) -> None:
    """Who cannot renew does not poll: others may have taken over, as far as it can know."""
    await gateway.copy()
    while upstream.polls() < 3:  # noqa: ASYNC110 - until it is polled
        await anyio.sleep(0.01)
    wire.hold()
    await anyio.sleep(2.5)
    polls = upstream.polls()
    await anyio.sleep(1.5)
    assert upstream.polls() == polls
    wire.let_go()
    with anyio.fail_after(10):
        while upstream.polls() < polls + 3:  # noqa: ASYNC110 - until it is polled
            await anyio.sleep(0.01)


async def test_a_database_that_has_no_connection_left(
    gateway: Running, upstream: FakeUpstream, database_url: str, wire: Wire
) -> None:
    """As when it is away: 503, and no copy is started."""
    await gateway.copy()
    asked = upstream.copies()
    await wire.down()
    async with AsyncExitStack() as stack:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                connection = await asyncpg.connect(database_url)
                stack.push_async_callback(connection.close)
        await wire.up()
        await known_to_be_away(gateway)
        assert (await posted(gateway))[0] == 503
        assert upstream.copies() == asked
    await back(gateway)
    assert (await posted(gateway))[0] == 202


async def test_its_connections_are_bounded(gateway: Running, database_url: str) -> None:
    """However many ask at once."""
    jobs = [await gateway.copy() for _ in range(3)]
    connection = await asyncpg.connect(database_url)
    there = (  # of clients, since a worker of autovacuum counts as one of the database's, too
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    while await connection.fetchval(there) > 10:  # noqa: ASYNC110 - what the start used may still be ending there
        await anyio.sleep(0.05)
    most = 0

    async def ask() -> None:
        for job in jobs * 30:
            await status(gateway, f"/jobs/{job['jobId']}")

    async def count() -> None:
        nonlocal most
        while True:
            most = max(most, await connection.fetchval(there))

    counting = asyncio.create_task(count())
    await asyncio.gather(*(ask() for _ in range(20)))
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    connection.terminate()
    assert 2 <= most <= 10


async def test_it_starts_when_the_database_does(upstream: FakeUpstream, wire: Wire, tmp_path: Path) -> None:
    """A start in the middle of a restart waits for it."""
    await wire.down()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_up_after, wire, 1.0)
        async with serving(upstream.url, tmp_path, store_url=wire.url) as gateway:
            assert (await posted(gateway))[0] == 202
