"""What is counted: by the rules of the field, all of it from the start; each figure moves when its thing happens."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from gateway.app import VERSION
from gateway.core import callback as deliveries
from gateway.core.addresses import DEFAULT_MONITOR_HOSTS, host_class
from gateway.core.errors import StoreUnavailable
from gateway.telemetry.metrics import HOST_CLASSES, Metrics
from gateway.web.docs.openapi import document
from tests.support.fake_receiver import ALLOWED, FakeReceiver, going, in_turn, receiving, register, saying, settled
from tests.support.fake_upstream import FakeUpstream, answering, faking, reset
from tests.support.harness import COPY_BODY, TOKEN, Running, serving, tail
from tests.support.programs import program
from tests.support.scraping import Series, families, scraped, series, value

pytestmark = pytest.mark.virtual_time

ITEM = "/v1.0/me/drive/items/1"
UNITS = ("seconds", "bytes", "ratio", "info")
ELSEWHERE = {
    "gateway_taken_over_total",
    "gateway_handed_on_total",
    "gateway_leases_lost_total",
    "gateway_members",
    "gateway_store_up",
    "gateway_store_failures_total",
    "gateway_lease_held",
    "gateway_verdicts_held",
    "gateway_draining",
    "gateway_drain_elapsed_seconds",
}
"""Moved by the tests further down, and not by what happens in an hour of a gateway alone."""
FIXED = {"gateway_build_info", "gateway_jobs_limit", "gateway_streams_limit", "gateway_drain_limit_seconds"}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with faking() as upstream:
        yield upstream


def moved(before: Mapping[Series, float], after: Mapping[Series, float]) -> set[str]:
    """The names of what has another value; of a histogram its count."""
    names = {name for (name, labels), was in before.items() if after[(name, labels)] != was}
    return {name.removesuffix("_count") for name in names if not name.endswith(("_bucket", "_sum"))}


def named(text: str) -> set[str]:
    """The gateway's own metrics, as queries name them; of a histogram without `_bucket`."""
    own = [family for family in families(text).values() if family.name.startswith("gateway_")]
    return {family.name + ("_total" if family.type == "counter" else "") for family in own}


async def test_names_follow_the_rules(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Of Prometheus' own linter, and of its guide: a prefix, base units last, `_total` on counters and only there."""
    async with serving(upstream.url, tmp_path) as gateway:
        text = await scraped(gateway)
    for family in families(text).values():
        assert re.fullmatch(r"(gateway|process|python)(_[a-z0-9]+)+", family.name)
        assert family.documentation
        if family.name.startswith("gateway_"):
            assert family.type in ("counter", "gauge", "histogram")
            assert family.type != "histogram" or family.name.endswith("_seconds")
            assert not re.search(r"_(total|count|sum|bucket|created)$", family.name)
            assert not re.search(r"milli|micro|minutes|hours|kilo|mega|percent", family.name)
            assert not [unit for unit in UNITS if unit in family.name.split("_") and not family.name.endswith(unit)]
    assert await anyio.to_thread.run_sync(linted, text) == ""


def linted(text: str) -> str:
    command = [program("promtool", package="prometheus"), "check", "metrics"]
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


async def test_the_format_is_negotiated(upstream: FakeUpstream, tmp_path: Path) -> None:
    """OpenMetrics for whoever prefers it; the same figures in both. The OpenAPI document names both."""
    wish = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
    async with serving(upstream.url, tmp_path) as gateway:
        async with gateway.session.get(f"{gateway.url}/metrics", headers={"Accept": wish}) as response:
            assert response.content_type == "application/openmetrics-text"
            text = await response.text()
        async with gateway.session.get(f"{gateway.url}/metrics") as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            plain = await response.text()
    parsed = openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in parsed} >= {name for name in families(plain) if not name.endswith("_info")}
    answer = document("http://gateway")["paths"]["/metrics"]["get"]["responses"]["200"]
    assert set(answer["content"]) == {"text/plain", "application/openmetrics-text"}


async def refused_copy(gateway: Running, **options: Any) -> int:
    options.setdefault("headers", TOKEN)
    async with gateway.session.post(f"{gateway.url}{ITEM}/copy", json=COPY_BODY, **options) as response:
        await response.read()
        return response.status


