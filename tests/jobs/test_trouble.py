"""What watchers are told while nothing moves, and what a host that lies for a while does to its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from anyio.abc import TaskGroup
from multidict import CIMultiDict

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Target, accepted
from gateway.graph.client import Monitor
from gateway.jobs.host import Host
from gateway.jobs.watch import Watch
from gateway.outbound.exchange import Address
from gateway.outbound.reply import Reply
from gateway.store.sqlite import SQLiteStore
from tests.support.fake_upstream import FakeUpstream, answering, faking
from tests.support.harness import OPERATOR, Event, Running, poll_context, runtime, serving, tail
from tests.support.stores import open_sqlite

pytestmark = pytest.mark.virtual_time

REAL = {"poll_min": 0.5, "poll_max": 30.0}
ITEM = "/v1.0/me/drive/items/1"


def document(status: int, body: object = None, **headers: str) -> Callable[[], web.StreamResponse]:
    return lambda: web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "…"}}


def page(status: int) -> Callable[[], web.StreamResponse]:
    return lambda: web.Response(status=status, text="<html><h1>Sorry</h1></html>", content_type="text/html")


DONE = document(200, {"status": "completed", "resourceId": "2"})
LIES = {
    "401 generalException": document(401, error("generalException")),
    "401 unauthenticated": document(401, error("unauthenticated")),
    "403 accessDenied": document(403, error("accessDenied")),
    "404 itemNotFound": document(404, error("itemNotFound")),
    "404 page": page(404),
    "410": document(410),
}
TROUBLES: dict[str, Callable[[], web.StreamResponse]] = {
    "throttled": document(429),
    "unreachable": document(500),
    "doubted": document(401),
}


async def scripted(upstream: FakeUpstream, answers: list[Callable[[], web.StreamResponse]]) -> None:
    """Answer the polls one by one, and the last for ever."""
    left = iter(answers[:-1])

    async def answer(_request: web.Request) -> web.StreamResponse:
        return next(left, answers[-1])()

    upstream.on_poll = answer


def told(events: list[Event]) -> list[str | None]:
    """The code of the trouble in each event."""
    return [event.data.get("trouble", {}).get("code") for event in events]


@pytest.mark.parametrize("code", TROUBLES)
async def test_it_comes_and_goes_as_an_event(code: str, tmp_path: Path) -> None:
    """One event at the second such answer, none for the ten after it, one at the next good answer."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        good = document(202, {"status": "inProgress", "percentageComplete": 5})
        await scripted(upstream, [good, *[TROUBLES[code]] * 8, good, DONE])
        job = await gateway.copy(ITEM)
        events = await tail(gateway.session, job["events"])
        assert told(events) == [None, None, code, None, None]
        assert events[2].data["percentageComplete"] == 5
        assert events[2].data["trouble"]["since"] < events[2].data["at"] < events[3].data["at"]
        assert [event.name for event in events] == ["progress"] * 4 + ["completed"]


async def test_a_long_requested_wait_is_told_at_once_with_its_end(tmp_path: Path) -> None:
    """A page can say when it goes on."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        good = document(202, {"status": "notStarted"})
        await scripted(upstream, [document(429, Retry_After="9"), good, document(429, Retry_After="60"), DONE])
        job = await gateway.copy(ITEM)
        events = await tail(gateway.session, job["events"])
        assert told(events) == [None, "throttled", None]
        trouble = events[1].data["trouble"]
        assert trouble["since"] == events[1].data["at"]
        assert trouble["retryAt"] > trouble["since"]


async def test_a_requested_wait_outlives_the_process(tmp_path: Path) -> None:
    """The next one asks no sooner than upstream said."""
    async with faking() as upstream:
        await scripted(upstream, [document(202, {"status": "notStarted"}), document(429, Retry_After="3600"), DONE])
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            job = await gateway.copy(ITEM)
            await anyio.sleep(10)
        asked = len(upstream.asked)
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            await anyio.sleep(3580)
            assert len(upstream.asked) == asked
            events = await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events")
            assert told(events) == [None, "throttled", None]
            assert len(upstream.asked) == asked + 1


async def test_a_change_of_trouble_is_an_event_and_an_alternation_is_none(tmp_path: Path) -> None:
    """Two answers in a row change it; one between changes nothing."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        slow, broken = TROUBLES["throttled"], TROUBLES["unreachable"]
        await scripted(upstream, [slow, slow, broken, slow, broken, slow, broken, broken, broken, DONE])
        job = await gateway.copy(ITEM)
        assert told(await tail(gateway.session, job["events"])) == [None, "throttled", "unreachable", None]


