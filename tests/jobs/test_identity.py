"""The jobs that are polled under the gateway's own identity."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from tests.jobs.test_operations import TEAM, Operations, asks, hand_in, stop, until
from tests.jobs.test_siblings import ask
from tests.support.fake_upstream import serving_fake
from tests.support.harness import TOKEN, serving, tail

pytestmark = pytest.mark.virtual_time

NOTEBOOK = "/v1.0/me/onenote/notebooks/n/copyNotebook"


class Endpoint:
    """Gives tokens, numbered from 1, that last for an hour, each after `seconds`. `asked` keeps each request's path and
    fields.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.fails = False
        self.seconds = 0.0

    async def give(self, request: web.Request) -> web.StreamResponse:
        fields = {**request.query, **{name: str(value) for name, value in (await request.post()).items()}}
        self.asked.append((request.path, fields))
        await anyio.sleep(self.seconds)
        if self.fails:
            return web.json_response({"error": "invalid_client", "error_description": "AADSTS7000215"}, status=401)
        ends = str(int(time.time()) + 3600)
        token = {"access_token": f"own-{len(self.asked)}", "token_type": "Bearer", "expires_in": 3600}
        return web.json_response(token | {"expires_on": ends, "resource": "r"})


@asynccontextmanager
async def giving(context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", endpoint.give)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    endpoint.url = f"{'http' if context is None else 'https'}://localhost:{runner.addresses[0][1]}"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    """That of a managed identity, which the environment names."""
    async with giving() as endpoint:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{endpoint.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "h")
        yield endpoint


async def test_jobs_without_a_token_are_polled_under_it(endpoint: Endpoint, tmp_path: Path) -> None:
    """After a restart, and once a caller's token is refused; one request for all of them; a handed-in token wins."""
    async with serving_fake(Operations()) as upstream:
        upstream.told = [{"status": "inProgress"}]
        upstream.good |= {"Bearer own-1", "Bearer fresh"}
        async with serving(upstream.url, tmp_path) as gateway:
            jobs: list[Any] = [(await ask(gateway, "POST", TEAM, b"{}"))[1] for _ in range(3)]
            assert endpoint.asked == []
        async with serving(upstream.url, tmp_path, poll_identity="default") as gateway:
            for job in jobs:
                await until(gateway, job, lambda state: state["status"] == "inProgress")
            jobs.append((await ask(gateway, "POST", TEAM, b"{}"))[1])
            await until(gateway, jobs[3], lambda state: state["status"] == "inProgress")
            assert set(upstream.tokens()) == {"Bearer own-1", TOKEN["Authorization"]}
            upstream.good.discard(TOKEN["Authorization"])
            assert await hand_in(gateway, jobs[0], "fresh") == 204
            await anyio.sleep(100)
            assert set(upstream.tokens()[-8:]) == {"Bearer own-1", "Bearer fresh"}
            upstream.told = [{"status": "succeeded"}]
            for job in jobs:
                url = f"{gateway.url}/jobs/{job['jobId']}/events"
                seen = [event.data for event in await tail(gateway.session, url)]
                assert (seen[-1]["status"], [one for one in seen if "trouble" in one]) == ("completed", [])
    assert len(endpoint.asked) == 1


async def test_its_token_is_renewed_before_its_end(endpoint: Endpoint, tmp_path: Path) -> None:
    """While that fails, the old one is used as long as it lasts; then it is trouble, and the job goes on afterwards."""
    async with serving_fake(Operations()) as upstream:
        upstream.good = {f"Bearer own-{number}" for number in range(1, 1000)}
        upstream.told = [{"status": "inProgress"}]
        async with serving(upstream.url, tmp_path, poll_identity="default", job_deadline=86_400) as gateway:
            _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
            await anyio.sleep(3540)
            assert set(upstream.tokens()[1:]) == {"Bearer own-1", "Bearer own-2"}
            endpoint.fails = True
            await anyio.sleep(3200)
            assert upstream.tokens()[-1] == "Bearer own-2"
            assert not asks(await until(gateway, job, bool))
            await until(gateway, job, asks)
            assert (await until(gateway, job, bool))["status"] == "inProgress"
            asked = len(endpoint.asked)
            await anyio.sleep(300)
            assert 0 < len(endpoint.asked) - asked <= 11
            endpoint.fails = False
            upstream.told = [{"status": "succeeded"}]
            last = (await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events"))[-1].data
            assert (last["status"], "trouble" in last) == ("completed", False)


async def test_its_token_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    """Another is asked for, and neither upstream nor the endpoint is asked without end; the job has not failed."""
    async with serving_fake(Operations()) as upstream:
        upstream.good = set()
        async with serving(upstream.url, tmp_path, poll_identity="default") as gateway:
            _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
            await until(gateway, job, asks)
            polls, asked = len(upstream.asked), len(endpoint.asked)
            await anyio.sleep(3600)
            assert 0 < len(upstream.asked) - polls <= 121
            assert 0 < len(endpoint.asked) - asked <= 121
            assert asks(await until(gateway, job, bool))


async def test_its_token_is_refused_for_one_job(endpoint: Endpoint, tmp_path: Path) -> None:
    """The others go on under it: one job must not silence them."""
    async with serving_fake(Operations()) as upstream:
        upstream.good = {f"Bearer own-{number}" for number in range(1, 1000)}
        upstream.told = [{"status": "inProgress"}]
        status = upstream.on_item

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(status=401) if "refused" in request.path else await status(request)

        upstream.on_item = answer
        async with serving(upstream.url, tmp_path, poll_identity="default") as gateway:
            _, well, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
            upstream.headers = {"Location": "/refused"}
            _, refused, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
            await until(gateway, refused, asks)
            await anyio.sleep(600)
            upstream.told = [{"status": "succeeded"}]
            seen = [event.data for event in await tail(gateway.session, well["events"])]
            assert (seen[-1]["status"], [one for one in seen if "trouble" in one]) == ("completed", [])
            assert asks(await until(gateway, refused, bool))
            assert len(endpoint.asked) <= 30


async def test_its_token_comes_late(endpoint: Endpoint, tmp_path: Path) -> None:
    """The end of the job that asked for it costs the others nothing, and no deadline waits for it."""
    async with serving_fake(Operations()) as upstream:
        upstream.good = {f"Bearer own-{number}" for number in range(1, 1000)}
        upstream.told = [{"status": "inProgress"}]
        endpoint.seconds = 15
        async with serving(upstream.url, tmp_path, poll_identity="default", job_deadline=30) as gateway:
            _, first, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
            _, second, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
            await anyio.sleep(5)
            _, third, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
            await anyio.sleep(5)
            assert await stop(gateway, first) == 204
            for job in (second, third):
                seen = [event.data for event in await tail(gateway.session, job["events"])]
                assert [one["status"] for one in seen] == ["notStarted", "inProgress", "failed"]
                assert not [one for one in seen if "trouble" in one]
    async with (
        serving_fake(Operations()) as upstream,
        serving(*(upstream.url, tmp_path), poll_identity="default", job_deadline=5) as gateway,
    ):
        begun = anyio.current_time()
        _, job, _ = await ask(gateway, "POST", NOTEBOOK, b"{}", Authorization="")
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert last["error"]["code"] == "deadlineExceeded"
        assert anyio.current_time() - begun < 6
