"""Moves, archives and labels: what goes upstream, what becomes a job, and what comes back as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from gateway.graph.operations import parse
from tests.jobs.test_copies import hang
from tests.support.fake_upstream import FakeUpstream, answering, faking, reset
from tests.support.harness import OPERATOR, TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time

ITEM = "/v1.0/me/drive/items/01A!9"
MOVE = b'{ "parentReference": {"id": "F"}, "name": "b.docx" }'
LABEL = b'{"sensitivityLabelId": "5feba255-812e-446a-ac59-a7044ef827b5"}'
STARTS: dict[str, tuple[str, str, bytes]] = {  # method, path and body of each
    "ItemMove": ("PATCH", ITEM, MOVE),
    "ItemArchive": ("POST", f"{ITEM}/archive", b""),
    "ItemUnarchive": ("POST", f"{ITEM}/unarchive", b""),
    "AssignSensitivityLabel": ("POST", f"{ITEM}/assignSensitivityLabel", LABEL),
}


async def ask(gateway: Running, method: str, path: str, data: bytes = b"", **headers: str) -> tuple[int, Any, Any]:
    """A request with a token, as it is: without a Content-Type of its own."""
    named = TOKEN | {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.session.request(
        method,
        URL(gateway.url + path, encoded=True),
        data=data or None,
        headers=named,
        skip_auto_headers=("Content-Type",),
        allow_redirects=False,
    ) as response:
        body = await response.read()
        is_json = response.content_type == "application/json"
        return response.status, (await response.json() if is_json else body), response.headers


def started(upstream: FakeUpstream) -> list[Any]:
    return [asked for asked in upstream.asked if asked[0] != "GET"]


@pytest.mark.parametrize("operation", STARTS)
async def test_a_202_with_a_monitor_becomes_a_job(operation: str, tmp_path: Path) -> None:
    """As for a copy: its URL and key, its events; the operation is the request's until the monitor names one."""
    method, path, data = STARTS[operation]
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, job, headers = await ask(gateway, method, f"{path}?a=%2f", data, client_request_id="mine")
        assert (status, job["operation"], job["status"]) == (202, operation, "notStarted")
        assert headers["Location"] == f"{gateway.url}/jobs/{job['jobId']}"
        assert int(headers["Retry-After"]) > 0
        assert job["jobKey"]
        ((sent_method, sent_path, sent, body),) = started(upstream)
        assert (sent_method, sent_path, body) == (method, f"{path}?a=%2f", data)
        assert sent["client-request-id"] == "mine"
        assert sent.get("Content-Type") == ("application/json" if data else None)
        assert sent["Content-Length"] == str(len(data))
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "operation": "Upstreams"}))
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert (seen[0]["operation"], seen[-1]["operation"]) == (operation, "Upstreams")
        assert seen[-1]["status"] == "completed"


@pytest.mark.parametrize("operation", STARTS)
async def test_what_goes_upstream_with_it(operation: str, tmp_path: Path) -> None:
    """The caller's conditions and preferences, its own type; nothing of the gateway's own."""
    method, path, data = STARTS[operation]
    given = {
        "If-Match": '"{1},1"',
        "Prefer": "respond-async",
        "Accept": "application/json;odata.metadata=none",
        "Content-Type": "application/json;IEEE754Compatible=true",
    }
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        await ask(gateway, method, path, data or b"{}", Gateway_Label="l", X_Other="x", **given)
        ((_, _, sent, body),) = started(upstream)
        assert body == (data or b"{}")
        assert {name: sent[name] for name in given} == given
        assert not [name for name in sent if name.startswith(("Gateway-", "X-"))]


