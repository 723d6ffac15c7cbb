"""Starting a copy: what goes upstream, and what comes back."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from gateway.callbacks.receivers import Receivers
from gateway.jobs import copies
from tests.support.fake_upstream import Answer, answering, faking, reset
from tests.support.harness import TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time

PATH = "/v1.0/me/drive/items/1/copy"


async def post(gateway: Running, path: str = PATH, data: bytes = b"{}", **headers: str) -> tuple[int, Any, Any]:
    named = {**TOKEN, "Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.session.post(URL(gateway.url + path, encoded=True), data=data, headers=named) as response:
        body = await response.read()
        is_json = response.content_type == "application/json"
        return response.status, (await response.json() if is_json else body), response.headers


async def test_a_request_goes_upstream_byte_for_byte(tmp_path: Path) -> None:
    """Raw path and query, body, and the headers the contract names; nothing of the gateway's own identity with it."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        path = "/beta/sites/a,b,c/drives/b!1/root:/x%2Ey%3A%20z/q!:/copy?@microsoft.graph.conflictBehavior=rename&a=%2f"
        body = b'{ "name" : "\\u00e4",\n "parentReference":{"driveId":"b!2"} }'
        status, answer, headers = await post(
            gateway,
            path,
            body,
            Prefer="respond-async",
            client_request_id="mine",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            Cookie="a=b",
            X_Other="x",
        )
        assert status == 202
        ((method, asked, sent, received),) = [entry for entry in upstream.asked if entry[0] == "POST"]
        assert (method, asked, received) == ("POST", path, body)
        for name, value in {
            **TOKEN,
            "Prefer": "respond-async",
            "client-request-id": "mine",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "Content-Type": "application/json",
        }.items():
            assert sent[name] == value
        assert "Cookie" not in sent
        assert "X-Other" not in sent
        assert headers["Location"] == f"{gateway.url}/jobs/{answer['jobId']}"
        assert answer["events"] == headers["Location"] + "/events"
        assert (answer["status"], answer["percentageComplete"], answer["operation"]) == ("notStarted", 0.0, "ItemCopy")
        assert len(answer["jobId"]) >= 22
        assert answer["jobKey"]


async def test_upstreams_request_ids_come_back(tmp_path: Path) -> None:
    """On a 202 they replace the gateway's own."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        location = f"{upstream.url}/monitor/1"
        upstream.on_copy = answering(
            lambda: web.Response(
                status=202, headers={"Location": location, "request-id": "u-1", "client-request-id": "u-2"}
            )
        )
        _, _, headers = await post(gateway)
        assert (headers["request-id"], headers["client-request-id"]) == ("u-1", "u-2")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b'"x"', {}, 400),
        (b"\xff", {}, 400),
        (b"[" * 60_000, {}, 400),
        (b'{"a":"' + b"x" * 70_000 + b'"}', {}, 413),
        (b"{}", {"Content_Encoding": "gzip"}, 415),
        (b"{}", {"Idempotency_Key": "a b"}, 400),
        (b"{}", {"Idempotency_Key": "x" * 256}, 400),
        (b"{}", {"Idempotency_Key": ""}, 400),
    ],
)
async def test_bad_input_starts_nothing(body: bytes, headers: dict[str, str], status: int, tmp_path: Path) -> None:
    """A clear error in Graph's shape, and upstream is not asked."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        got, answer, _ = await post(gateway, data=body, **headers)
        assert got == status
        assert set(answer["error"]) == {"code", "message", "innerError"}
        assert set(answer["error"]["innerError"]) == {"date", "request-id", "client-request-id"}
        assert upstream.asked == []


async def test_a_chunked_body_beyond_the_limit(tmp_path: Path) -> None:
    """Without a length it is counted as it comes."""

    async def chunks() -> Any:
        for _ in range(70):
            yield b"x" * 1024

    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        async with gateway.session.post(gateway.url + PATH, data=chunks(), headers=TOKEN) as response:
            assert response.status == 413
        assert upstream.asked == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 423, 429, 501, 503, 507])
