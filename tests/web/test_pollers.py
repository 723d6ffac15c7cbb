"""A job polled at its own URL: what a state answers, the states that a poller has, and waits for another one."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from starlette.datastructures import Headers

from gateway.simulator import Simulator, running
from gateway.web import polls
from gateway.web.docs.resolved import operations
from tests.support.described import DOCUMENT, is_told
from tests.support.harness import OPERATOR, Running, events, serving, tail
from tests.support.scraping import scraped, series, value

pytestmark = pytest.mark.virtual_time

TOLD = next(one for one in operations(DOCUMENT) if one.name == "getJob")
SOON = 0.1
"""Seconds within which news must have arrived."""


@asynccontextmanager
async def gateway_with(folder: Path, seconds: float = 20, steps: int = 10, **settings: Any) -> AsyncIterator[Running]:
    simulator = Simulator(seconds=seconds, steps=steps, clock=asyncio.get_running_loop().time)
    async with running(simulator) as upstream, serving(upstream.url, folder, **settings) as gateway:
        yield gateway


class Answered:
    """An answer, whole, with the seconds that it took."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes, seconds: float) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body
        self.seconds = seconds

    @property
    def applied(self) -> str | None:
        return self.headers.get("Preference-Applied")


async def poll(
    gateway: Running, job: dict[str, Any], wait: int | None = None, known: str | None = None, method: str = "GET"
) -> Answered:
    headers = {"Prefer": None if wait is None else f"wait={wait}", "If-None-Match": known}
    given = {name: text for name, text in headers.items() if text is not None}
    now = asyncio.get_running_loop().time
    begun = now()
    async with gateway.session.request(method, f"{gateway.url}/jobs/{job['jobId']}", headers=given) as response:
        answer = Answered(response, await response.read(), now() - begun)
    if method == "GET":
        is_told(TOLD, answer.status, answer.headers, answer.body)
    return answer


async def waits(gateway: Running, number: int) -> None:
    """Wait until that many are held."""
    with anyio.fail_after(5):
        while gateway.gateway.parts.tails.open != number:  # noqa: ASYNC110 - the gateway has no event for it
            await anyio.sleep(0.001)


async def nothing_left(gateway: Running) -> None:
    await waits(gateway, 0)
    assert gateway.gateway.parts.tails._tails == {}


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        (["wait=10"], 10),
        (["respond-async, wait=10"], 10),
        (["respond-async", "WAIT = 7 ; x=y", "handling=lenient"], 7),
        (['wait="10"'], 10),
        (["wait=10, wait=20"], 10),
        (["wait=0"], 0),
        (["wait=007"], 7),
        (["wait=61"], 60),
        (["wait=" + "9" * 5000], 60),
        (['note="a, wait=5"'], None),
        (['note="a\\", wait=5"', "wait=3"], 3),
        (['note="never closed, wait=5'], None),
        (['wait=5;x="a,b", wait=6'], 5),
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=ten"], None),
        (["wait=\xb2"], None),
        (['wait=1"0"'], None),
        (["await=5"], None),
        (["x;wait=5"], None),
        ([',;=,,"\\'], None),
    ],
)
def test_what_a_poller_prefers(prefer: list[str], expected: int | None) -> None:
    """RFC 7240: among other preferences, in several headers, quoted; what is no wait in whole seconds is ignored."""
    headers = Headers(raw=[(b"prefer", one.encode("latin-1")) for one in prefer])
    assert polls.asked(headers).wait == expected


@pytest.mark.parametrize(
    ("tags", "knows"),
    [
        (['"7"'], True),
        (['W/"7"'], True),
        (['"3", W/"7" , "9"'], True),
        (['"3"', '"7"'], True),
        ([" * "], True),
        (['"3",'], False),
        (['"abc"'], False),
        (['"*"'], False),
        (['"07"'], False),
        ([], None),
        ([""], None),
        (["7"], None),
        (['W/7, "'], None),
    ],
)
def test_what_a_poller_has(tags: list[str], knows: bool | None) -> None:
    """RFC 9110: a list of tags, weak or strong, or `*`. None: it names nothing, and waits for the end."""
    asked = polls.asked(Headers(raw=[(b"if-none-match", one.encode("latin-1")) for one in tags]))
    assert asked.knows(7) is bool(knows)
    assert asked.is_answered_by(7, ended=False) is (knows is False)
    assert asked.is_answered_by(7, ended=True)