@pytest.mark.parametrize("operation", STARTS)
@pytest.mark.parametrize("status", [200, 201, 204, 302, 307, 400, 401, 404, 409, 412, 423, 429, 501, 503])
async def test_any_other_answer_comes_back(
    operation: str, status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Status, body, type, ETag, waits and ids, sandboxed; no job, and a redirect leads nowhere."""
    caplog.set_level(logging.INFO)
    method, path, data = STARTS[operation]
    kept = {"ETag": '"{1},2"', "Retry-After": "7", "request-id": "u"}
    others = {"Set-Cookie": "a=b", "Location": "https://elsewhere.example/"}
    content = b"" if status == 204 else b'{"id": "01A!9"}'
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(
            lambda: web.Response(status=status, body=content, content_type="application/json", headers=kept | others)
        )
        got, body, headers = await ask(gateway, method, path, data)
        assert (got, body) == (status, {"id": "01A!9"} if content else body)
        assert {name: headers[name] for name in kept} == kept
        assert headers["Content-Security-Policy"] == "sandbox"
        assert not others.keys() & headers.keys()
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            assert (await response.json())["value"] == []
        async with gateway.session.get(f"{gateway.url}/metrics") as response:
            outcome, action = "refused" if status >= 400 else "answered", parse(method, path).operation.action
            counted = f'gateway_copies_total{{operation="{action}",outcome="{outcome}"}} 1.0'
            assert counted in await response.text()
        (record,) = [record for record in caplog.records if record.name == "gateway.copies"]
        assert record.message == ("copy_refused" if status >= 400 else "copy_answered")
        assert vars(record)["fields"]["status"] == status


@pytest.mark.parametrize("status", [500, 504])
async def test_a_500_or_504_is_a_502_to_sdks(status: int, tmp_path: Path) -> None:
    """As for a copy: the body stays."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status, text="sorry"))
        got, body, _ = await ask(gateway, *STARTS["ItemArchive"])
        assert (got, body) == (502, b"sorry")


@pytest.mark.parametrize("location", [None, "http://[no", "https://elsewhere.example/monitor/1"])
async def test_a_202_that_cannot_be_watched(location: str | None, tmp_path: Path) -> None:
    """As for a copy, an error that says it may be running."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        headers = {} if location is None else {"Location": location}
        upstream.on_copy = answering(lambda: web.Response(status=202, headers=headers))
        status, body, _ = await ask(gateway, *STARTS["ItemMove"])
        code = "invalidUpstreamResponse" if location in (None, "http://[no") else "monitorHostNotAllowed"
        assert (status, body["error"]["code"]) == (502, code)
        assert "may be running" in body["error"]["message"]


@pytest.mark.parametrize("data", [b"{}", b'{"name":"x"}', b'{"parentReference":null}', b'{"parentReference":"F"}'])
async def test_a_patch_that_is_no_move(data: bytes, tmp_path: Path) -> None:
    """404, which says what is forwarded; nothing is sent."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, body, _ = await ask(gateway, "PATCH", ITEM, data)
        assert (status, body["error"]["code"]) == (404, "notFound")
        assert "parentReference" in body["error"]["message"]
        assert upstream.asked == []


@pytest.mark.parametrize("operation", STARTS)
@pytest.mark.parametrize(("data", "status"), [(b"[]", 400), (b"{", 400), (b'"' + b"x" * 70_000 + b'"', 413)])
async def test_bad_input_starts_nothing(operation: str, data: bytes, status: int, tmp_path: Path) -> None:
    """A body, where there is one, is a JSON object."""
    method, path, _ = STARTS[operation]
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        assert (await ask(gateway, method, path, data))[0] == status
        bad: dict[str, Any] = {"Gateway_Label": "", "Idempotency_Key": "a b", "Content_Encoding": "gzip"}
        for name, value in bad.items():
            got, _, _ = await ask(gateway, *STARTS[operation], **{name: value})
            assert got == (415 if name == "Content_Encoding" else 400)
        assert upstream.asked == []


@pytest.mark.parametrize("operation", ["ItemMove", "AssignSensitivityLabel"])
async def test_a_body_that_is_needed(operation: str, tmp_path: Path) -> None:
    """Without one there is nothing to forward."""
    method, path, _ = STARTS[operation]
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        assert (await ask(gateway, method, path))[0] == 400
        assert upstream.asked == []


OWN = "/v1.0/me/drive/items/01A!9"


@pytest.mark.parametrize(
    ("method", "path", "data", "told", "resource"),
    [
        ("PATCH", ITEM, MOVE, "01B", "/v1.0/me/drive/items/01B"),
        ("PATCH", ITEM, MOVE.replace(b'"id"', b'"driveId"'), "01B", "/v1.0/me/drive/items/01B"),
        ("PATCH", ITEM, MOVE, None, None),
        ("POST", f"{ITEM}/archive", b"", None, OWN),
        ("POST", f"{ITEM}/unarchive", b"", None, OWN),
        ("POST", f"{ITEM}/assignSensitivityLabel", LABEL, None, OWN),
        ("POST", f"{ITEM}/assignSensitivityLabel", LABEL, "01C", "/v1.0/me/drive/items/01C"),
        ("POST", "/beta/sites/s/drives/b%21x/items/1/archive", b"", None, "/beta/sites/s/drives/b%21x/items/1"),
        ("POST", "/v1.0/me/drive/root/archive", b"", None, None),
        ("POST", "/v1.0/me/drive/root:/a:/archive", b"", None, None),
        ("POST", "/v1.0/me/drive/items/1:/a:/archive", b"", None, None),
        ("POST", f"{ITEM}/copy", b"{}", None, None),
    ],
)
async def test_where_the_result_is(
    method: str, path: str, data: bytes, told: str | None, resource: str | None, tmp_path: Path
) -> None:
    """What an archive or a label changes is the item that the request names; upstream's own word goes first."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        _, job, _ = await ask(gateway, method, path, data)
        body = {"status": "completed"} | ({} if told is None else {"resourceId": told})
        upstream.on_poll = answering(lambda: web.json_response(body))
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert "resource" not in seen[0]
        assert seen[-1].get("resource") == resource
        assert ("resourceId" in seen[-1]) == (resource is not None)


@pytest.mark.parametrize("operation", STARTS)
async def test_a_location_that_is_the_item(operation: str, tmp_path: Path) -> None:
    """A job that completes at once; an id without an end is cut like any text of upstream."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        location = "/v1.0/me/drive/items/" + "x" * 2000
        upstream.on_copy = answering(lambda: web.Response(status=202, headers={"Location": location}))
        status, job, _ = await ask(gateway, *STARTS[operation])
        assert (status, job["status"], job["resourceId"]) == (202, "completed", "x" * 1024)
        assert upstream.polls() == 0


@pytest.mark.parametrize("operation", STARTS)
async def test_a_repeat_under_an_idempotency_key(operation: str, tmp_path: Path) -> None:
    """The first job again, with key and callback, 202 while it runs and 200 afterwards; nothing is started."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        wish: dict[str, Any] = {"Idempotency_Key": "k", "Gateway_Callback_Url": "https://1.1.1.1/"}
        _, first, _ = await ask(gateway, *STARTS[operation], **wish)
        status, second, _ = await ask(gateway, *STARTS[operation], **wish)
        assert (status, second) == (202, second | {name: first[name] for name in ("jobId", "jobKey", "callback")})
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        await tail(gateway.session, first["events"])
        status, third, headers = await ask(gateway, *STARTS[operation], **wish)
        assert (status, third["status"], third["jobKey"]) == (200, "completed", first["jobKey"])
        assert third["callback"] == first["callback"]
        assert headers["Location"] == f"{gateway.url}/jobs/{first['jobId']}"
        assert upstream.copies() == 1


@pytest.mark.parametrize(
    ("status", "repeated", "sent"), [(200, 502, 1), (204, 502, 1), (302, 502, 1), (409, 202, 2), (423, 202, 2)]
)
async def test_a_key_of_an_answer_without_a_job(status: int, repeated: int, sent: int, tmp_path: Path) -> None:
    """Passed on once: what may have had an effect is not done again, what had none may be."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status))
        assert (await ask(gateway, *STARTS["ItemMove"], Idempotency_Key="k"))[0] == status
        upstream.on_copy = upstream.accept
        got, body, _ = await ask(gateway, *STARTS["ItemMove"], Idempotency_Key="k")
        assert (got, upstream.copies()) == (repeated, sent)
        assert got == 202 or body["error"]["code"] == "outcomeUnknown"


@pytest.mark.parametrize("broken", [hang, reset], ids=["hangs", "resets"])
async def test_nobody_knows(broken: Any, tmp_path: Path) -> None:
    """No answer to a request that was sent: outcomeUnknown, and no second one."""
    async with faking() as upstream, serving(upstream.url, tmp_path, copy_timeout=5) as gateway:
        upstream.on_copy = broken
        status, body, _ = await ask(gateway, *STARTS["ItemMove"])
        assert (status, body["error"]["code"]) == (502, "outcomeUnknown")
        assert upstream.copies() == 1
