"""Items passed on, monitors handed in, jobs listed and stopped, and what every answer carries."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from yarl import URL

from tests.support.fake_upstream import answering, faking
from tests.support.harness import OPERATOR, TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time


async def test_an_item_is_passed_on(tmp_path: Path) -> None:
    """Path, query and headers go up unchanged; status, body and the named headers come back, and no others."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        sent = {"ETag": '"1"', "Retry-After": "3", "request-id": "u", "Set-Cookie": "a=b", "X-Other": "x"}
        big = b'{"id":"' + b"x" * 300_000 + b'"}'
        upstream.on_item = answering(lambda: web.Response(body=big, content_type="application/json", headers=sent))
        path = "/beta/drives/b!1/items/01%2C!?$select=id,name&x=%2F"
        given = {**TOKEN, "Accept": "application/json;odata", "If-None-Match": '"0"', "Prefer": "p", "X-No": "1"}
        async with gateway.session.get(URL(gateway.url + path, encoded=True), headers=given) as response:
            assert (response.status, await response.read()) == (200, big)
            assert response.headers["ETag"] == '"1"'
            assert response.headers["Retry-After"] == "3"
            assert response.headers["request-id"] == "u"
            assert response.headers["Content-Security-Policy"] == "sandbox"
            assert "Set-Cookie" not in response.headers
            assert "X-Other" not in response.headers
        ((method, asked, headers, _),) = upstream.asked
        assert (method, asked) == ("GET", path)
        for name in ("Authorization", "Accept", "If-None-Match", "Prefer"):
            assert headers[name] == given[name]
        assert "X-No" not in headers


@pytest.mark.parametrize("path", ["root:/a.docx:/", "root:/a.docx:", "items/1/", "root/"])
async def test_a_slash_at_the_end_is_dropped(path: str, tmp_path: Path) -> None:
    """One, before the query; libraries build such paths."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        url = URL(f"{gateway.url}/v1.0/me/drive/{path}?$select=id/", encoded=True)
        async with gateway.session.get(url, headers=TOKEN) as response:
            assert response.status == 200
        assert upstream.asked[0][1] == f"/v1.0/me/drive/{path.removesuffix('/')}?$select=id/"


@pytest.mark.parametrize("status", [204, 302, 304, 401, 404, 429, 500, 503])
async def test_any_status_of_an_item_comes_back(status: int, tmp_path: Path) -> None:
    """Redirects are not followed, failures are upstream's own."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_item = answering(lambda: web.Response(status=status, headers={"Location": f"{upstream.url}/x"}))
        url = f"{gateway.url}/v1.0/me/drive/root"
        async with gateway.session.get(url, headers=TOKEN, allow_redirects=False) as response:
            assert response.status == status
        assert len(upstream.asked) == 1


async def test_an_item_that_breaks_off_is_not_passed_off_as_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller's connection breaks too, by which the server sees no fault here; one that cannot be fetched at all is
    a 502.
    """

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"id":')
        assert request.transport is not None
        request.transport.close()
        return response

    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_item = half
        with pytest.raises(aiohttp.ClientPayloadError):
            async with gateway.session.get(f"{gateway.url}/v1.0/me/drive/root") as response:
                await response.read()
        assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []
    async with (
        serving("http://127.0.0.1:9", tmp_path) as gateway,
        gateway.session.get(f"{gateway.url}/v1.0/me/drive/root") as response,
    ):
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "upstreamUnreachable"


async def test_an_item_is_read_no_further_for_a_caller_that_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However much of it upstream would still send."""
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * 1000)
                written += 1
                await asyncio.sleep(0.1)
        return response

    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_item = endless
        async with gateway.session.get(f"{gateway.url}/v1.0/me/drive/root") as response:
            await response.content.readexactly(1000)
        await asyncio.sleep(1)
        before = written
        await asyncio.sleep(20)
        assert written == before
        assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []


