"""Several gateways on one database, each on a line of its own that can be held, and what may happen to them.

`python -m tests.support.fleet --help` lets it storm for longer, and over more, than the suite does.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import anyio
import msgspec
from aiohttp import web

from gateway.cli.demo.postgres import Server, temporary_folder
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import FOLDER, OPERATOR, TOKEN, Event, Process, events
from tests.support.wire import Wire, wired

PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=3)
"""For streams: of a gateway that hangs nothing is heard, not even a heartbeat."""


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """What happens; times in seconds."""

    gateways: int = 3
    jobs: int = 300
    streams: int = 30
    every: float = 5.0
    lease: float = 10.0
    length: float = 40.0
    seed: int = 1


class Result(msgspec.Struct):
    """What came of it; `streamed` by job id, `logs` of every job."""

    logs: dict[str, list[Event]]
    streamed: dict[str, list[Event]]
    copies: Counter[str]
    polls: int
    calm_polls: int
    done: Counter[str]


class Copies:
    """Monitors of copies that take about `length` seconds each, from their first poll to their last word, in tenths."""

    def __init__(self, upstream: FakeUpstream, length: float) -> None:
        self.started: Counter[str] = Counter()
        self.polls = 0
        self._length = length
        self._begun: dict[str, float] = {}
        self._upstream = upstream
        upstream.on_copy = self.copy
        upstream.on_poll = self.poll

    async def copy(self, request: web.Request) -> web.StreamResponse:
        self.started[(await request.json())["name"]] += 1
        answer = await self._upstream.accept(request)
        self._begun[f"/monitor/{self._upstream.jobs}"] = _now()
        return answer

    async def poll(self, request: web.Request) -> web.StreamResponse:
        self.polls += 1
        self._upstream.asked.clear()
        number = int(request.path.rpartition("/")[2])
        share = (_now() - self._begun[request.path]) / (self._length * (0.8 + number % 5 / 10))
        if share >= 1:
            return web.json_response({"status": "completed", "resourceId": str(number)})
        return web.json_response({"status": "inProgress", "percentageComplete": int(share * 10) * 10}, status=202)


class Fleet:
    def __init__(self, gateways: Sequence[Process], wires: Sequence[Wire], session: aiohttp.ClientSession) -> None:
        self.gateways = gateways
        self.wires = wires
        self.session = session
        self.up = set(range(len(gateways)))
        """Those that are neither dead, nor stopped, nor cut off."""

    async def copy(self, name: str, rng: random.Random) -> dict[str, Any] | None:
        """The 202's body, from whichever gateway gives it; None when it is unknown whether the copy runs."""
        headers = {**TOKEN, "Idempotency-Key": name}
        while True:
            url = self.gateways[rng.choice(sorted(self.up))].url
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(f"{url}{FOLDER}/copy", json={"name": name}, headers=headers) as response:
                    body: dict[str, Any] = await response.json()
                if response.status in (200, 202):  # 200: a repeat, and its job has ended
                    return body
                if body["error"]["code"] == "outcomeUnknown":
                    return None
                assert response.status in (409, 503), body
            await anyio.sleep(0.2)

    async def follow(self, job_id: str, rng: random.Random) -> list[Event]:
        """As EventSource behind a balancer would, until the end has come and is not told again."""
        seen: list[Event] = []
        while True:
            headers = {"Last-Event-ID": seen[-1].id} if seen else {}
            url = f"{rng.choice(self.gateways).url}/jobs/{job_id}/events"
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.get(url, headers=headers, timeout=PATIENT) as response:
                    if response.status == 204:
                        return seen
                    assert response.status == 200 or (response.status == 503 and not seen), response.status
                    seen += [event async for event in events(response)] if response.status == 200 else []
                    continue
            await anyio.sleep(0.1)

    async def kill(self, number: int, seconds: float) -> None:
        """It is started again as by a supervisor, until it stays: the database may go away amid a start."""
        gateway = self.gateways[number]
        gateway.kill()
        await anyio.sleep(seconds)
        while True:
            try:
                await gateway.start()
            except AssertionError:
                if gateway.process.poll() is None:
                    raise
            else:
                return

    async def stop(self, number: int, seconds: float) -> None:
        """As a machine that is out of breath."""
        self.gateways[number].signal(signal.SIGSTOP)
        await anyio.sleep(seconds)
        self.gateways[number].signal(signal.SIGCONT)

    async def cut_off(self, number: int, seconds: float) -> None:
        """From the database; its callers can still reach it."""
        self.wires[number].hold()
        await anyio.sleep(seconds)
        self.wires[number].let_go()

    async def running(self) -> list[int]:
        """How many jobs each polls, by its own figures."""
        found = []
        for gateway in self.gateways:
            async with self.session.get(f"{gateway.url}/metrics") as response:
                lines = (await response.text()).splitlines()
            found.append(next(int(float(line.split()[1])) for line in lines if line.startswith("gateway_jobs_running")))
        return found

    async def ended(self) -> None:
        """No job runs any more."""
        while True:
            url = (
                f"{self.gateways[0].url}/jobs?status=notStarted&limit=1",
                f"{self.gateways[0].url}/jobs?status=inProgress",
            )
            left = 0
            for one in url:
                async with self.session.get(one, headers=OPERATOR) as response:
                    left += len((await response.json())["value"])
            if left == 0:
                return
            await anyio.sleep(0.2)


