"""The two keys of the settings, changed while gateways run, in the steps that deploy/KEYS.md tells."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from tests.support import commands
from tests.support.fake_receiver import ALLOWED, receiving
from tests.support.fake_upstream import answering, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, events, tail

OLD, NEW = "the-old-key-of-the-store", "the-new-key-of-the-store"
OLD_OPERATOR, NEW_OPERATOR = "the-old-key-of-the-operator", "the-new-key-of-the-operator"
PAGE = (Path(__file__).parent.parent.parent / "deploy" / "KEYS.md").read_text()


def steps(setting: str, old: str, new: str) -> list[str]:
    """The values that the page gives a setting, one step after the other, with these keys in place of its words."""
    values = re.findall(rf"(?m)^\d\. Set `{setting}=([\w,]+)`", PAGE)
    return [re.sub(r"\w+", lambda word: {"old": old, "new": new}[word[0]], value) for value in values]


STEPS = steps("GATEWAY_SECRET_KEY", OLD, NEW)
OPERATOR_STEPS = steps("GATEWAY_OPERATOR_KEY", OLD_OPERATOR, NEW_OPERATOR)


@asynccontextmanager
async def calling() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
        yield session


async def change(gateway: Process, **values: str) -> None:
    """Restart it with other settings, as a rolling update does."""
    if gateway.process.poll() is None:
        gateway.signal()
        assert await gateway.exited() == 0
    gateway._environment |= {f"GATEWAY_{name.upper()}": value for name, value in values.items()}
    await gateway.start()


async def reseal(gateway: Process, key: str | None = None) -> tuple[int, str, str]:
    """Exit status, output and errors of the command under a gateway's settings."""
    own = {} if key is None else {"GATEWAY_SECRET_KEY": key}
    return await commands.gateway("reseal", **{**gateway._environment, **own})


async def copied(session: aiohttp.ClientSession, gateway: Process, **headers: str) -> dict[str, Any]:
    url = f"{gateway.url}{FOLDER}/copy"
    async with session.post(url, json=COPY_BODY, headers={**TOKEN, **headers}) as response:
        assert response.status == 202, await response.text()
        job: dict[str, Any] = await response.json()
        return job


async def all_work(
    session: aiohttp.ClientSession, gateways: Sequence[Process], jobs: list[dict[str, Any]], operator: str
) -> None:
    """Each takes a copy; each reads each job, its callbacks and the list, under the jobKey and the operator key."""
    jobs += [await copied(session, gateway) for gateway in gateways]
    for gateway, job in product(gateways, jobs):
        async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
            assert response.status == 202, (gateway.url, await response.text())
        for key in (job["jobKey"], operator):
            headers = {"Authorization": f"Bearer {key}"}
            async with session.get(f"{gateway.url}/jobs/{job['jobId']}/callbacks", headers=headers) as response:
                assert response.status == 200, (gateway.url, await response.text())
    for gateway in gateways:
        assert await opens(session, gateway, operator)


async def opens(session: aiohttp.ClientSession, gateway: Process, operator: str) -> bool:
    async with session.get(f"{gateway.url}/jobs", headers={"Authorization": f"Bearer {operator}"}) as response:
        return response.status == 200


async def test_both_keys_change_while_gateways_roll(database_url: str, tmp_path: Path) -> None:
    """As the page says: whichever gateway answers, every job, callback and list is there at each moment, and a job and
    its callback live through all of it.
    """
    assert PAGE.index("`gateway reseal`") > PAGE.index("`GATEWAY_SECRET_KEY=new,old`")
    both_operators, new_operator = OPERATOR_STEPS
    async with faking() as upstream, receiving() as receiver, calling() as session:
        values = {"store_url": database_url, "lease": 2, "secret_key": OLD, "operator_key": OLD_OPERATOR, **ALLOWED}
        async with Process(upstream.url, tmp_path, **values) as one, Process(upstream.url, tmp_path, **values) as two:
            both = (one, two)
            jobs = [await copied(session, one, **{"Gateway-Callback-Url": receiver.url})]
            await all_work(session, both, jobs, OLD_OPERATOR)

            async def step(secret_key: str, operator_key: str, known: str) -> None:
                for gateway in both:
                    await change(gateway, secret_key=secret_key, operator_key=operator_key)
                    await all_work(session, both, jobs, known)
                    if gateway is one and secret_key == STEPS[1]:
                        status, _, errors = await reseal(one)
                        assert (status, "1 of the gateways" in errors) == (1, True)

            await step(STEPS[0], both_operators, OLD_OPERATOR)
            await step(STEPS[1], both_operators, NEW_OPERATOR)
            status, output, _ = await reseal(one)
            assert (status, "needs no other key now" in output) == (0, True)
            assert int(output.split()[0]) > len(jobs) / 2
            status, output, _ = await reseal(two)
            assert (status, output.split()[0]) == (0, "0")
            await step(STEPS[2], new_operator, NEW_OPERATOR)
            assert not await opens(session, one, OLD_OPERATOR)
            upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "1"}))
            for job in jobs:
                log = await tail(session, f"{two.url}/jobs/{job['jobId']}/events")
                assert log[-1].name == "completed"
            (post,) = await receiver.received(1)
            assert b'"type":"job.completed"' in post.body
            for gateway in both:
                assert "row_unreadable" not in gateway.output()
                assert "store_unavailable" not in gateway.output()
        assert upstream.copies() == len(jobs)