async def an_hour(gateway: Running, upstream: FakeUpstream, receiver: FakeReceiver) -> None:
    """A little of all that happens to a gateway alone."""
    upstream.on_poll = in_turn_(
        lambda: web.Response(status=429, headers={"Retry-After": "2"}),
        lambda: web.Response(status=500),
        lambda: web.json_response({"status": "inProgress", "percentageComplete": 50}),
        lambda: web.json_response({"status": "completed", "resourceId": "1"}),
    )
    job = await gateway.copy(ITEM)
    await register(gateway, job, f"{receiver.url}/a")
    assert (await tail(gateway.session, job["events"]))[-1].name == "completed"
    await settled(gateway, job, "delivered")

    upstream.on_poll = answering(lambda: web.json_response({"status": "failed"}))
    receiver.answer = saying(410)
    job = await gateway.copy(ITEM)
    await register(gateway, job, f"{receiver.url}/b")
    await settled(gateway, job, "gone")

    upstream.on_poll = upstream.progress
    job = await gateway.copy(ITEM)
    async with gateway.session.get(job["events"]) as open_stream:
        await open_stream.content.readline()
        assert await stream_status(gateway, job["events"]) == 503
    key = {"Authorization": f"Bearer {job['jobKey']}"}
    await gateway.session.delete(f"{gateway.url}/jobs/{job['jobId']}", headers=key)
    receiver.answer = saying(500)
    await register(gateway, job, f"{receiver.url}/c")
    await settled(gateway, job, "exhausted")
    upstream.on_poll = answering(lambda: web.Response(status=404))
    await settle(gateway, await gateway.copy(ITEM))

    upstream.on_copy = answering(lambda: web.Response(status=409))
    assert await refused_copy(gateway) == 409
    upstream.on_copy = reset
    assert await refused_copy(gateway) == 502
    upstream.on_copy = answering(lambda: web.Response(status=504))
    assert await refused_copy(gateway) == 502
    upstream.on_copy = answering(lambda: web.Response(status=200))
    assert await refused_copy(gateway) == 502
    upstream.on_copy = upstream.accept
    repeated = {**TOKEN, "Idempotency-Key": "k"}
    assert await refused_copy(gateway, headers=repeated) == await refused_copy(gateway, headers=repeated) == 202


def in_turn_(*answers: Any) -> Any:
    return in_turn(*(answering(answer) for answer in answers))


async def stream_status(gateway: Running, url: str) -> int:
    async with gateway.session.get(url) as response:
        return response.status


async def settle(gateway: Running, job: dict[str, Any]) -> None:
    while await stream_status(gateway, f"{gateway.url}/jobs/{job['jobId']}") == 202:  # noqa: ASYNC110 - it has to be asked
        await anyio.sleep(0.5)