@pytest.mark.parametrize("text", ['"' * 60_000, '\\"' * 30_000, '"a' * 30_000, ',;="\\' * 12_000])
def test_no_header_takes_long(text: str) -> None:
    """However its quotes are nested: a loop that reads it serves nobody else meanwhile."""
    begun = time.perf_counter()
    polls.asked(Headers({"Prefer": text, "If-None-Match": text}))
    assert time.perf_counter() - begun < 1


async def test_the_answers_to_a_poll(tmp_path: Path) -> None:
    """202 with its own URL and a wait while it runs, 200 when it has ended; each with its state's tag."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        first = await poll(gateway, job)
        assert (first.status, first.headers["ETag"], first.applied) == (202, '"1"', None)
        assert first.headers["Location"] == f"{gateway.url}/jobs/{job['jobId']}"
        assert int(first.headers["Retry-After"]) >= 1
        log = await tail(gateway.session, job["events"])
        last = await poll(gateway, job)
        assert (last.status, last.headers["ETag"]) == (200, f'"{log[-1].id}"')
        assert not {"Location", "Retry-After"} & set(last.headers)
        assert (await poll(gateway, {"jobId": "nobody"}, wait=30, known="*")).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_state_that_the_poller_has(method: str, tmp_path: Path) -> None:
    """304 with its tag, without a body, and with the wait while it runs; another state is answered."""
    async with gateway_with(tmp_path, seconds=1000, steps=1) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            seen = events(response)
            newest = [await anext(seen), await anext(seen)][-1].id
        for ended in (False, True):
            for known in (f'"{newest}"', f'W/"{newest}"', f'"0", "{newest}"', "*"):
                same = await poll(gateway, job, known=known, method=method)
                assert (same.status, same.headers["ETag"], same.body) == (304, f'"{newest}"', b"")
                assert ("Retry-After" in same.headers) is not ended
                assert not {"Location", "Content-Type"} & set(same.headers)
            other = await poll(gateway, job, known='"0", "900"', method=method)
            assert (other.status, other.headers["ETag"]) == (200 if ended else 202, f'"{newest}"')
            assert bool(other.body) is (method == "GET")
            async with gateway.session.delete(f"{gateway.url}/jobs/{job['jobId']}", headers=OPERATOR) as response:
                assert response.status == 204
            newest = str(int(newest) + 1)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_wait_for_the_end(method: str, tmp_path: Path) -> None:
    """Without a tag: held until the job has ended, as long as preferred at most, then with the newest state."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        early = await poll(gateway, job, wait=5, method=method)
        assert (early.status, early.applied) == (202, "wait=5")
        assert 5 <= early.seconds < 5 + SOON
        now = await poll(gateway, job, method=method)
        assert early.headers["ETag"] == now.headers["ETag"] != '"1"'
        assert early.body == now.body
        end = await poll(gateway, job, wait=300, method=method)
        assert (end.status, end.applied) == (200, "wait=60")
        assert 10 < end.seconds < 17
        again = await poll(gateway, job, wait=60, method=method)
        assert (again.status, again.applied, again.body) == (200, "wait=60", end.body)
        assert again.seconds < SOON
        same = await poll(gateway, job, wait=60, known=end.headers["ETag"], method=method)
        assert (same.status, same.applied) == (304, "wait=60")
        assert same.seconds < SOON
        await nothing_left(gateway)