async def test_a_store_of_one_gateway(tmp_path: Path) -> None:
    """SQLite: beside the running gateway once that has the new key first, or without one; told what is missing."""
    async with faking() as upstream, calling() as session:
        gateway = Process(upstream.url, tmp_path, secret_key=OLD)
        status, _, errors = await reseal(gateway)
        assert (status, "There is no store at" in errors) == (1, True)
        async with gateway:
            jobs = [await copied(session, gateway) for _ in range(3)]
            status, _, errors = await reseal(gateway, STEPS[1])
            assert (status, "Restart it with the new key first" in errors) == (1, True)
            status, _, errors = await reseal(gateway, NEW)
            assert (status, "another GATEWAY_SECRET_KEY" in errors) == (1, True)
            await change(gateway, secret_key=STEPS[1])
            async with session.get(f"{gateway.url}/jobs/{jobs[0]['jobId']}/events") as response:
                stream = events(response)
                await anext(stream)
                done = asyncio.Event()

                async def work() -> None:
                    while not done.is_set():
                        jobs.append(await copied(session, gateway))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(work)
                    status, output, _ = await reseal(gateway)
                    done.set()
                assert (status, output.split()[0]) == (0, "4")
                upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
                assert [event async for event in stream][-1].name == "completed"
            upstream.on_poll = upstream.progress
            for job in jobs:
                async with session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
                    assert response.status in (200, 202)
            assert "store_away" not in gateway.output()
            assert "store_file_gone" not in gateway.output()
            gateway.kill()
            status, output, _ = await reseal(gateway)
            assert (status, output.split()[0]) == (0, "0")
            await change(gateway, secret_key=NEW)
            await copied(session, gateway)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "GATEWAY_SECRET_KEY is not set"),
        ({"secret_key": "short"}, "GATEWAY_SECRET_KEY: must be at least 16 characters"),
        ({"secret_key": f"CHANGE-ME-CHANGE-ME,{OLD}"}, "The first key of GATEWAY_SECRET_KEY, which encrypts, must be"),
        ({"secret_key": f"{NEW},"}, "GATEWAY_SECRET_KEY: must be one key, or several"),
        ({"secret_key": NEW, "port": "x"}, "GATEWAY_PORT: must be a whole number"),
    ],
)
async def test_wrong_use(values: dict[str, str], words: str, tmp_path: Path) -> None:
    """Exit status 2, and which setting it is."""
    gateway = Process("http://127.0.0.1:9", tmp_path)
    gateway._environment |= {f"GATEWAY_{name.upper()}": value for name, value in values.items()}
    status, output, errors = await reseal(gateway)
    assert (status, output) == (2, "")
    assert words in errors


async def test_secrets_that_are_stored_plain_are_told(tmp_path: Path) -> None:
    """At the start, to people and to the log; not when there is a key. A weak one that encrypts is told as well."""
    for key in (None, NEW, f"short,{NEW}"):
        async with Process("http://127.0.0.1:9", tmp_path, secret_key=key) as gateway:
            said = gateway.output()
        assert ("  secret key    none, so secrets are stored unencrypted: set GATEWAY_SECRET_KEY" in said) == (
            key is None
        )
        assert ('"level":"warning"' in said and '"event":"secrets_unencrypted"' in said) == (key is None)
        assert ('"level":"warning"' in said and '"event":"secret_key_weak"' in said) == ("short" in (key or ""))
        assert NEW not in said