async def test_each_figure_moves_and_none_is_new(
    upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens, the series are those that were there, at 0, before anything did."""
    monkeypatch.setattr(deliveries, "WAITS", (1.0,) * 9)
    async with (
        receiving() as receiver,
        serving(upstream.url, tmp_path, max_streams=1, retention=400_000, **ALLOWED) as gateway,
    ):
        text = await scraped(gateway)
        before = series(text)
        assert not [name for (name, _), figure in before.items() if re.fullmatch("gateway_.*_total", name) and figure]
        await an_hour(gateway, upstream, receiver)
        running = await gateway.copy(ITEM)
        await register(gateway, running, f"{receiver.url}/d")
        upstream.on_poll = answering(lambda: web.Response(status=429, headers={"Retry-After": "60"}))
        async with gateway.session.get(running["events"]) as response:
            await response.content.readline()
            await anyio.sleep(35)
            after = series(await scraped(gateway))
    assert after.keys() == before.keys()
    assert named(text) - moved(before, after) == ELSEWHERE | FIXED
    assert value(after, "gateway_jobs_running") == 2
    assert value(after, "gateway_jobs_throttled", host_class="other") == 2
    assert value(after, "gateway_streams_open") == 1
    assert value(after, "gateway_callbacks_active") == 1
    assert value(after, "gateway_callbacks_exhausted_total") == 1
    assert value(after, "gateway_callback_attempts_total", outcome="failed") == 10
    assert value(after, "gateway_streams_refused_total", reason="full") == 1
    assert value(after, "gateway_streams_ended_total", reason="ended") == 1
    for kind, origin, count in (("completed", "upstream", 1), ("failed", "upstream", 1), ("failed", "gateway", 2)):
        assert value(after, "gateway_jobs_ended_total", kind=kind, origin=origin) == count
    assert value(after, "gateway_jobs_lost_total", reason="watchStopped") == 1
    assert value(after, "gateway_jobs_lost_total", reason="monitorExpired") == 1
    outcomes = {"started": 6, "repeated": 1, "refused": 1, "outcomeUnknown": 2, "invalidUpstreamResponse": 1}
    for outcome, count in outcomes.items():
        assert value(after, "gateway_copies_total", outcome=outcome, operation="copy") == count, outcome
    for outcome in ("throttled", "no_answer", "lost", "answered"):
        assert value(after, "gateway_polls_total", outcome=outcome, host_class="other") >= 1
    assert value(after, "gateway_throttled_seconds_total", host_class="other") >= 2
    assert value(after, "gateway_requests_total", route="/v1.0/{item}/copy", code="2xx") == 7


async def test_a_poll_that_hangs_is_counted_as_such(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Apart from one that gives no answer, and with its length."""

    async def hang(_request: web.Request) -> web.StreamResponse:
        await anyio.sleep(100)
        return web.Response()

    upstream.on_poll = hang
    async with serving(upstream.url, tmp_path) as gateway:
        await gateway.copy(ITEM)
        await anyio.sleep(15)
        found = series(await scraped(gateway))
    assert value(found, "gateway_polls_total", outcome="timed_out", host_class="other") == 1
    assert value(found, "gateway_poll_duration_seconds_sum", host_class="other") == pytest.approx(10, abs=1)


async def test_a_store_that_is_away(
    upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is down while its newest write failed, and a change that it would not take counts as held; told once each."""
    caplog.set_level(logging.INFO)
    async with serving(upstream.url, tmp_path) as gateway:
        await gateway.copy(ITEM)
        lane = gateway.gateway.parts.store._writes  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setattr(lane, "_begin", "SELECT nothing")
            upstream.on_poll = going(10, end=None)
            await anyio.sleep(1)
            found = series(await scraped(gateway))
            assert value(found, "gateway_store_up") == 0
            assert value(found, "gateway_store_failures_total") >= 1
            assert value(found, "gateway_verdicts_held") == 1
            with pytest.raises(StoreUnavailable):
                await gateway.gateway.parts.store.ping()
        await anyio.sleep(10)
        found = series(await scraped(gateway))
        assert value(found, "gateway_store_up") == 1
        assert value(found, "gateway_verdicts_held") == 0
    told = [record.msg for record in caplog.records]
    assert [msg for msg in told if msg.startswith(("store_", "change_"))] == [
        "store_away",
        "change_held",
        "store_back",
        "change_kept",
    ]


async def test_a_drain_is_seen_while_it_lasts(upstream: FakeUpstream, tmp_path: Path) -> None:
    """A copy in flight holds it up."""
    arrived, let_go = anyio.Event(), anyio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await let_go.wait()
        return await upstream.accept(request)

    upstream.on_copy = slow
    async with serving(upstream.url, tmp_path, drain=60) as gateway, anyio.create_task_group() as tasks:
        tasks.start_soon(refused_copy, gateway)
        await arrived.wait()
        tasks.start_soon(gateway.gateway.drain, 48)
        await anyio.sleep(3)
        found = series(await scraped(gateway))
        assert value(found, "gateway_draining") == 1
        assert value(found, "gateway_drain_elapsed_seconds") == pytest.approx(3, abs=0.1)
        assert value(found, "gateway_drain_limit_seconds") == 60
        let_go.set()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["real"])
async def test_jobs_change_hands(upstream: FakeUpstream, tmp_path: Path, database_url: str) -> None:
    """Between two gateways: what is handed on here is taken over there, and a gateway given up for dead says so."""
    together = {"store_url": database_url, "lease": 1}
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(upstream.url, tmp_path, **together))
        for _ in range(6):
            await one.copy(ITEM)
        two = await stack.enter_async_context(serving(upstream.url, tmp_path, **together))
        with anyio.fail_after(20):
            while value(series(await scraped(two)), "gateway_taken_over_total", table="jobs") < 3:  # noqa: ASYNC110 - it has to be asked
                await anyio.sleep(0.1)
            found = series(await scraped(one))
            assert value(found, "gateway_handed_on_total", table="jobs") >= 3
            assert value(found, "gateway_members") == 2
            assert value(found, "gateway_lease_held") == 1
            assert value(found, "gateway_build_info", store="postgresql", version=VERSION) == 1
            await one.gateway.parts.membership._store._pool.execute("DELETE FROM gateways")  # type: ignore[union-attr]
            while not value(series(await scraped(one)), "gateway_leases_lost_total"):  # noqa: ASYNC110 - it has to be asked
                await anyio.sleep(0.1)


async def test_the_lease_is_seen_to_lapse(upstream: FakeUpstream, tmp_path: Path) -> None:
    async with serving(upstream.url, tmp_path) as gateway:
        lease = gateway.gateway.parts.poller._context.lease
        lease._term = 1.0
        assert value(series(await scraped(gateway)), "gateway_lease_held") == 0


def test_every_host_has_a_class() -> None:
    """Whatever the default list allows is told apart; anything else is other."""
    for pattern in DEFAULT_MONITOR_HOSTS:
        assert host_class(pattern.replace("*", "contoso-my") + ":443") in set(HOST_CLASSES) - {"other"}, pattern
    wanted = {
        "graph.microsoft.com:443": "graph",
        "dod-graph.microsoft.us": "graph",
        "contoso-my.sharepoint.com.": "sharepoint",
        "x.sharepoint-mil.us": "sharepoint",
        "MY.MICROSOFTPERSONALCONTENT.COM": "onedrive",
        "api.onedrive.com": "onedrive",
        "127.0.0.1:9": "other",
        "[::1]:9": "other",
        "sharepoint.com.evil.example": "other",
        "notonedrive.com": "other",
        "": "other",
    }
    assert {host: host_class(host) for host in wanted} == wanted


def test_two_apps_do_not_share_figures() -> None:
    one, other = Metrics(), Metrics()
    one.copies.labels("started", "copy").inc()
    assert b'{operation="copy",outcome="started"} 1.0' in one.exposition("")[0]
    assert b'{operation="copy",outcome="started"} 0.0' in other.exposition("")[0]
