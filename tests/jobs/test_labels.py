"""A job's label: the name that people know it by."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.jobs.test_copies import post
from tests.support.fake_upstream import answering, faking
from tests.support.harness import OPERATOR, Running, serving, tail

pytestmark = pytest.mark.virtual_time

BODY = json.dumps({"name": "from the body"}).encode()


async def with_label(gateway: Running, label: bytes, body: bytes = b"{}") -> tuple[int, Any]:
    """A copy whose Gateway-Label has these very bytes."""
    lines = [
        b"POST /v1.0/me/drive/items/1/copy HTTP/1.1",
        b"Host: g",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        b"Gateway-Label: " + label,
    ]
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\r\n".join([*lines, b"", body]))
    head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(content)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (b"Monday's report", "Monday's report"),
        ("Größe 日本 🙂".encode(), "Größe 日本 🙂"),
        ("Größe".encode("latin-1"), "Größe"),
        (b"x" * 128, "x" * 128),
        ("日".encode() * 128, "日" * 128),
        (b" \t a b \t", "a b"),
    ],
)
async def test_the_header_names_the_job(given: bytes, label: str, tmp_path: Path) -> None:
    """UTF-8 if it is, else Latin-1; it goes before the body's name, and not upstream."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, job = await with_label(gateway, given, BODY)
        assert (status, job["label"]) == (202, label)
        ((_, _, sent, _),) = [asked for asked in upstream.asked if asked[0] == "POST"]
        assert "Gateway-Label" not in sent


@pytest.mark.parametrize(
    "given", [b"", b" \t", b"x" * 129, "日".encode() * 129, b"a\tb", "a\u202eb".encode(), b"a\x85b", b"a\xa0b"]
)
async def test_a_bad_header_starts_nothing(given: bytes, tmp_path: Path) -> None:
    """Too long, empty, or with what has no shape on a page."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, body = await with_label(gateway, given)
        assert (status, body["error"]["code"]) == (400, "invalidRequest")
        assert "Gateway-Label" in body["error"]["message"]
        assert upstream.asked == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a.docx", "a.docx"),
        ("x" * 300, "x" * 128),
        ("Größe 日本", "Größe 日本"),
        ("", None),
        ("a\nb", None),
        ("x\u202efdp.exe", None),
        ("x" * 128 + "\n", "x" * 128),
        (7, None),
        (None, None),
        ({"a": "b"}, None),
    ],
)
async def test_else_the_bodys_name_does(name: Any, label: str | None, tmp_path: Path) -> None:
    """Cut, or left out; a name is never the gateway's to refuse."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        status, job, _ = await post(gateway, data=json.dumps({"name": name}).encode())
        assert (status, job.get("label")) == (202, label)


async def test_it_stands_in_every_state(tmp_path: Path) -> None:
    """Events, the job, the list, the repeat; and what the gateway itself ends keeps it."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        _, job, _ = await post(gateway, data=BODY, Idempotency_Key="k")
        _, again, _ = await post(gateway, data=BODY, Idempotency_Key="k")
        _, stopped, _ = await post(gateway, data=BODY)
        url = f"{gateway.url}/jobs/{stopped['jobId']}"
        async with gateway.session.delete(url, headers=OPERATOR) as response:
            assert response.status == 204
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "label": "theirs"}))
        states = [again, *(event.data for event in await tail(gateway.session, job["events"]))]
        states += [event.data for event in await tail(gateway.session, stopped["events"])]
        async with gateway.session.get(f"{gateway.url}/jobs/{job['jobId']}") as response:
            states.append(await response.json())
        async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
            states += (await response.json())["value"]
        assert len(states) >= 8
        assert {state["label"] for state in states} == {"from the body"}


@pytest.mark.parametrize(
    ("label", "status"), [("my job", 202), (None, 202), ("", 400), ("x" * 129, 400), ("a\nb", 400), (7, 400)]
)
async def test_a_monitor_that_the_caller_holds(label: Any, status: int, tmp_path: Path) -> None:
    """The body of POST /jobs names it."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        wish = {"monitorUrl": f"{upstream.url}/monitor/x", "label": label}
        async with gateway.session.post(f"{gateway.url}/jobs", json=wish, headers=OPERATOR) as response:
            body = await response.json()
            assert response.status == status
        assert body.get("label") == (label if status == 202 else None)
        assert status == 202 or "label" in body["error"]["message"]


async def test_it_stays_out_of_logs_and_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the caller's own text, and may say what nobody else should read."""
    caplog.set_level(logging.DEBUG)
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        await post(gateway, Gateway_Label="confidential")
        await post(gateway, data=b'{"name":"confidential"}')
        async with gateway.session.get(f"{gateway.url}/metrics") as response:
            assert "confidential" not in await response.text()
    told = [str(vars(record)) for record in caplog.records if record.name.startswith("gateway")]
    assert any("copy_started" in line for line in told)
    assert not any("confidential" in line for line in told)