async def hand_in(gateway: Running, content: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    given = OPERATOR if headers is None else headers
    async with gateway.session.post(f"{gateway.url}/jobs", json=content, headers=given) as response:
        return response.status, await response.json()


async def test_a_monitor_that_the_caller_holds(tmp_path: Path) -> None:
    """Watched like a copy; where its item is read is known if the drive is."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "01"}))
        wish = {"monitorUrl": f"{upstream.url}/monitor/x", "operation": "DownloadUrl", "driveId": "b!1"}
        status, job = await hand_in(gateway, wish)
        assert (status, job["operation"], job["status"]) == (202, "DownloadUrl", "notStarted")
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert last["resource"] == "/v1.0/drives/b!1/items/01"
        _, job = await hand_in(gateway, {"monitorUrl": f"{upstream.url}/monitor/x"})
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert "resource" not in last
        assert last["resourceId"] == "01"


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"monitorUrl": 1},
        {"monitorUrl": "https://example.com/m"},
        {"monitorUrl": "http://api.onedrive.com/m"},
        {"monitorUrl": "https://u:p@api.onedrive.com/m"},
        {"monitorUrl": "https://u@api.onedrive.com/m"},
        {"monitorUrl": "https://@api.onedrive.com/m"},
        {"monitorUrl": "https://169.254.169.254/m"},
        {"monitorUrl": "https://api.onedrive.com/ä"},
        {"monitorUrl": "https://api.onedrive.com/a b"},
        {"monitorUrl": "https://api.onedrive.com/\0"},
        {"monitorUrl": "https://api.onedrive.com:444/m"},
        {"monitorUrl": "/monitor/1"},
        {"monitorUrl": ""},
        {"monitorUrl": "https://api.onedrive.com/m", "operation": 7},
        {"monitorUrl": "https://api.onedrive.com/m", "operation": "x" * 65},
        {"monitorUrl": "https://api.onedrive.com/m", "driveId": ""},
        [],
    ],
)
async def test_a_monitor_that_cannot_be_watched(wish: Any, tmp_path: Path) -> None:
    """400, with what was wrong; no job, and the URL is not repeated."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, body = await hand_in(gateway, wish)
        assert status == 400
        assert "example.com" not in str(body)
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            assert (await response.json())["value"] == []


async def test_the_operators_routes_want_the_operators_key(tmp_path: Path) -> None:
    """Missing, wrong, or a job's own key: 401."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        job = await gateway.copy("/v1.0/me/drive/items/1")
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {job['jobKey']}"}):
            status, body = await hand_in(gateway, {"monitorUrl": f"{upstream.url}/monitor/x"}, headers)
            assert (status, body["error"]["code"]) == (401, "unauthenticated")
            async with gateway.session.get(f"{gateway.url}/jobs", headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_without_an_operator_key_they_are_shut(tmp_path: Path) -> None:
    """No key opens them, and the message says why."""
    async with faking() as upstream, serving(upstream.url, tmp_path, operator_key=None) as gateway:
        status, body = await hand_in(gateway, {"monitorUrl": f"{upstream.url}/monitor/x"}, {"Authorization": "Bearer "})
        assert status == 401
        assert "No operator key is set" in body["error"]["message"]


async def test_jobs_are_listed_newest_first(tmp_path: Path) -> None:
    """Page by page by nextLink, filtered by status."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        started = []
        for _ in range(5):
            started.append((await gateway.copy("/v1.0/me/drive/items/1"))["jobId"])
            await anyio.sleep(1)
        url = f"{gateway.url}/jobs?limit=2"
        seen: list[str] = []
        while url:
            async with gateway.session.get(URL(url, encoded=True), headers=OPERATOR) as response:
                page = await response.json()
            seen += [job["jobId"] for job in page["value"]]
            assert len(page["value"]) <= 2
            url = page.get("nextLink", "")
        assert seen == started[::-1]
        async with gateway.session.delete(f"{gateway.url}/jobs/{started[2]}", headers=OPERATOR):
            pass
        for word in ("failed", "FAILED"):
            async with gateway.session.get(f"{gateway.url}/jobs?status={word}", headers=OPERATOR) as response:
                assert [job["jobId"] for job in (await response.json())["value"]] == [started[2]]
        for wrong in ("limit=0", "limit=201", "limit=x", "limit=-1", "cursor=nonsense"):
            async with gateway.session.get(f"{gateway.url}/jobs?{wrong}", headers=OPERATOR) as response:
                assert response.status == 400
                assert wrong.split("=")[0] in (await response.json())["error"]["message"]


async def test_stopping_takes_the_jobs_key(tmp_path: Path) -> None:
    """The jobKey or the operator key; a second time, or after the end, it changes nothing."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        job, other = [await gateway.copy("/v1.0/me/drive/items/1") for _ in range(2)]
        url = f"{gateway.url}/jobs/{job['jobId']}"
        for wrong in ({}, {"Authorization": f"Bearer {other['jobKey']}"}, {"Authorization": f"Basic {job['jobKey']}"}):
            async with gateway.session.delete(url, headers=wrong) as response:
                assert response.status == 401
        for _ in range(2):
            async with gateway.session.delete(url, headers={"Authorization": f"Bearer {job['jobKey']}"}) as response:
                assert (response.status, await response.read()) == (204, b"")
        async with gateway.session.get(url) as response:
            state = await response.json()
            assert (response.status, state["error"]["code"]) == (200, "watchStopped")
        assert len(await tail(gateway.session, job["events"])) <= 3
        async with gateway.session.delete(f"{gateway.url}/jobs/nobody", headers=OPERATOR) as response:
            assert response.status == 404


async def test_a_job_can_be_polled_like_graphs_monitor(tmp_path: Path) -> None:
    """202 with Retry-After while it runs, 200 when it has ended."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        job = await gateway.copy("/v1.0/me/drive/items/1")
        url = f"{gateway.url}/jobs/{job['jobId']}"
        async with gateway.session.get(url) as response:
            assert response.status == 202
            assert int(response.headers["Retry-After"]) >= 1
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        await tail(gateway.session, job["events"])
        async with gateway.session.get(url) as response:
            assert (response.status, (await response.json())["status"]) == (200, "completed")
            assert "Retry-After" not in response.headers


COMMON = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("GET", "/jobs/", 404),
        ("GET", "/jobs/x/", 404),
        ("DELETE", "/jobs/x/", 404),
        ("GET", "/jobs/x/events/", 404),
        ("GET", "//jobs", 404),
        ("GET", "//example.com/jobs", 404),
        ("GET", "/events/?job=x", 404),
        ("GET", "/docs/", 404),
        ("GET", "/page/main.js/", 404),
        ("GET", "/beta", 404),
        ("POST", "/v1.0", 404),
        ("POST", "//v1.0/me/drive/items/1/copy", 404),
        ("GET", "/v1.0", 404),
        ("GET", "/v1.0/", 404),
        ("GET", "/v1.0/me", 404),
        ("PATCH", "/v1.0/me/drive/items/1", 400),
        ("PUT", "/v1.0/me/drive/items/1", 404),
        ("PUT", "/jobs", 405),
        ("POST", "/jobs/x", 405),
        ("POST", "/events", 405),
        ("GET", "/jobs", 401),
        ("DELETE", "/jobs/x", 401),
        ("GET", "/jobs/x", 404),
        ("GET", "/events", 400),
        ("GET", "/v1.0/me/drive/items/%2e%2e", 400),
        ("GET", "/v1.0/me/drive/root", 200),
    ],
)
async def test_what_every_answer_carries(method: str, path: str, status: int, tmp_path: Path) -> None:
    """The common headers and ids; errors in Graph's shape, with the caller's own id."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        url = URL(gateway.url + path, encoded=True)
        headers = {"client-request-id": "my-id"}
        async with gateway.session.request(method, url, headers=headers, allow_redirects=False) as response:
            assert response.status == status
            for name, value in COMMON.items():
                assert response.headers[name] == value
            assert response.headers["client-request-id"] == "my-id"
            assert response.headers["request-id"]
            if status >= 400:
                inner = (await response.json())["error"]["innerError"]
                assert inner["client-request-id"] == "my-id"
                assert inner["request-id"] == response.headers["request-id"]
            if status == 405:
                assert response.headers["Allow"]


async def test_the_public_url_is_what_is_handed_out(tmp_path: Path) -> None:
    """Behind a proxy the gateway cannot know its own address."""
    async with faking() as upstream, serving(upstream.url, tmp_path, public_url="https://g.example.com/x/") as gateway:
        job = await gateway.copy("/v1.0/me/drive/items/1")
        assert job["events"] == f"https://g.example.com/x/jobs/{job['jobId']}/events"


async def test_white_space_behind_a_value_is_no_part_of_it(tmp_path: Path) -> None:
    """HTTP allows it in any header."""
    body = b'{"name":"a"}'
    lines = (
        "Host: x",
        "Authorization: Bearer x",
        "Idempotency-Key: k",
        f"Content-Length: {len(body)}",
        "Gateway-Label: b",
    )
    head = "POST /v1.0/me/drive/items/1/copy HTTP/1.1\r\n" + "".join(f"{line} \t \r\n" for line in lines) + "\r\n"
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.write(head.encode() + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202")
        assert b'"label":"b"' in await reader.readuntil(b"}")
        writer.close()
        assert upstream.asked[0][2]["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/teams", b"{}", 404, "begin with /v1.0 or /beta"),
        ("POST", "/v2.0/teams", b"{}", 404, "begin with /v1.0 or /beta"),
        ("POST", "/jobs/x/token", b"{}", 405, "see Allow"),
        ("POST", "/v1.0/me/drive/items/1/copy", b"", 400, "but it is empty"),
        ("POST", "/v1.0/teams/1/clone", b"fresh", 400, "but it is no JSON"),
        ("POST", "/v1.0/teams/1/merge", b"{}", 404, "teams/{id}/clone"),
    ],
)
async def test_what_is_wrong_is_told(
    method: str, path: str, body: bytes, status: int, words: str, tmp_path: Path
) -> None:
    """In words that lead to what is right."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        async with gateway.session.request(method, gateway.url + path, data=body, headers=TOKEN) as response:
            told = await response.json()
        assert (response.status, words in told["error"]["message"]) == (status, True), told
        assert upstream.copies() == 0
