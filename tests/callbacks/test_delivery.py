"""What receivers are told, and when: order, waits, restarts, and what they do to each other."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from gateway.callbacks import engine as callbacks
from gateway.callbacks.receivers import Receivers
from gateway.core import callback as deliveries
from gateway.core import job as jobs
from gateway.core.callback import SPREAD, WAITS
from tests.support.fake_receiver import (
    ALLOWED,
    SECRET,
    Answer,
    ask,
    figures,
    going,
    hanging,
    in_turn,
    receiving,
    register,
    saying,
    settled,
    shown,
)
from tests.support.fake_upstream import FakeUpstream, answering, faking, reset
from tests.support.harness import Running, runtime, serving, tail
from tests.support.stores import open_sqlite

pytestmark = pytest.mark.virtual_time

ITEM = "/v1.0/me/drive/items/1"
OK = saying(204)


def now() -> float:
    return asyncio.get_running_loop().time()


def near(wait: float) -> Any:
    """A wait of this length as the contract spreads it, and what polls, posts and looks add."""
    return pytest.approx(wait, abs=wait * SPREAD + 1.0)


async def ended(gateway: Running, upstream: FakeUpstream, *percentages: float) -> dict[str, Any]:
    """A job that has ended, with what it saw on the way."""
    upstream.on_poll = going(*percentages)
    job = await gateway.copy(ITEM)
    await tail(gateway.session, job["events"])
    return job


async def retry(gateway: Running, job: dict[str, Any], callback: dict[str, Any]) -> dict[str, Any]:
    path = f"/jobs/{job['jobId']}/callbacks/{callback['id']}/retry"
    status, body = await ask(gateway, "POST", path, job["jobKey"])
    assert status == 202
    told: dict[str, Any] = body
    return told


async def test_every_event_it_wants_in_order(tmp_path: Path) -> None:
    """As the stream has them, each signed, under an id of its own; each callback has a cursor of its own."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_poll = going(10, 20, 30, 40)
        job = await gateway.copy(ITEM)
        await register(gateway, job, f"{receiver.url}/all", "progress", "completed", "failed")
        await register(gateway, job, f"{receiver.url}/end")
        await register(gateway, job, f"{receiver.url}/way", "progress")
        seen = await tail(gateway.session, job["events"])
        await settled(gateway, job, "delivered", "delivered", "delivered")
        wanted = {"/all": seen, "/end": seen[-1:], "/way": seen[:-1]}
        for path, expected in wanted.items():
            posts = receiver.at(path)
            assert [post.message["data"] for post in posts] == [event.data for event in expected]
            assert [post.kind for post in posts] == [event.name for event in expected]
            assert [post.message["timestamp"] for post in posts] == [event.data["at"] for event in expected]
        for post in receiver.posts:
            assert post.signed_with(SECRET)
            assert post.headers["Content-Type"] == "application/json"
            assert "Authorization" not in post.headers
        assert len({post.id for post in receiver.posts}) == len(receiver.posts)


async def test_a_callback_that_fails_delays_no_other(tmp_path: Path) -> None:
    """Neither of the same job nor of the same receiver."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:

        async def by_path(request: web.Request) -> web.StreamResponse:
            return await {"/bad": saying(500), "/slow": hanging, "/good": OK}[request.path](request)

        receiver.answer = by_path
        upstream.on_poll = going(10, 20)
        begun = now()
        job = await gateway.copy(ITEM)
        for path in ("/bad", "/slow", "/good"):
            await register(gateway, job, receiver.url + path, "progress", "completed")
        posts = await receiver.received(4, "/good")
        assert [post.kind for post in posts] == ["progress", "progress", "progress", "completed"]
        assert posts[-1].at - begun < 2


async def test_the_waits_between_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's, each spread, and then no more; one id and one body, signed anew each time. No server, whose
    ticks over all these days would take too long.
    """
    monkeypatch.setattr(callbacks, "LOOK_EVERY", 3600.0)
    store = open_sqlite(tmp_path / "s.db", 9)
    begun = time.time() - now()
    async with (
        receiving() as receiver,
        Receivers.open([ip_network("127.0.0.1/32")]) as receivers,
        anyio.create_task_group() as tasks,
    ):
        receiver.answer = saying(500)
        job, events = jobs.accepted("j", monitor=None, target=jobs.Target(), now=begun)
        job, last = jobs.advance(job, jobs.Answer(status="completed"), begun)
        wish = deliveries.callback_request(receiver.url, None, SECRET)
        await store.create(job, [*events, *last], None, deliveries.new_callback(wish, "j", "c", begun))
        engine = callbacks.Callbacks(store, receivers, runtime(tasks, lambda: begun + now()))
        engine.start()
        engine.resume(await store.claim_callbacks())
        posts = await receiver.received(len(WAITS) + 1)
        for (earlier, later), wait in zip(pairwise(posts), WAITS, strict=True):
            assert later.at - earlier.at == near(wait)
        assert len({(post.id, post.body) for post in posts}) == 1
        assert len({post.headers["webhook-timestamp"] for post in posts}) == len(posts)
        assert all(post.signed_with(SECRET) for post in posts)
        await asyncio.sleep(1_000_000)
        assert len(receiver.posts) == len(posts)
        (exhausted,) = await store.callbacks("j")
        assert exhausted.state == "exhausted"
        tasks.cancel_scope.cancel()
    await store.close()