async def test_each_state_by_waits_alone(tmp_path: Path) -> None:
    """Who sends the tag of the last answer sees every state that a stream sees, and none twice."""
    async with gateway_with(tmp_path) as gateway:
        job = await gateway.copy()
        answers = [await poll(gateway, job, wait=0)]
        while answers[-1].status == 202:
            answers.append(await poll(gateway, job, wait=60, known=answers[-1].headers["ETag"]))
        log = await tail(gateway.session, job["events"])
        assert [answer.headers["ETag"] for answer in answers] == [f'"{event.id}"' for event in log]
        assert {answer.status for answer in answers[:-1]} == {202}
        assert answers[-1].status == 200


async def test_a_wait_without_news(tmp_path: Path) -> None:
    """304 after the time preferred; `*` and a tag that is yet to come name no news either."""
    async with gateway_with(tmp_path, seconds=1000, steps=1) as gateway:
        job = await gateway.copy()
        await poll(gateway, job, wait=10, known='"1"')
        newest = (await poll(gateway, job)).headers["ETag"]
        for known in (newest, f'{newest}, "900"', "*"):
            same = await poll(gateway, job, wait=20, known=known)
            assert (same.status, same.applied, same.body) == (304, "wait=20", b"")
            assert 20 <= same.seconds < 20 + SOON
        other = await poll(gateway, job, wait=20, known='"0"')
        assert (other.status, other.applied) == (202, "wait=20")
        assert other.seconds < SOON
        assert (await poll(gateway, job, wait=0)).seconds < SOON


async def test_news_wakes_a_wait_at_once(tmp_path: Path) -> None:
    """Two hundred waits on one job: each is a stream in number, has no task, and is answered soon."""
    async with gateway_with(tmp_path, seconds=1000, steps=1) as gateway:
        job = await gateway.copy()
        async with gateway.session.get(job["events"]) as response:
            seen = events(response)
            assert [(await anext(seen)).id, (await anext(seen)).id] == ["1", "2"]
        await nothing_left(gateway)
        now = asyncio.get_running_loop().time
        before = len(asyncio.all_tasks())
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(poll(gateway, job, wait=50)) for _ in range(200)]
            await waits(gateway, 200)
            assert len(asyncio.all_tasks()) - before == 200  # the clients'
            await anyio.sleep(30)
            assert value(series(await scraped(gateway)), "gateway_streams_open") == 200
            begun = now()
            async with gateway.session.delete(f"{gateway.url}/jobs/{job['jobId']}", headers=OPERATOR) as response:
                assert response.status == 204
        assert now() - begun < SOON
        assert {(one.result().status, one.result().body) for one in held} == {(200, (await poll(gateway, job)).body)}
        await nothing_left(gateway)
        assert value(series(await scraped(gateway)), "gateway_streams_ended_total", reason="ended") == 200


async def test_a_drain_answers_waits(tmp_path: Path) -> None:
    """At once, with the newest state, and without a claim that it was held as preferred."""
    async with gateway_with(tmp_path, seconds=100, steps=50) as gateway:
        job = await gateway.copy()
        async with asyncio.TaskGroup() as tasks:
            held = [tasks.create_task(poll(gateway, job, wait=60, known=known)) for known in (None, "*")]
            await waits(gateway, 2)
            await anyio.sleep(10)
            gateway.server.handle_exit(signal.SIGTERM, None)
        for one, status in zip(held, (202, 304), strict=True):
            answer = one.result()
            assert (answer.status, answer.applied) == (status, None)
            assert answer.seconds < 10 + SOON
            assert answer.headers["ETag"] != '"1"'


async def test_too_many_waits(tmp_path: Path) -> None:
    """A wait counts as a stream. One too many is answered at once, and says that it was not held."""
    async with gateway_with(tmp_path, seconds=1000, max_streams=1) as gateway:
        job = await gateway.copy()
        async with asyncio.TaskGroup() as tasks:
            held = tasks.create_task(poll(gateway, job, wait=30))
            await waits(gateway, 1)
            refused = await poll(gateway, job, wait=30)
            assert (refused.status, refused.applied) == (202, None)
            assert refused.seconds < SOON
            assert (await poll(gateway, job, wait=30, known='"0"')).applied == "wait=30"  # it needs no place
            async with gateway.session.get(job["events"]) as response:
                assert response.status == 503
        assert held.result().applied == "wait=30"
        async with gateway.session.get(job["events"]) as response:
            assert response.status == 200
            full = await poll(gateway, job, wait=30)
            assert (full.status, full.applied) == (202, None)
        assert value(series(await scraped(gateway)), "gateway_streams_refused_total", reason="full") == 3


