"""One poller per job: how often, how fast, and what no hostile monitor can do to its neighbours."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from gateway.jobs.watch import TOGETHER
from gateway.simulator import Simulator, running
from tests.support.fake_upstream import FakeUpstream, answering, faking
from tests.support.harness import OPERATOR, Running, serving, tail

pytestmark = pytest.mark.virtual_time

REAL = {"poll_min": 0.5, "poll_max": 30.0}


def now() -> float:
    return asyncio.get_running_loop().time()


def timed(upstream: FakeUpstream) -> list[float]:
    """When each poll came in, from now on."""
    times: list[float] = []
    answer = upstream.on_poll

    async def timing(request: web.Request) -> web.StreamResponse:
        times.append(now())
        return await answer(request)

    upstream.on_poll = timing
    return times


def throttling(retry_after: str | None, status: int = 429) -> Any:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return answering(lambda: web.Response(status=status, headers=headers))


async def error_of(gateway: Running, job: dict[str, Any]) -> tuple[str, str]:
    last = (await tail(gateway.session, job["events"]))[-1]
    error = last.data["error"]
    return error["code"], error["origin"]


@pytest.mark.parametrize("readers", [0, 1, 500])
async def test_the_same_polls_however_many_read(readers: int, tmp_path: Path) -> None:
    """Nobody, one or five hundred: upstream cannot tell."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        times = timed(upstream)
        job = await gateway.copy("/v1.0/me/drive/items/1")
        begun = now()
        async with anyio.create_task_group() as tasks:
            for _ in range(readers):
                tasks.start_soon(tail, gateway.session, job["events"])
            await anyio.sleep_until(begun + 60)
            seen = [round(at - begun, 2) for at in times]
            tasks.cancel_scope.cancel()
        expected = EXPECTED.setdefault("polls", len(seen))
        assert abs(len(seen) - expected) <= 1
        assert 20 <= len(seen) <= 130


EXPECTED: dict[str, int] = {}


async def test_the_whole_process_keeps_its_rate(tmp_path: Path) -> None:
    """However many jobs, no second has more polls than the rate allows, and all jobs are served alike."""
    async with faking() as upstream, serving(upstream.url, tmp_path, poll_rate=20, **REAL) as gateway:
        times = timed(upstream)
        for _ in range(100):
            await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(60)
        settled = [at for at in times if at >= times[0] + 5]
        assert all(later >= at + 1 for at, later in zip(settled, settled[21:], strict=False))
        assert len(settled) > 20 * 50
        polls = Counter(path for _, path, *_ in upstream.asked if path.startswith("/monitor/"))
        assert max(polls.values()) <= 2 * min(polls.values())


async def test_polls_that_fall_due_together_go_together(tmp_path: Path) -> None:
    """Those within 5 ms in one turn of the loop, whenever their jobs began, and none before it is due."""
    async with faking() as upstream, serving(upstream.url, tmp_path, poll_rate=100_000, **REAL) as gateway:
        times = timed(upstream)
        began = []
        for _ in range(20):
            await anyio.sleep(0.0013)
            await gateway.copy("/v1.0/me/drive/items/1")
            began.append(now())
        await anyio.sleep(20)
    assert len(times) > 200
    assert all(abs(at - round(at / TOGETHER) * TOGETHER) < 1e-6 for at in times)
    assert all(first >= at + REAL["poll_min"] for at, first in zip(began, times[:20], strict=True))


@pytest.mark.parametrize(("retry_after", "shortest", "longest"), [("41", 41, 42), ("0", 0.5, 1.1), ("900", 900, 901)])
async def test_a_retry_after_binds_its_job(retry_after: str, shortest: float, longest: float, tmp_path: Path) -> None:
    """Never sooner than asked, beyond the longest wait if need be, never below the shortest."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        upstream.on_poll = throttling(retry_after)
        times = timed(upstream)
        await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(longest * 4)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert len(gaps) >= 2
        assert all(shortest <= gap <= longest for gap in gaps), gaps


async def test_a_retry_after_on_a_running_answer_binds_too(tmp_path: Path) -> None:
    """Upstream may ask for patience without being throttled."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        upstream.on_poll = answering(
            lambda: web.json_response({"status": "inProgress"}, status=202, headers={"Retry-After": "20"})
        )
        times = timed(upstream)
        await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(100)
        assert all(20 <= later - earlier <= 21 for earlier, later in pairwise(times))


async def test_no_wait_delays_the_deadline(tmp_path: Path) -> None:
    """A Retry-After of a day does not keep a job of an hour."""
    async with faking() as upstream, serving(upstream.url, tmp_path, job_deadline=600, **REAL) as gateway:
        upstream.on_poll = throttling("86400")
        begun = now()
        job = await gateway.copy("/v1.0/me/drive/items/1")
        assert await error_of(gateway, job) == ("deadlineExceeded", "gateway")
        assert 599.9 <= now() - begun <= 601


async def test_patience_ends(tmp_path: Path) -> None:
    """No usable answer for so long: monitorUnreachable, soon after."""
    async with faking() as upstream, serving(upstream.url, tmp_path, poll_patience=120, **REAL) as gateway:
        upstream.on_poll = answering(lambda: web.Response(text="<html>"))
        begun = now()
        job = await gateway.copy("/v1.0/me/drive/items/1")
        assert await error_of(gateway, job) == ("monitorUnreachable", "gateway")
        assert 119.9 <= now() - begun <= 125