async def test_it_stands_in_states_and_lists_and_survives_a_restart(tmp_path: Path) -> None:
    """Another process goes on with what watchers were told, and takes it back as soon as the monitor answers."""
    async with faking() as upstream:
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            upstream.on_poll = answering(TROUBLES["unreachable"])
            job = await gateway.copy(ITEM)
            await anyio.sleep(20)
            before = await shown(gateway, job["jobId"])
            assert before["trouble"]["code"] == "unreachable"
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            await anyio.sleep(100)
            assert await shown(gateway, job["jobId"]) == before
            upstream.on_poll = answering(DONE)
            events = await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events")
            assert told(events) == [None, "unreachable", None]


async def shown(gateway: Running, job_id: str) -> dict[str, Any]:
    """The job's state, which is the same in the list."""
    async with gateway.session.get(f"{gateway.url}/jobs/{job_id}") as response:
        state: dict[str, Any] = await response.json()
    async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
        (listed,) = (await response.json())["value"]
    assert listed == state
    return state


async def test_a_lost_job_ends_without_trouble(tmp_path: Path) -> None:
    """Doubt is told first; the error replaces it."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        upstream.on_poll = answering(LIES["404 itemNotFound"])
        job = await gateway.copy(ITEM)
        events = await tail(gateway.session, job["events"])
        assert told(events) == [None, "doubted", None]
        assert events[-1].data["error"]["code"] == "monitorExpired"


@pytest.mark.parametrize(
    ("lie", "seconds"),
    [
        pytest.param(lie, seconds, marks=[] if (place + number) % 3 == 0 else pytest.mark.thorough)
        for place, lie in enumerate(LIES)
        for number, seconds in enumerate([9, 45, 280])
    ],
)
async def test_a_host_that_lies_for_a_while_ends_no_job(lie: str, seconds: float, tmp_path: Path) -> None:
    """Young and old jobs, whatever it says, with a restart within: all go on and complete."""
    async with faking() as upstream:
        jobs: list[str] = []
        good = upstream.on_poll
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            for _ in range(6):
                jobs.append((await gateway.copy(ITEM))["jobId"])
                await anyio.sleep(40 if len(jobs) < 4 else 0.1)
            upstream.on_poll = answering(LIES[lie])
            await anyio.sleep(seconds / 2)
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            await anyio.sleep(seconds / 2)
            upstream.on_poll = good
            await anyio.sleep(120)
            upstream.on_poll = answering(DONE)
            for job_id in jobs:
                events = await tail(gateway.session, f"{gateway.url}/jobs/{job_id}/events")
                assert events[-1].name == "completed"
                assert set(told(events)) <= {None, "doubted"}


async def test_a_host_is_said_to_lie_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line when most of its jobs are told that they are lost, one when that is over."""
    caplog.set_level("INFO", "gateway.watch")
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        good = upstream.on_poll
        for _ in range(5):
            await gateway.copy(ITEM)
        upstream.on_poll = answering(LIES["404 page"])
        await anyio.sleep(100)
        upstream.on_poll = good
        await anyio.sleep(200)
    seen = [record.message for record in caplog.records if record.message.startswith("host_")]
    assert seen == ["host_doubted", "host_trusted"]


async def test_one_more_look_when_a_completion_names_no_item(tmp_path: Path) -> None:
    """The id may come one poll later."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        await scripted(upstream, [document(200, {"status": "completed"}), DONE])
        job = await gateway.copy(ITEM)
        events = await tail(gateway.session, job["events"])
        assert len(events) == 2
        assert events[-1].data["resourceId"] == "2"


@pytest.mark.parametrize(
    "second",
    [document(200, {"status": "completed"}), document(500), document(404), document(202, {"status": "failed"})],
)
async def test_the_second_look_takes_nothing_back(second: Callable[[], web.StreamResponse], tmp_path: Path) -> None:
    """What was seen is the verdict, and nobody asks a third time."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        await scripted(upstream, [document(200, {"status": "completed"}), second])
        job = await gateway.copy(ITEM)
        events = await tail(gateway.session, job["events"])
        assert [event.name for event in events] == ["progress", "completed"]
        await anyio.sleep(60)
        assert upstream.polls() == 2


def hanging_at_the_second(first: Callable[[], web.StreamResponse], upstream: FakeUpstream) -> anyio.Event:
    """Answer the first poll, and never the second, whose coming sets the event."""
    second = anyio.Event()
    polls = 0

    async def answer(_request: web.Request) -> web.StreamResponse:
        nonlocal polls
        polls += 1
        if polls == 1:
            return first()
        second.set()
        await anyio.sleep(60)
        return web.Response()

    upstream.on_poll = answer
    return second


async def test_a_verdict_is_stored_when_the_gateway_stops_during_the_second_look(tmp_path: Path) -> None:
    """The next process need not ask, and the monitor may be gone by then."""
    async with faking() as upstream:
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            second = hanging_at_the_second(document(200, {"status": "completed"}), upstream)
            job = await gateway.copy(ITEM)
            await second.wait()
        upstream.on_poll = answering(document(404))
        async with serving(upstream.url, tmp_path, **REAL) as gateway:
            events = await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events")
            assert [event.name for event in events] == ["progress", "completed"]
        assert upstream.polls() == 2