async def test_a_client_that_leaves_its_wait(tmp_path: Path) -> None:
    """Its wait ends, with nothing left behind; a body that came along changes nothing."""
    async with gateway_with(tmp_path, seconds=1000) as gateway:
        job = await gateway.copy()
        host, port = gateway.url.removeprefix("http://").split(":")
        for body in (b"", b"a body"):
            _, writer = await asyncio.open_connection(host, int(port))
            lines = f"GET /jobs/{job['jobId']} HTTP/1.1", "Host: x", "Prefer: wait=60", f"Content-Length: {len(body)}"
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await waits(gateway, 1)
            await anyio.sleep(10)
            assert gateway.gateway.parts.tails.open == 1
            writer.close()
            await nothing_left(gateway)
        assert value(series(await scraped(gateway)), "gateway_streams_ended_total", reason="left") == 2


async def test_a_wait_while_the_store_is_away(tmp_path: Path) -> None:
    """A new one is told so, as without a wait; one that is held goes on, and hears the end when the store is back."""
    async with gateway_with(tmp_path, seconds=30) as gateway:
        job = await gateway.copy()
        async with asyncio.TaskGroup() as tasks:
            held = tasks.create_task(poll(gateway, job, wait=60))
            short = tasks.create_task(poll(gateway, job, wait=10))
            await waits(gateway, 2)
            with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
                other.execute("ALTER TABLE jobs RENAME TO jobs_away")
                for wait in (None, 10):
                    refused = await poll(gateway, job, wait=wait)
                    assert (refused.status, refused.applied) == (503, None)
                await anyio.sleep(20)
                other.execute("ALTER TABLE jobs_away RENAME TO jobs")
        assert (short.result().status, short.result().applied) == (202, "wait=10")
        assert (held.result().status, held.result().applied) == (200, "wait=60")
        await nothing_left(gateway)


async def test_a_stream_is_not_held(tmp_path: Path) -> None:
    """`Accept` chooses first; the headers of polls mean nothing to a stream."""
    async with gateway_with(tmp_path, seconds=2, steps=2) as gateway:
        job = await gateway.copy()
        headers = {"Accept": "text/event-stream", "Prefer": "wait=60", "If-None-Match": "*"}
        log = await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}", headers=headers)
        assert [event.name for event in log][-1] == "completed"


async def test_the_headers_of_an_answer_that_was_held(tmp_path: Path) -> None:
    """As those of any other answer; and the next request on its connection is served."""
    async with gateway_with(tmp_path, seconds=1000, cors_origins="https://app.example") as gateway:
        job = await gateway.copy()
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        path = f"/jobs/{job['jobId']} HTTP/1.1"
        get = [f"GET {path}", "Host: x", "Origin: https://app.example", "client-request-id: mine", "Prefer: wait=60"]
        head_only = [f"HEAD {path}", "Host: x", "Prefer: wait=20"]
        writer.write("\r\n".join([*get, "", *head_only, "", ""]).encode())
        for length, seconds in ((None, 60), (0, 20)):
            begun = anyio.current_time()
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert anyio.current_time() - begun == pytest.approx(seconds, abs=SOON)
            got = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.splitlines())}
            assert head.startswith("HTTP/1.1 202 ")
            assert {"date", "request-id", "cache-control", "etag", "preference-applied"} <= got.keys()
            if length is None:
                assert got["access-control-allow-origin"] == "https://app.example"
                assert "ETag" in got["access-control-expose-headers"]
                assert got["client-request-id"] == "mine"
                assert (await reader.readexactly(int(got["content-length"]))).startswith(b"{")
        writer.close()