async def test_a_refusal_comes_back_as_it_is(status: int, tmp_path: Path) -> None:
    """Status, body, type, Retry-After, WWW-Authenticate and ids; sandboxed; no job."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        sent = {"Retry-After": "7", "WWW-Authenticate": "Bearer realm", "request-id": "u", "Set-Cookie": "no=1"}
        upstream.on_copy = answering(
            lambda: web.Response(status=status, body=b'{"error": 1}', content_type="application/json", headers=sent)
        )
        got, body, headers = await post(gateway)
        assert (got, body) == (status, {"error": 1})
        for name in ("Retry-After", "WWW-Authenticate", "request-id"):
            assert headers[name] == sent[name]
        assert headers["Content-Security-Policy"] == "sandbox"
        assert "Set-Cookie" not in headers
        assert upstream.polls() == 0


@pytest.mark.parametrize("status", [500, 504])
async def test_a_500_or_504_is_a_502_to_sdks(status: int, tmp_path: Path) -> None:
    """The body stays; the code would make an SDK send the copy again."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status, text="sorry"))
        got, body, headers = await post(gateway)
        assert (got, body) == (502, b"sorry")
        assert headers["Content-Type"].startswith("text/plain")


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(10_000)
    return web.Response()


@pytest.mark.parametrize("answer", [hang, reset], ids=["hangs", "resets"])
async def test_nobody_knows(answer: Answer, tmp_path: Path) -> None:
    """No answer to a request that was sent: outcomeUnknown, and no second POST."""
    async with faking() as upstream, serving(upstream.url, tmp_path, copy_timeout=5) as gateway:
        upstream.on_copy = answer
        status, body, _ = await post(gateway)
        assert (status, body["error"]["code"]) == (502, "outcomeUnknown")
        assert "may be running" in body["error"]["message"]
        assert upstream.copies() == 1


async def test_upstream_cannot_be_reached(tmp_path: Path) -> None:
    """Nothing was sent, and the caller is told so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with serving(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path) as gateway:
            status, body, _ = await post(gateway)
            assert (status, body["error"]["code"]) == (502, "upstreamUnreachable")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 301, 303, 307])
async def test_an_acceptance_without_a_job(status: int, tmp_path: Path) -> None:
    """A success or redirect that names no monitor is no answer to a copy."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status))
        got, body, _ = await post(gateway)
        assert (got, body["error"]["code"]) == (502, "invalidUpstreamResponse")
        assert "may be running" in body["error"]["message"]


@pytest.mark.parametrize(
    ("location", "resource"),
    [
        (
            "https://contoso.sharepoint.com/_api/v2.0/drives/b!9/items/01X?force303=1&tempauth=s",
            "/v1.0/drives/b!9/items/01X",
        ),
        ("/v1.0/me/drive/items/01X", "/v1.0/me/drive/items/01X"),
    ],
)
async def test_a_location_that_is_the_item(location: str, resource: str, tmp_path: Path) -> None:
    """A job that completes at once, and is never polled."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=202, headers={"Location": location}))
        status, body, _ = await post(gateway)
        assert (status, body["status"], body["resource"]) == (202, "completed", resource)
        seen = await tail(gateway.session, body["events"])
        assert [event.name for event in seen] == ["progress", "completed"]
        assert upstream.polls() == 0


async def test_a_relative_location(tmp_path: Path) -> None:
    """It is resolved against the upstream."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=202, headers={"Location": "/monitor/7?x=%2F"}))
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "01"}))
        _, body, _ = await post(gateway)
        await tail(gateway.session, body["events"])
        assert upstream.asked[-1][1] == "/monitor/7?x=%2F"


