"""Gateways that share a database: any of them takes, polls, streams and stops; none is missed when it dies."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from tests.jobs.test_operations import Operations
from tests.support.fake_receiver import ALLOWED, going, receiving
from tests.support.fake_upstream import faking, serving_fake
from tests.support.fleet import Copies, Fleet, Storm, check, fleet, storm
from tests.support.harness import FOLDER, OPERATOR, TOKEN, events, tail
from tests.support.scraping import series, value
from tests.support.wire import wired

LEASE = 2.0


async def test_a_storm(tmp_path: Path) -> None:
    """Gateways killed, stopped and cut off, the database restarted: each copy is started once and ends once, each
    stream has every id once and in order, and upstream is not polled more for it.
    """
    result = await storm(Storm(jobs=60, streams=12, every=1.5, lease=2.0, length=8.0), tmp_path)
    check(result)
    assert result.done["database restarted"] == 1
    assert min(result.done[way] for way in ("kill", "stop", "cut_off")) >= 1
    assert result.polls <= 1.3 * result.calm_polls


async def evenly(ships: Fleet, jobs: int, tolerance: int) -> None:
    """Wait until all that live have about the same number, and all of it together; half a minute at most."""
    found: list[int] = []
    with anyio.move_on_after(30):
        while sum(found) != jobs or max(found) - min(found) > tolerance:
            await anyio.sleep(0.1)
            found = await ships.running()
    assert sum(found) == jobs
    assert max(found) - min(found) <= tolerance


async def test_jobs_spread_over_the_gateways_that_live(database_url: str, tmp_path: Path) -> None:
    """However they came, and when one comes or goes; each is polled by one."""
    async with faking() as upstream:
        copies = Copies(upstream, length=3600)
        async with fleet(database_url, upstream.url, tmp_path, 3, lease=LEASE, max_jobs=500) as ships:
            rng = random.Random(1)
            await asyncio.gather(*(ships.copy(f"c{number}", rng) for number in range(30)))
            one, *others = ships.gateways
            alone = Fleet([one], [], ships.session)
            await asyncio.gather(*(alone.copy(f"d{number}", rng) for number in range(60)))
            await evenly(ships, 90, 6)
            one.signal(signal.SIGTERM)
            assert await one.exited() == 0
            left = Fleet(others, [], ships.session)
            await evenly(left, 90, 6)
            others[0].kill()
            await evenly(Fleet(others[1:], [], ships.session), 90, 0)
            await one.start()
            await evenly(Fleet([one, others[1]], [], ships.session), 90, 6)
    assert copies.started.total() == 90


async def test_a_stop_at_another_gateway(database_url: str, tmp_path: Path) -> None:
    """DELETE works anywhere: the owner stops polling at once, and each stream hears of the end once."""
    async with faking() as upstream, fleet(database_url, upstream.url, tmp_path, 2) as ships:
        job = await started(ships, 0)
        async with ships.session.get(ships.gateways[0].url + path_of(job)) as response:
            stream = events(response)
            await anext(stream)
            headers = {"Authorization": f"Bearer {job['jobKey']}"}
            async with ships.session.delete(f"{ships.gateways[1].url}/jobs/{job['jobId']}", headers=headers) as answer:
                assert answer.status == 204
            seen = [event async for event in stream]
        assert [event.name for event in seen].count("failed") == 1
        assert seen[-1].data["error"]["code"] == "watchStopped"
        polls = upstream.polls()
        assert sum(await ships.running()) == 0
        assert upstream.polls() <= polls + 1


async def test_a_token_at_another_gateway(database_url: str, tmp_path: Path) -> None:
    """Whichever gets it goes on with the job; when that one is killed, the job asks for another, and its stream goes
    on; it ends once.
    """
    fake = Operations()
    fake.told = [{"status": "inProgress"}]
    async with serving_fake(fake) as upstream, fleet(database_url, upstream.url, tmp_path, 2, lease=LEASE) as ships:
        start = f"{ships.gateways[0].url}/v1.0/me/onenote/notebooks/1/copyNotebook"
        async with ships.session.post(start, json={}, headers=TOKEN) as response:
            job = await response.json()

        async def hand_in(number: int, token: str) -> None:
            upstream.good = {f"Bearer {token}"}
            url = f"{ships.gateways[number].url}/jobs/{job['jobId']}/token"
            headers = {"Authorization": f"Bearer {job['jobKey']}"}
            async with ships.session.put(url, json={"token": token}, headers=headers) as answer:
                assert answer.status == 204
            with anyio.fail_after(20):
                while upstream.tokens()[-1:] != [f"Bearer {token}"]:  # noqa: ASYNC110 - until it is asked for under it
                    await anyio.sleep(0.05)

        async with ships.session.get(ships.gateways[0].url + path_of(job)) as response:
            stream = events(response)
            with anyio.fail_after(20):
                while not upstream.tokens():  # noqa: ASYNC110 - until it is asked for under the first
                    await anyio.sleep(0.05)
            await hand_in(1, "second")
            assert (await ships.running())[1] == 1
            await hand_in(0, "third")
            await hand_in(1, "fourth")
            ships.gateways[1].kill()
            with anyio.fail_after(20):
                while (await anext(stream)).data.get("trouble", {}).get("code") != "tokenRequired":
                    pass
            upstream.told = [{"status": "succeeded"}]
            await hand_in(0, "fifth")
            assert [event.name async for event in stream].count("completed") == 1
    assert list(dict.fromkeys(upstream.tokens())) == [
        TOKEN["Authorization"],
        *(f"Bearer {token}" for token in ("second", "third", "fourth", "fifth")),
    ]


async def test_a_wait_outlives_another_gateway(database_url: str, tmp_path: Path) -> None:
    """One that is held here hears the end of a job whose gateway was killed, from the one that took it over."""
    async with faking() as upstream, fleet(database_url, upstream.url, tmp_path, 2, lease=LEASE) as ships:
        upstream.on_poll = going(10, end=None)
        job = await started(ships, 1)
        assert await running_at(ships, 1) == 1

        async def wait() -> tuple[int, str]:
            url = ships.gateways[0].url + path_of(job).removesuffix("/events")
            async with ships.session.get(url, headers={"Prefer": "wait=60"}) as response:
                return response.status, (await response.json())["status"]

        waiting = asyncio.create_task(wait())
        with anyio.fail_after(20):
            while await streams_at(ships, 0) == 0:  # noqa: ASYNC110 - it tells nobody else
                await anyio.sleep(0.05)
        ships.gateways[1].kill()
        upstream.on_poll = going()
        assert await waiting == (200, "completed")


async def test_an_idempotency_key_at_any_gateway(database_url: str, tmp_path: Path) -> None:
    """The same job; 409 while the first is in flight; unknown when the gateway that had it died."""
    async with faking() as upstream, fleet(database_url, upstream.url, tmp_path, 2, lease=LEASE) as ships:
        first = await posted(ships, 0, "k")
        again = await posted(ships, 1, "k")
        assert first[0] == again[0] == 202
        assert first[1]["jobKey"] == again[1]["jobKey"]
        assert first[1]["jobId"] == again[1]["jobId"]
        reached = anyio.Event()

        async def never(_request: web.Request) -> web.StreamResponse:
            reached.set()
            await asyncio.sleep(60)
            return web.Response()

        upstream.on_copy = never
        hanging = asyncio.create_task(posted(ships, 0, "other"))
        await reached.wait()
        assert (await posted(ships, 1, "other"))[0] == 409
        ships.gateways[0].kill()
        with pytest.raises(aiohttp.ClientError):
            await hanging
        with anyio.fail_after(10):
            while (answer := await posted(ships, 1, "other"))[0] == 409:  # noqa: ASYNC110 - until it is given up
                await anyio.sleep(0.1)
        assert (answer[0], answer[1]["error"]["code"]) == (502, "outcomeUnknown")
        assert upstream.copies() == 2


@pytest.mark.parametrize("answers", [("refused", "accepted"), ("none",)], ids=" and ".join)
async def test_keys_in_flight_at_a_gateway_that_shuts_down(
    answers: tuple[str, ...], database_url: str, tmp_path: Path
) -> None:
    """409 at the others until their outcomes are stored, whichever they are; they have its jobs meanwhile."""
    async with faking() as upstream, fleet(database_url, upstream.url, tmp_path, 2, lease=LEASE, drain=6) as ships:
        for _ in range(4):
            await started(ships, 0)
        let_go = anyio.Event()

        async def in_flight(key: str) -> asyncio.Task[tuple[int, dict[str, Any]]]:
            reached = anyio.Event()

            async def slow(request: web.Request) -> web.StreamResponse:
                reached.set()
                await let_go.wait()
                return web.json_response({}, status=429) if key == "refused" else await upstream.accept(request)

            upstream.on_copy = slow
            first = asyncio.create_task(posted(ships, 0, key))
            await reached.wait()
            return first

        async def held() -> None:
            for key in answers:
                assert (await posted(ships, 1, key))[0] == 409

        first = [await in_flight(key) for key in answers]
        ships.gateways[0].signal(signal.SIGTERM)
        with anyio.fail_after(4):
            while await running_at(ships, 1) < 4:
                await held()
        for _ in range(10):
            await held()
            await anyio.sleep(LEASE / 10)
        if answers != ("none",):
            let_go.set()
        outcomes = await asyncio.gather(*first)
        assert await ships.gateways[0].exited() == 0
        upstream.on_copy = upstream.accept
        for key, (status, body) in zip(answers, outcomes, strict=True):
            before = upstream.copies()
            again, repeated = await posted(ships, 1, key)
            sent = upstream.copies() - before
            if key == "refused":
                assert (status, again, sent) == (429, 202, 1)
            elif key == "accepted":
                assert (status, again, sent) == (202, 202, 0)
                assert body["jobId"] == repeated["jobId"]
            else:
                assert (status, again, sent) == (502, 502, 0)
                assert body["error"]["code"] == repeated["error"]["code"] == "outcomeUnknown"
        jobs = 4 if answers == ("none",) else 6  # the accepted one, and the repeat of the one that was refused
        with anyio.fail_after(4):
            while await running_at(ships, 1) < jobs:  # noqa: ASYNC110 - another process has no event for it
                await anyio.sleep(0.05)
        assert upstream.copies() == 4 + len(answers) + answers.count("refused")
        let_go.set()


async def running_at(ships: Fleet, number: int) -> int:
    (count,) = await Fleet([ships.gateways[number]], [], ships.session).running()
    return count


async def streams_at(ships: Fleet, number: int) -> float:
    async with ships.session.get(f"{ships.gateways[number].url}/metrics") as response:
        return value(series(await response.text()), "gateway_streams_open")


async def test_an_event_comes_without_a_wakeup_too(database_url: str, tmp_path: Path) -> None:
    """Where no gateway can listen any more, readers look by themselves."""
    async with (
        faking() as upstream,
        wired(database_url) as listening,
        fleet(database_url, upstream.url, tmp_path, 2, listen_url=listening.url) as ships,
    ):
        share = 0.0

        async def progress(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"status": "inProgress", "percentageComplete": share}, status=202)

        upstream.on_poll = progress
        job = await started(ships, 0)
        await listening.down()
        async with ships.session.get(ships.gateways[1].url + path_of(job)) as response:
            stream = events(response)
            for step in range(1, 4):
                share = 10.0 * step
                with anyio.fail_after(5):
                    while (await anext(stream)).data["percentageComplete"] < share:
                        pass


async def test_callbacks_of_gateways_that_die(database_url: str, tmp_path: Path) -> None:
    """Each is told how its copy ended, by one gateway at a time; what was in flight at a kill may come twice."""
    async with faking() as upstream, receiving() as receiver:
        done = False

        async def poll(_request: web.Request) -> web.StreamResponse:
            state: dict[str, Any] = {"status": "completed", "resourceId": "1"} if done else {"status": "inProgress"}
            return web.json_response(state, status=202)

        upstream.on_poll = poll
        async with fleet(database_url, upstream.url, tmp_path, 3, lease=LEASE, **ALLOWED) as ships:

            async def one(number: int) -> str:
                headers = {**TOKEN, "Gateway-Callback-Url": f"{receiver.url}/{number}"}
                url = f"{ships.gateways[number % 3].url}{FOLDER}/copy"
                async with ships.session.post(url, json={"name": f"c{number}"}, headers=headers) as response:
                    assert response.status == 202
                    job_id: str = (await response.json())["jobId"]
                    return job_id

            ids = await asyncio.gather(*(one(number) for number in range(60)))
            ships.gateways[0].kill()
            done = True
            await receiver.received(20)
            ships.gateways[1].kill()
            with anyio.fail_after(30):
                while len({post.path for post in receiver.posts}) < 60:  # noqa: ASYNC110 - it counts, and tells nobody
                    await anyio.sleep(0.05)
            url = f"{ships.gateways[2].url}/jobs"
            with anyio.fail_after(10):
                for job_id in ids:
                    while True:
                        async with ships.session.get(f"{url}/{job_id}/callbacks", headers=OPERATOR) as response:
                            (callback,) = (await response.json())["value"]
                        if callback["state"] == "delivered":
                            break
                        await anyio.sleep(0.05)
    told = Counter(post.id for post in receiver.posts)
    assert len(told) == 60
    assert all(post.kind == "completed" for post in receiver.posts)
    assert told.total() - len(told) <= 16


async def test_a_callback_removed_elsewhere_is_told_nothing_more(database_url: str, tmp_path: Path) -> None:
    """And one registered at a gateway that does not poll its job is told."""
    async with faking() as upstream, receiving() as receiver:
        done = False

        async def poll(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"status": "completed" if done else "inProgress"}, status=202)

        upstream.on_poll = poll
        async with fleet(database_url, upstream.url, tmp_path, 2, **ALLOWED) as ships:
            job = await started(ships, 0)
            kept, removed = [
                await registered(ships, number, job["jobId"], f"{receiver.url}/{number}") for number in (1, 0)
            ]
            url = f"{ships.gateways[1].url}/jobs/{job['jobId']}/callbacks/{removed['id']}"
            async with ships.session.delete(url, headers=OPERATOR) as response:
                assert response.status == 204
            with anyio.fail_after(10):
                while await delivering(ships) != 1:  # noqa: ASYNC110 - another process has no event for it
                    await anyio.sleep(0.02)
            done = True
            await receiver.received(1)
            await tail(ships.session, ships.gateways[0].url + path_of(job))
    assert [post.path for post in receiver.posts] == ["/1"]
    assert receiver.posts[0].signed_with(kept["secret"])


async def delivering(ships: Fleet) -> float:
    """How many callbacks are active, over all gateways."""
    active = 0.0
    for gateway in ships.gateways:
        async with ships.session.get(f"{gateway.url}/metrics") as response:
            active += value(series(await response.text()), "gateway_callbacks_active")
    return active


async def started(ships: Fleet, number: int) -> dict[str, Any]:
    status, body = await posted(ships, number, None)
    assert status == 202
    return body


async def posted(ships: Fleet, number: int, key: str | None) -> tuple[int, dict[str, Any]]:
    headers = TOKEN if key is None else {**TOKEN, "Idempotency-Key": key}
    url = f"{ships.gateways[number].url}{FOLDER}/copy"
    async with ships.session.post(url, json={"name": "x"}, headers=headers) as response:
        return response.status, await response.json()


async def registered(ships: Fleet, number: int, job_id: str, url: str) -> dict[str, Any]:
    where = f"{ships.gateways[number].url}/jobs/{job_id}/callbacks"
    async with ships.session.post(where, json={"url": url}, headers=OPERATOR) as response:
        assert response.status == 201
        body: dict[str, Any] = await response.json()
        return body


def path_of(job: dict[str, Any]) -> str:
    return f"/jobs/{job['jobId']}/events"