async def test_a_callback_whose_tries_are_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, shown, counted and silent until somebody retries it, with all its tries and under the same id."""
    monkeypatch.setattr(deliveries, "WAITS", WAITS[:2])
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = saying(500)
        job = await ended(gateway, upstream)
        callback = await register(gateway, job, receiver.url)
        await receiver.received(2)
        await asyncio.sleep(1)
        (failing,) = await shown(gateway, job)
        assert (failing["state"], failing["attempts"], failing["lastError"]) == ("active", 2, "answered 500")
        await receiver.received(3)
        (exhausted,) = await settled(gateway, job, "exhausted")
        assert (exhausted["attempts"], exhausted["lastError"]) == (3, "answered 500")
        assert "nextAttemptAt" not in exhausted
        counted = await figures(gateway)
        assert counted["gateway_callbacks_exhausted_total"] == 1
        assert counted["gateway_callbacks_active"] == 0
        assert counted['gateway_callback_attempts_total{outcome="failed"}'] == 3
        await asyncio.sleep(2000)
        assert len(receiver.posts) == 3
        assert await shown(gateway, job) == [exhausted]

        revived = await retry(gateway, job, callback)
        assert (revived["state"], revived["attempts"]) == ("active", 0)
        *_, first, second = await receiver.received(5)
        assert second.at - first.at == near(WAITS[0])
        receiver.answer = OK
        await retry(gateway, job, callback)
        await settled(gateway, job, "delivered")
        assert len({post.id for post in receiver.posts}) == 1
        ((*failed, last),) = [each["history"] for each in await shown(gateway, job)]
        assert [attempt["status"] for attempt in failed] == [500] * (len(receiver.posts) - 1)
        assert last["status"] == 204
        begun = [datetime.fromisoformat(attempt["at"]).timestamp() for attempt in (*failed, last)]
        assert [int(at) for at in begun] == [int(post.headers["webhook-timestamp"]) for post in receiver.posts]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_that_asks_for_time(status: int, tmp_path: Path) -> None:
    """It gets it, up to a day, and no try is used up; on another status nobody asks."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = in_turn(
            saying(status, Retry_After="1000"),
            saying(status, Retry_After="0"),
            saying(500, Retry_After="1000"),
            saying(status),
            OK,
        )
        job = await ended(gateway, upstream)
        await register(gateway, job, receiver.url)
        posts = await receiver.received(5)
        await settled(gateway, job, "delivered")
        asked, soon, *own = [later.at - earlier.at for earlier, later in pairwise(posts)]
        assert 1000 <= asked <= 1060
        assert 0 < soon < 10
        assert own == [near(WAITS[0]), near(WAITS[1])]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (saying(500), "answered 500"),
        (saying(404), "answered 404"),
        (saying(304), "answered 304; redirects are not followed"),
        (saying(307, Location="/elsewhere"), "answered 307; redirects are not followed"),
        (reset, "the connection broke before an answer"),
        (hanging, "no answer within 15 seconds"),
    ],
)
async def test_what_counts_as_failed(answer: Answer, told: str, tmp_path: Path) -> None:
    """Whatever is not 2xx; it is shown in plain words, and tried again."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = in_turn(answer, saying(201))
        job = await ended(gateway, upstream)
        await register(gateway, job, f"{receiver.url}/in")
        (first,) = await receiver.received(1)
        while "lastError" not in (listed := (await shown(gateway, job))[0]):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.1)
        assert listed["lastError"] == told
        (attempt,) = listed["history"]
        assert attempt.get("error") == (None if told.startswith("answered") else told)
        assert attempt.get("status") == (int(told[9:12]) if told.startswith("answered") else None)
        assert (attempt["durationMs"] >= 15_000) == (answer is hanging)
        due = datetime.fromisoformat(listed["nextAttemptAt"]).timestamp()
        _, second = await receiver.received(2)
        assert due == pytest.approx(float(second.headers["webhook-timestamp"]), abs=2)
        assert 4 <= second.at - first.at <= 22
        await settled(gateway, job, "delivered")
        assert {post.path for post in receiver.posts} == {"/in"}


async def test_a_receiver_that_is_gone(tmp_path: Path) -> None:
    """410 ends it at once, whatever it was told; a retry begins anew."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = saying(410)
        upstream.on_poll = going(10, 20, 30)
        job = await gateway.copy(ITEM)
        callback = await register(gateway, job, receiver.url, "progress", "completed")
        (gone,) = await settled(gateway, job, "gone")
        assert "410" in gone["lastError"]
        assert "nextAttemptAt" not in gone
        await tail(gateway.session, job["events"])
        await asyncio.sleep(600)
        assert len(receiver.posts) == 1
        receiver.answer = OK
        await retry(gateway, job, callback)
        await settled(gateway, job, "delivered")
        assert [post.percentage for post in receiver.posts[1:]] == [100]  # what came before gives way to the newest