@pytest.mark.parametrize(
    ("parent", "resource"),
    [
        ({"driveId": "b!2", "path": "/drives/no/root:"}, "/v1.0/drives/b!2/items/01"),
        ({"path": "/drives/b!3/root:/Documents"}, "/v1.0/drives/b!3/items/01"),
        ({"path": "/drive/root:/Documents"}, "/v1.0/me/drive/items/01"),
        ({"driveId": 7}, "/v1.0/me/drive/items/01"),
        ("text", "/v1.0/me/drive/items/01"),
    ],
)
async def test_where_the_result_is(parent: Any, resource: str, tmp_path: Path) -> None:
    """The drive the body asks for, else the request's own."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "01"}))
        job = await gateway.copy("/v1.0/me/drive/items/1", json={"parentReference": parent})
        assert (await tail(gateway.session, job["events"]))[-1].data["resource"] == resource


async def test_as_many_jobs_as_there_may_be(tmp_path: Path) -> None:
    """One more is refused before anything goes upstream; when one has ended there is room again."""
    async with faking() as upstream, serving(upstream.url, tmp_path, max_jobs=2) as gateway:
        first = await gateway.copy("/v1.0/me/drive/items/1")
        await gateway.copy("/v1.0/me/drive/items/1")
        status, body, headers = await post(gateway)
        assert (status, body["error"]["code"]) == (503, "serviceNotAvailable")
        assert int(headers["Retry-After"]) > 0
        assert upstream.copies() == 2
        key = {"Authorization": f"Bearer {first['jobKey']}"}
        async with gateway.session.delete(f"{gateway.url}/jobs/{first['jobId']}", headers=key) as response:
            assert response.status == 204
        await asyncio.sleep(0.1)
        await gateway.copy("/v1.0/me/drive/items/1")


async def test_an_accepted_copy_that_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried for a while, then outcomeUnknown; the next is refused before it goes upstream, until the store is back."""
    monkeypatch.setattr(copies, "STORE_PATIENCE", 0.5)
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:

            async def lock(request: web.Request) -> web.StreamResponse:
                other.execute("BEGIN IMMEDIATE")
                return await upstream.accept(request)

            upstream.on_copy = lock
            status, body, _ = await post(gateway)
            assert (status, body["error"]["code"]) == (502, "outcomeUnknown")
            status, body, _ = await post(gateway)
            assert (status, body["error"]["code"]) == (503, "serviceNotAvailable")
            assert upstream.copies() == 1
            other.execute("ROLLBACK")
            upstream.on_copy = upstream.accept
            status, body, _ = await post(gateway)
            assert status == 202


async def test_an_accepted_copy_that_is_stored_in_time(tmp_path: Path) -> None:
    """A store that is locked for a moment costs a moment."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:

            async def lock(request: web.Request) -> web.StreamResponse:
                other.execute("BEGIN IMMEDIATE")
                return await upstream.accept(request)

            upstream.on_copy = lock
            waiting = asyncio.create_task(post(gateway))
            while not gateway.gateway.parts.store.failing:  # noqa: ASYNC110 - until the first try has failed
                await asyncio.sleep(0.01)
            other.execute("ROLLBACK")
            status, _, _ = await waiting
            assert status == 202


class Checks:
    """In the place of look-ups of callbacks' hosts: they hang until `go` is set."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def check(self, _receivers: Receivers, _url: str) -> None:
        self.begun.set()
        await self.go.wait()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    checks = Checks()

    async def check(receivers: Receivers, url: str) -> None:
        await checks.check(receivers, url)

    monkeypatch.setattr(Receivers, "check", check)
    return checks


WITH_CALLBACK: dict[str, Any] = {"Gateway_Callback_Url": "https://slow.example/", "Idempotency_Key": "k"}


async def test_a_drain_while_a_callback_is_checked(tmp_path: Path, checks: Checks) -> None:
    """Nothing was sent, so nothing was started: 503 at once, and the key is free."""
    async with faking() as upstream:
        async with serving(upstream.url, tmp_path) as gateway:
            asked = asyncio.create_task(post(gateway, **WITH_CALLBACK))
            await checks.begun.wait()
            begun = asyncio.get_running_loop().time()
            await gateway.gateway.drain(8)
            status, body, headers = await asked
            assert asyncio.get_running_loop().time() - begun < 1
            assert (status, body["error"]["code"]) == (503, "serviceNotAvailable")
            assert "Nothing was started" in body["error"]["message"]
            assert headers["Retry-After"] == "1"
            checks.begun.clear()
            status, _, _ = await post(gateway, **WITH_CALLBACK)
            assert status == 503
            assert not checks.begun.is_set()
        checks.go.set()
        async with serving(upstream.url, tmp_path) as gateway:
            assert upstream.copies() == 0
            status, _, _ = await post(gateway, **WITH_CALLBACK)
            assert (status, upstream.copies()) == (202, 1)


async def test_a_callback_that_is_checked_takes_no_place(tmp_path: Path, checks: Checks) -> None:
    """Its copy has one from when it is sent; when there is none any more by then, it is refused and not sent."""
    async with faking() as upstream, serving(upstream.url, tmp_path, max_jobs=1) as gateway:
        waits = asyncio.create_task(post(gateway, **WITH_CALLBACK))
        await checks.begun.wait()
        status, _, _ = await post(gateway)
        assert status == 202
        checks.go.set()
        status, body, _ = await waits
        assert (status, body["error"]["code"]) == (503, "serviceNotAvailable")
        assert upstream.copies() == 1