async def test_a_second_look_takes_two_seconds_at_most(tmp_path: Path) -> None:
    """A monitor that then hangs does not withhold what is known."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        second = hanging_at_the_second(document(200, {"status": "completed"}), upstream)
        job = await gateway.copy(ITEM)
        await second.wait()
        begun = asyncio.get_running_loop().time()
        assert (await tail(gateway.session, job["events"]))[-1].name == "completed"
        assert asyncio.get_running_loop().time() - begun < 2


async def test_a_second_look_adds_the_id_alone(tmp_path: Path) -> None:
    """What the first has said was left out stays said."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        part = document(200, {"status": "completedWithErrors", "error": {"code": "skipped", "message": "3 items"}})
        await scripted(upstream, [part, DONE])
        job = await gateway.copy(ITEM)
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert (last["status"], last["error"]["code"], last["resourceId"]) == ("completedWithErrors", "skipped", "2")


class Scripted:
    """An upstream that answers every poll alike."""

    def __init__(self, body: bytes, status: int) -> None:
        self.polls = 0
        self._reply = Reply(status, CIMultiDict(), body)

    def allows(self, _url: str) -> bool:
        return False

    async def poll(self, *_: object) -> Reply:
        self.polls += 1
        return self._reply


class Alone:
    """A watch of one job without the rest of a gateway; `clock` is in seconds since 1970."""

    def __init__(self, upstream: Any, store: SQLiteStore, **options: Any) -> None:
        self.clock = 1e9
        self.upstream = upstream
        self.store = store
        self.options = options

    async def watch(self, tasks: TaskGroup, job_id: str, host: str | None = None) -> None:
        """Begin a watch; its first poll is a second later."""
        job, events = accepted(job_id, monitor="https://h/m", target=Target(host=host), now=self.clock)
        await self.store.create(job, events, None)
        own_runtime = runtime(tasks, lambda: self.clock)
        context = poll_context(own_runtime, self.store, self.upstream, deadline=3000.0, **self.options)
        own = Host("h:443", 1000, context.metrics)
        own.join(job.id)
        watch = Watch(job, Monitor("https://h/m", Address("https://h/m", b"", None), None, "h:443"), own, context)
        tasks.start_soon(watch.run, 1.0)

    async def last(self, job_id: str) -> Event:
        """The newest event of a job."""
        (piece,) = await self.store.read([(job_id, 0)], 64)
        assert piece is not None
        event = piece.events[-1]
        return Event(str(event.seq), event.kind, msgspec.json.decode(event.data))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = open_sqlite(tmp_path / "gateway.db")
    yield store
    await store.close()


@pytest.mark.parametrize("set_by", [0.0, 3600.0, -3600.0, 86400.0 * 400, -86400.0 * 400])
async def test_a_wall_clock_that_is_set_changes_no_wait(set_by: float, store: SQLiteStore) -> None:
    """A job's age is monotonic: neither is it polled more often, nor does its deadline come."""
    upstream = Scripted(b'{"status":"inProgress"}', 202)
    alone = Alone(upstream, store)
    async with anyio.create_task_group() as tasks:
        await alone.watch(tasks, "a")
        await anyio.sleep(1000)
        before, alone.clock = upstream.polls, alone.clock + 1000 + set_by
        await anyio.sleep(1000)
        assert 30 <= upstream.polls - before <= 40
        await anyio.sleep(980)
        assert (await alone.last("a")).name == "progress"
        await anyio.sleep(30)
    assert (await alone.last("a")).data["error"]["code"] == "deadlineExceeded"


@pytest.mark.parametrize(
    ("jobs", "in_trouble", "mark", "seconds"),
    [
        (2, 2, "m", 60),  # the monitor was never seen well
        (6, 1, "m", 60),
        (6, 6, "m", 300),
        (6, 6, None, 60),
        (6, None, "m", 300),
    ],
)
async def test_what_the_jobs_of_other_gateways_hear(
    jobs: int, in_trouble: int | None, mark: str | None, seconds: float, store: SQLiteStore
) -> None:
    """A gateway with fewer than three jobs of a host asks the store for the rest, which may be away."""
    asked = []

    async def troubled(host: str) -> tuple[int, int]:
        asked.append(host)
        if in_trouble is None:
            raise StoreUnavailable
        return jobs, in_trouble

    gone = Scripted(b'{"error":{"code":"itemNotFound"}}', 404)
    alone = Alone(gone, store, troubled=troubled)
    begun = asyncio.get_running_loop().time()
    async with anyio.create_task_group() as tasks:
        await alone.watch(tasks, "a", host=mark)
    assert (await alone.last("a")).data["error"]["code"] == "monitorExpired"
    assert seconds <= asyncio.get_running_loop().time() - begun <= seconds + 15
    assert set(asked) == ({mark} if mark else set())