async def test_progress_that_could_not_be_told_gives_way(tmp_path: Path) -> None:
    """To the newest of it; the end is tried at once, whatever the wait was, with all its tries."""
    async with (
        faking() as upstream,
        receiving() as receiver,
        serving(upstream.url, tmp_path, poll_min=1.0, poll_max=2.0, **ALLOWED) as gateway,
    ):
        receiver.answer = saying(500)
        percentages = iter(range(1, 100))
        upstream.on_poll = answering(
            lambda: web.json_response({"status": "inProgress", "percentageComplete": next(percentages, 99)})
        )
        job = await gateway.copy(ITEM)
        await register(gateway, job, receiver.url, "progress", "completed")
        first, second = await receiver.received(2)
        assert second.at - first.at == near(WAITS[0])
        assert (first.percentage, second.percentage > 2) == (0, True)
        upstream.on_poll = going()
        changed = now()
        (*_, third) = await receiver.received(3)
        assert third.kind == "completed"
        assert third.at - changed < 3
        (*_, fourth) = await receiver.received(4)
        assert fourth.at - third.at == near(WAITS[0])
        assert fourth.id == third.id
        receiver.answer = OK
        await receiver.received(5)
        await settled(gateway, job, "delivered")
        assert len(receiver.posts) == 5


async def test_nothing_is_given_up_while_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often progress could not be told: the end is still to come, and has all its tries."""
    monkeypatch.setattr(deliveries, "WAITS", (5.0, 10.0))
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = saying(500)
        job = await gateway.copy(ITEM)
        await register(gateway, job, receiver.url, "progress", "completed")
        await receiver.received(6)
        await asyncio.sleep(1)
        assert [callback["state"] for callback in await shown(gateway, job)] == ["active"]
        upstream.on_poll = going()
        posts = await receiver.received(9)
        assert [post.kind for post in posts] == ["progress"] * 6 + ["completed"] * 3
        await settled(gateway, job, "exhausted")


async def test_a_retry_does_not_wait(tmp_path: Path) -> None:
    """Nor for an attempt that hangs: it is broken off."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = in_turn(saying(500), saying(500), hanging, OK)
        job = await ended(gateway, upstream)
        callback = await register(gateway, job, receiver.url)
        await receiver.received(2)
        for count in (3, 4):
            await asyncio.sleep(1)
            asked = now()
            assert (await retry(gateway, job, callback))["state"] == "active"
            *_, newest = await receiver.received(count)
            assert newest.at - asked < 1
        await settled(gateway, job, "delivered")
        assert len({post.id for post in receiver.posts}) == 1


async def test_the_figures(tmp_path: Path) -> None:
    """How many are active, and how attempts went."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await gateway.copy(ITEM)
        await register(gateway, job, receiver.url, "progress")
        await receiver.received(1)
        for _ in range(2):
            await register(gateway, job, f"{receiver.url}/end")
        last = await register(gateway, job, f"{receiver.url}/end")
        assert (await figures(gateway))["gateway_callbacks_active"] == 4
        await ask(gateway, "DELETE", f"/jobs/{job['jobId']}/callbacks/{last['id']}", job["jobKey"])
        assert (await figures(gateway))["gateway_callbacks_active"] == 3
        receiver.answer = in_turn(saying(500), saying(410), OK)
        upstream.on_poll = going()
        await receiver.received(4)
        while (counted := await figures(gateway))["gateway_callbacks_active"]:  # noqa: ASYNC110 - nor has this
            await asyncio.sleep(0.1)
        outcomes = {kind: counted[f'gateway_callback_attempts_total{{outcome="{kind}"}}'] for kind in OUTCOMES}
        assert outcomes["failed"] == outcomes["gone"] == 1
        assert sum(outcomes.values()) == len(receiver.posts)
        assert counted["gateway_callbacks_exhausted_total"] == 0


OUTCOMES = ("delivered", "failed", "gone")


async def test_a_job_outlives_its_retention_for_its_callback(tmp_path: Path) -> None:
    """While one still tries, the job and its log are there; afterwards they go."""
    async with (
        faking() as upstream,
        receiving() as receiver,
        serving(upstream.url, tmp_path, retention=60, **ALLOWED) as gateway,
    ):
        receiver.answer = in_turn(saying(500), saying(500), OK)
        job = await ended(gateway, upstream)
        await register(gateway, job, receiver.url)
        await receiver.received(2)
        await asyncio.sleep(150)
        assert [callback["state"] for callback in await shown(gateway, job)] == ["active"]
        await receiver.received(3)
        await asyncio.sleep(70)
        status, _ = await ask(gateway, "GET", f"/jobs/{job['jobId']}/callbacks", job["jobKey"])
        assert status == 404