@asynccontextmanager
async def fleet(url: str, upstream: str, folder: Path, count: int, **values: Any) -> AsyncIterator[Fleet]:
    """`count` gateways on the database at `url`, each over a wire of its own."""
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wired(url)) for _ in range(count)]
        processes = [Process(upstream, folder, store_url=wire.url, heartbeat=1, busy=True, **values) for wire in wires]
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=20)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        for process in processes:
            process.spawn()
        for process in processes:
            await stack.enter_async_context(process)
            await process.ready()
        yield Fleet(processes, wires, session)


async def storm(what: Storm, folder: Path) -> Result:
    """Let it storm over a fleet, beside a gateway that has as many jobs and peace."""
    rng = random.Random(what.seed)
    pace = {"poll_min": 0.5, "poll_max": 30, "lease": what.lease, "drain": 2}
    with temporary_folder() as place, Server(place) as database:
        async with AsyncExitStack() as stack:
            upstream, calm = [await stack.enter_async_context(faking()) for _ in range(2)]
            copies, calm_copies = Copies(upstream, what.length), Copies(calm, what.length)
            own = Process(calm.url, folder, **{**pace, "lease": None})
            await stack.enter_async_context(own)
            opening = fleet(f"{database.url()}?sslmode=disable", upstream.url, folder, what.gateways, **pace)
            ships = await stack.enter_async_context(opening)
            names = [f"copy-{number}" for number in range(what.jobs)]
            started = await asyncio.gather(*(ships.copy(name, rng) for name in names))
            alone = Fleet([own], [], ships.session)
            await asyncio.gather(*(alone.copy(name, rng) for name in names))
            ids = [job["jobId"] for job in started if job is not None]
            assert len(ids) == what.jobs
            followed = ids[: what.streams]
            done: Counter[str] = Counter()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_blow, what, ships, database, rng, done)
                readers = [asyncio.create_task(ships.follow(job_id, random.Random(job_id))) for job_id in followed]
                streamed = await asyncio.gather(*readers)
                tasks.cancel_scope.cancel()
            for number, gateway in enumerate(ships.gateways):
                ships.wires[number].let_go()
                if gateway.process.poll() is None:
                    gateway.signal(signal.SIGCONT)
                else:
                    gateway.spawn()
                await gateway.ready()
            await ships.ended()
            await alone.ended()
            logs = await asyncio.gather(*(ships.follow(job_id, rng) for job_id in ids))
            return Result(
                logs=dict(zip(ids, logs, strict=True)),
                streamed=dict(zip(followed, streamed, strict=True)),
                copies=copies.started,
                polls=copies.polls,
                calm_polls=calm_copies.polls,
                done=done,
            )


async def _blow(what: Storm, ships: Fleet, database: Server, rng: random.Random, done: Counter[str]) -> None:
    """Every so often one gateway is killed, stopped or cut off, and comes back; the database is restarted once."""
    ways = [ships.kill, ships.stop, ships.cut_off]
    turns = 0
    async with anyio.create_task_group() as tasks:
        while True:
            await anyio.sleep(what.every)
            if not ships.up:
                continue
            number = rng.choice(sorted(ships.up))
            way = ways[turns % len(ways)]
            turns += 1
            done[way.__name__] += 1
            tasks.start_soon(_one, ships, number, way, what.lease * rng.uniform(0.5, 1.5))
            if turns == 3:
                await anyio.to_thread.run_sync(database.stop)
                await anyio.to_thread.run_sync(database.start)
                done["database restarted"] += 1


async def _one(ships: Fleet, number: int, way: Any, seconds: float) -> None:
    ships.up.discard(number)
    await way(number, seconds)
    ships.up.add(number)


def check(result: Result) -> None:
    """What must hold however it stormed."""
    assert set(result.copies.values()) == {1}
    for log in result.logs.values():
        assert [int(event.id) for event in log] == list(range(1, len(log) + 1))
        assert [event.name != "progress" for event in log] == [False] * (len(log) - 1) + [True]
        assert log[-1].name == "completed"
    for job_id, seen in result.streamed.items():
        assert seen == result.logs[job_id]


def _now() -> float:
    return asyncio.get_running_loop().time()


def main() -> None:
    parser = argparse.ArgumentParser(description="Let it storm over gateways on one database.")
    for field in msgspec.structs.fields(Storm):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    what = Storm(**vars(parser.parse_args()))
    with TemporaryDirectory() as folder:
        result = asyncio.run(storm(what, Path(folder)))
    check(result)
    print(
        f"{what.jobs} jobs ended once each, {what.streams} streams had every id once and in order; {dict(result.done)}"
    )
    print(f"polls: {result.polls}, by one gateway in peace {result.calm_polls}: {result.polls / result.calm_polls:.2f}")


if __name__ == "__main__":
    main()