async def test_waits_that_upstream_asked_for_do_not_cost_patience(tmp_path: Path) -> None:
    """Throttled for an hour by its own Retry-After, a job is still watched, and ends well."""
    async with faking() as upstream, serving(upstream.url, tmp_path, poll_patience=60, **REAL) as gateway:
        upstream.on_poll = throttling("300")
        job = await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(3000)
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        assert (await tail(gateway.session, job["events"]))[-1].name == "completed"


GONE = {"error": {"code": "itemNotFound", "message": "The resource could not be found."}}
DENIED = {"error": {"code": "unauthenticated", "message": "Authentication failed"}}


@pytest.mark.parametrize(
    ("status", "body", "code", "seconds"),
    [
        (404, GONE, "monitorExpired", 15),
        (410, None, "monitorExpired", 15),
        (401, DENIED, "monitorUnauthorized", 60),
        (403, DENIED, "monitorUnauthorized", 60),
        (404, None, "monitorExpired", 300),
        (401, {"error": {"code": "generalException"}}, "monitorUnauthorized", 300),
    ],
)
async def test_a_lost_monitor(status: int, body: object, code: str, seconds: float, tmp_path: Path) -> None:
    """It is asked again at growing waits, and for the last time when it may count as lost."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        job = await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(2)
        upstream.on_poll = answering(lambda: web.json_response(body, status=status))
        times = timed(upstream)
        assert await error_of(gateway, job) == (code, "gateway")
        assert seconds - 0.01 <= times[-1] - times[0] <= seconds + 1
        assert len(times) <= 6 + seconds / 25


@pytest.mark.parametrize("setting", [{}, {"lost_patience": 5.0}])
async def test_a_monitor_that_is_404_until_it_is_there(setting: dict[str, float], tmp_path: Path) -> None:
    """A minute is granted before the first good answer, however small the patience with doubtful ones."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL, **setting) as gateway:
        there = upstream.on_poll
        upstream.on_poll = answering(lambda: web.json_response(GONE, status=404))
        job = await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(50)
        upstream.on_poll = there
        await anyio.sleep(31)
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "2"}))
        assert (await tail(gateway.session, job["events"]))[-1].name == "completed"


async def test_after_the_end_nobody_asks(tmp_path: Path) -> None:
    """A verdict or a DELETE is the last of the polls."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        first = await gateway.copy("/v1.0/me/drive/items/1")
        async with gateway.session.delete(f"{gateway.url}/jobs/{first['jobId']}", headers=OPERATOR) as response:
            assert response.status == 204
        polls = upstream.polls()
        await anyio.sleep(60)
        assert upstream.polls() == polls
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        second = await gateway.copy("/v1.0/me/drive/items/1")
        await tail(gateway.session, second["events"])
        polls = upstream.polls()
        await anyio.sleep(60)
        assert upstream.polls() == polls


async def lasts(gateway: Running, name: str, **query: str) -> float:
    begun = now()
    job = await gateway.copy(f"/v1.0/me/drive/items/{name}", params={"seconds": "15", "steps": "15", **query}, json={})
    assert (await tail(gateway.session, job["events"]))[-1].name == "completed"
    return now() - begun


async def beset(gateway: Running, name: str) -> None:
    await gateway.copy(f"/v1.0/me/drive/items/{name}", params={"every": "1"}, json={})


async def test_hostile_jobs_do_not_slow_an_ordinary_one(tmp_path: Path) -> None:
    """Hanging, dripping, huge and throttled monitors beside it: it ends as soon as alone."""
    hostile = ("hang", "drip", "huge", "retry-after-none", "busy-bare", "reset", "hang-body", "throttled")
    async with (
        running(Simulator(clock=now)) as upstream,
        serving(upstream.url, tmp_path, **REAL) as gateway,
        anyio.create_task_group() as tasks,
    ):
        alone = await lasts(gateway, "copy")
        for number in range(80):
            tasks.start_soon(beset, gateway, hostile[number % len(hostile)])
        await anyio.sleep(3)
        assert await lasts(gateway, "copy") <= alone + 1.5
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("jobs", [81, pytest.param(500, marks=pytest.mark.thorough)])
async def test_many_jobs_a_third_of_them_hostile(jobs: int, tmp_path: Path) -> None:
    """All end right; the ordinary ones in time."""
    hostile = (
        "hang",
        "drip",
        "huge",
        "retry-after",
        "retry-after-none",
        "busy-bare",
        "reset",
        "error-500",
        "glitch-404",
    )
    took: dict[str, list[float]] = {}
    async with running(Simulator(clock=now)) as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:

        async def one(number: int) -> None:
            name = hostile[number // 3 % len(hostile)] if number % 3 == 0 else "copy"
            took.setdefault(name, []).append(await lasts(gateway, name))

        async with anyio.create_task_group() as tasks:
            for number in range(jobs):
                tasks.start_soon(one, number)
    assert sum(len(each) for each in took.values()) == jobs
    assert max(took["copy"]) < 17
    assert max(max(each) for each in took.values()) < 45


async def test_throttling_slows_a_host_and_wears_off(tmp_path: Path) -> None:
    """While everything is throttled a host is asked seldom; when it recovers, as often as before."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **REAL) as gateway:
        times = timed(upstream)
        answer = upstream.on_poll
        for _ in range(20):
            await gateway.copy("/v1.0/me/drive/items/1")
        upstream.on_poll = throttling(None)
        times = timed(upstream)
        await anyio.sleep(300)
        assert sum(at > now() - 60 for at in times) <= 60
        upstream.on_poll = answer
        times = timed(upstream)
        await anyio.sleep(120)
        assert sum(at > now() - 60 for at in times) >= 60
