"""One job's watch at the moments that are hard to meet from outside: its deadline, and a start with many jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from multidict import CIMultiDict

from gateway.core.job import Target, accepted
from gateway.graph.client import Monitor
from gateway.jobs.host import Host
from gateway.jobs.watch import Watch
from gateway.outbound.exchange import Address
from gateway.outbound.reply import Reply
from tests.support.fake_receiver import figures
from tests.support.fake_upstream import faking
from tests.support.harness import OPERATOR, poll_context, runtime, serving
from tests.support.stores import open_sqlite

pytestmark = pytest.mark.virtual_time

DEADLINE = 60.0
BODY = b'{"status":"%b","percentageComplete":50,"resourceId":"1"}'


class Late:
    """An upstream whose answer to the first poll comes at a time that is asked for."""

    def __init__(self, at: float, status: bytes) -> None:
        self._at = at
        self._body = BODY % status
        self.polls = 0
        self.as_it_comes: Callable[[], None] = lambda: None

    def allows(self, _url: str) -> bool:
        return False

    async def poll(self, *_: object) -> Reply:
        self.polls += 1
        await anyio.sleep_until(self._at)
        self.as_it_comes()
        return Reply(202, CIMultiDict(), self._body)


@pytest.mark.parametrize("status", [b"inProgress", b"completed", b"failed"])
@pytest.mark.parametrize("late", [-0.01, None, 0.0, 0.01, 100.0])
async def test_an_answer_about_the_moment_of_the_deadline(late: float | None, status: bytes, tmp_path: Path) -> None:
    """None is for the turn of the loop in which both came, the answer first. Before the deadline
    the answer counts; from then on it does not; either way it ends once, and nothing is tried twice.
    """
    loop = asyncio.get_running_loop()
    store = open_sqlite(tmp_path / "gateway.db")
    created = time.time()
    job, events = accepted("a" * 24, monitor="https://h/m", target=Target(), now=created)
    await store.create(job, events, None)
    upstream: Any = Late(loop.time() + DEADLINE + (late or 0.0) - (late is None) * 1e-3, status)
    monitor = Monitor("https://h/m", Address("https://h/m", b"", None), None, "h:443")
    begun = loop.time()
    async with anyio.create_task_group() as tasks:
        context = poll_context(runtime(tasks, lambda: created), store, upstream, deadline=DEADLINE)
        watch = Watch(job, monitor, Host("h:443", 1000, context.metrics), context)
        if late is None:
            upstream.as_it_comes = watch._break_off
        await watch.run(1.0)
    (piece,) = await store.read([(job.id, 0)], 64)
    await store.close()
    assert piece is not None
    assert piece.ended
    assert [event.terminal for event in piece.events].count(True) == 1
    assert [event.seq for event in piece.events] == list(range(1, len(piece.events) + 1))
    in_time = (late or 0) < 0 and status != b"inProgress"
    assert (b"deadlineExceeded" in piece.events[-1].data) != in_time
    assert loop.time() - begun == pytest.approx(DEADLINE, abs=0.02)
    assert upstream.polls == 1
    assert store.failures == 0


async def test_a_job_that_is_deleted_before_it_is_taken_up_again(tmp_path: Path) -> None:
    """After a start with many jobs all count as running at once; one that is stopped meanwhile is never polled."""
    many = 400
    polled: set[str] = set()
    all_but_one = anyio.Event()

    async with faking() as upstream:

        async def poll(request: web.Request) -> web.StreamResponse:
            polled.add(request.path)
            if len(polled) == many - 1:
                all_but_one.set()
            return web.json_response({"status": "inProgress"}, status=202)

        upstream.on_poll = poll
        store = open_sqlite(tmp_path / "gateway.db")
        for number in range(many):
            job, events = accepted(
                f"job-{number}",
                monitor=f"{upstream.url}/monitor/{number}",
                target=Target(),
                now=time.time() - many + number,
            )
            await store.create(job, events, None)
        await store.close()
        async with serving(upstream.url, tmp_path, poll_max=2.0, poll_rate=10_000) as gateway:
            assert (await figures(gateway))["gateway_jobs_running"] == many
            async with gateway.session.delete(f"{gateway.url}/jobs/job-0", headers=OPERATOR) as response:
                assert response.status == 204
            assert (await figures(gateway))["gateway_jobs_running"] == many - 1
            with anyio.fail_after(60):
                await all_but_one.wait()
            await anyio.sleep(5)
    assert polled == {f"/monitor/{number}" for number in range(1, many)}
