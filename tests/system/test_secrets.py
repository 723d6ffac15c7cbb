"""What must stay in: monitor URLs, tokens, job ids; and whom the gateway dials."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.simulator import SCENARIOS, Simulator, running
from gateway.telemetry.logs import JSONFormatter, TextFormatter
from gateway.telemetry.opentelemetry import OpenTelemetry
from tests.jobs.test_operations import Operations, hand_in
from tests.support.fake_receiver import ALLOWED, SECRET, ask, going, in_turn, receiving, register, saying, shown
from tests.support.fake_upstream import answering, faking, reset, serving_fake
from tests.support.harness import OPERATOR, TOKEN, serving, tail

pytestmark = pytest.mark.virtual_time

NEVER_END = {"stuck", "stuck-not-started", "succeeded", "retry-after-long"}


class Traced(msgspec.Struct):
    """A tracing that is on, and where its spans go."""

    tracing: OpenTelemetry
    spans: InMemorySpanExporter

    def text(self) -> str:
        """All of every span, after the end."""
        self.tracing.close()
        return "\n".join(span.to_json() for span in self.spans.get_finished_spans())


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100000")  # none is dropped
    spans = InMemorySpanExporter()
    return Traced(OpenTelemetry("1", spans), spans)


def lines(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, as it is written."""
    return "\n".join(form.format(record) for record in caplog.records for form in (JSONFormatter(), TextFormatter()))


async def test_no_secret_gets_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, traced: Traced) -> None:
    """Over every scenario: not in a log line, an answer, an event, an error text, a metric or a span."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "gateway")  # last: it is also what the fixture's handler lets through
    shown: list[str] = []
    job_ids: list[str] = []
    clock = asyncio.get_running_loop().time
    async with (
        running(Simulator(seconds=4, steps=4, clock=clock)) as upstream,
        serving(
            upstream.url, tmp_path, poll_patience=30, job_deadline=60, poll_max=5.0, tracing=traced.tracing
        ) as gateway,
    ):

        async def one(name: str) -> None:
            url = f"{gateway.url}/v1.0/me/drive/items/{name}/copy"
            async with gateway.session.post(url, json={"name": name}, headers=TOKEN) as response:
                shown.append(await response.text(errors="replace") + str(dict(response.headers)))
                if response.status != 202:
                    return
                job = await response.json()
            job_ids.append(job["jobId"])
            async with gateway.session.get(job["events"]) as response:
                shown.append(await response.text())

        async with anyio.create_task_group() as tasks:
            for name in SCENARIOS:
                if name != "post-hang-runs":
                    tasks.start_soon(one, name)
        for path in ("/metrics", "/jobs?limit=200", "/openapi.json"):
            async with gateway.session.get(gateway.url + path, headers=OPERATOR) as response:
                shown.append(await response.text())
        secrets = [operation.location for operation in upstream.operations.values()]
        assert len(secrets) > 100
        assert len(job_ids) > 90
        said, spans = lines(caplog), traced.text()
        assert spans.count("GET {monitor}") > 500
        for text in ("\n".join(shown), said, spans):
            assert "tempauth" not in text.lower()
            assert "/monitor/" not in text
            assert TOKEN["Authorization"].removeprefix("Bearer ") not in text
        assert not [job_id for job_id in job_ids if job_id in said + spans]
        assert "job_ended" in said
        assert "poll_failing" in said
        assert not any(asked.authorized for asked in upstream.polls())
        assert not upstream.asked("foreign")


def holders(secret: str) -> set[str]:
    """The classes of the gateway's objects, one by one, that hold a text with the secret."""
    encoded = secret.encode()

    def holds(value: object, depth: int) -> bool:
        if isinstance(value, str | bytes | bytearray):
            return secret in value if isinstance(value, str) else encoded in value
        if depth == 0:
            return False
        if isinstance(value, Mapping):
            return any(holds(one, depth - 1) for pair in value.items() for one in pair)
        return isinstance(value, list | tuple | set | frozenset | deque) and any(holds(one, depth - 1) for one in value)

    def values(one: object) -> list[object]:
        slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        return [*vars(one).values()] if hasattr(one, "__dict__") else [getattr(one, name, None) for name in slots]

    gc.collect()
    found = [one for one in gc.get_objects() if type(one).__module__.startswith("gateway.")]
    assert len(found) > 10
    return {type(one).__name__ for one in found if any(holds(value, 4) for value in values(one))}


async def test_no_token_of_an_operation_gets_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, traced: Traced
) -> None:
    """Refused, ended, replaced, redirected elsewhere, with answers that break off: not in a log line, an answer, an
    event, a callback, a metric, a span or the store; of the process, in the one place of its own job, until its end.
    """
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "gateway")  # last: it is also what the fixture's handler lets through
    tokens = [f"hidden-{number}-token" for number in range(5)]
    told: list[str] = []
    fake = Operations()
    async with (
        serving_fake(fake) as upstream,
        faking() as foreign,
        receiving() as receiver,
        serving(upstream.url, tmp_path, tracing=traced.tracing, secret_key=None, **ALLOWED) as gateway,
    ):
        fake.good = {f"Bearer {token}" for token in (tokens[0], tokens[2])}
        fake.told = [{"status": "inProgress"}]
        start = "/v1.0/me/onenote/notebooks/1/copyNotebook"

        async def begun(token: str) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {token}", "Gateway-Callback-Url": receiver.url, "Idempotency-Key": "k"}
            async with gateway.session.post(gateway.url + start, json={}, headers=headers) as response:
                told.append(await response.text() + str(dict(response.headers)))
                assert response.status == 202
                job: dict[str, Any] = await response.json()
                return job

        one = await begun(tokens[0])
        other = await begun(tokens[1])
        await anyio.sleep(10)
        assert holders(tokens[0]) == {"Token"}
        assert holders(tokens[1]) == set()
        for number, job in ((2, other), (3, other), (4, one)):
            status = await hand_in(gateway, job, tokens[number])
            assert status == 204
            await anyio.sleep(5)
        assert await hand_in(gateway, one, f"{tokens[2]} {tokens[3]}") == 400
        assert holders("hidden-") == set()
        fake.good.add(f"Bearer {tokens[4]}")
        for answer in (
            reset,
            answering(lambda: web.Response(status=302, headers={"Location": f"{foreign.url}/v1.0/elsewhere"})),
            answering(lambda: web.Response(status=500, text=f"you sent {tokens[4]}")),
            fake.status,
        ):
            fake.on_item = answer
            assert await hand_in(gateway, one, tokens[4]) == 204
            await anyio.sleep(20)
            assert holders("hidden-") == {"Token"}
        fake.told = [{"status": "failed", "error": {"code": "no", "message": "over"}}]
        told.extend(str(event.data) for event in await tail(gateway.session, one["events"]))
        assert holders("hidden-") == set()
        assert await hand_in(gateway, one, tokens[4]) == 409
        await anyio.sleep(10)
        for what in ("/jobs", "/metrics", f"/jobs/{one['jobId']}", f"/jobs/{other['jobId']}/callbacks"):
            async with gateway.session.get(gateway.url + what, headers=OPERATOR) as response:
                told.append(await response.text() + str(dict(response.headers)))
        assert b"hidden-" not in kept_in(tmp_path)
        assert len(foreign.asked) > 0
        assert "hidden-" not in str(foreign.asked)
        assert len(receiver.posts) > 0
        assert not [post for post in receiver.posts if "hidden-" in f"{post.headers}{post.body!r}"]
        assert set(fake.tokens()) == {f"Bearer {token}" for token in tokens}
    said, spans = lines(caplog), traced.text()
    assert said.count("token_required") >= 3
    for text in ("\n".join(told), said, spans):
        assert "hidden-" not in text


def kept_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("gateway.db*"))


@pytest.mark.parametrize("secret_key", [None, "a key of the operator"])
async def test_what_lies_in_the_store(secret_key: str | None, tmp_path: Path) -> None:
    """Monitor URLs are sealed when there is a key, and gone when the job has ended; tokens are never there."""
    async with faking() as upstream, serving(upstream.url, tmp_path, secret_key=secret_key) as gateway:
        headers = {**TOKEN, "Idempotency-Key": "k"}
        job = await gateway.copy("/v1.0/me/drive/items/1", headers=headers)
        content = kept_in(tmp_path)
        assert (b"/monitor/1" in content) == (secret_key is None)
        assert b"a-token-of-the-caller" not in content
        assert job["jobKey"].encode() not in content
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        await tail(gateway.session, job["events"])
    assert b"/monitor/1" not in kept_in(tmp_path)


@pytest.mark.parametrize("secret_key", [None, "a key of the operator"])
async def test_no_secret_of_a_callback_gets_out(
    secret_key: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, traced: Traced
) -> None:
    """Its secret and all of its URL but scheme and host: not in a log line, a list, an event, a metric, an error or a
    span, however the attempts go; sealed in the store when there is a key; and only its own receiver is shown anything.
    """
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "gateway")  # last: it is also what the fixture's handler lets through
    hidden = ("hidden-path", "hidden-query", SECRET, SECRET.removeprefix("whsec_"), "hidden-user")
    told: list[str] = []
    async with (
        faking() as upstream,
        receiving() as receiver,
        serving(upstream.url, tmp_path, secret_key=secret_key, tracing=traced.tracing, **ALLOWED) as gateway,
    ):
        receiver.answer = in_turn(
            saying(500), saying(302, Location="/hidden-path"), reset, saying(410), saying(429), saying(200)
        )
        upstream.on_poll = going(10, 20)
        secret_part = "/hidden-path?token=hidden-query"
        headers = {**TOKEN, "Gateway-Callback-Url": receiver.url + secret_part}
        job = await gateway.copy("/v1.0/me/drive/items/1", headers=headers)
        made_here = job["callback"]["secret"]
        own = {**headers, "Gateway-Callback-Url": f"{receiver.url}/own", "Gateway-Callback-Secret": SECRET}
        told.append(str(await gateway.copy("/v1.0/me/drive/items/1", headers=own)))
        for origin in (
            receiver.url,
            "http://127.0.0.1:9",
            "https://127.0.0.1:9",
            receiver.url.replace("http", "https"),
        ):
            await register(gateway, job, origin + secret_part, "progress", "completed")
        path = f"/jobs/{job['jobId']}/callbacks"
        for wrong in (
            {"url": f"https://10.0.0.1{secret_part}"},
            {"url": f"https://hidden-user:{SECRET}@127.0.0.1{secret_part}"},
            {"url": f"ftp://127.0.0.1{secret_part}", "secret": SECRET},
            {"url": receiver.url + secret_part, "events": ["no"], "secret": SECRET},
            {"url": receiver.url + secret_part, "secret": SECRET + "hidden-path"},
        ):
            status, body = await ask(gateway, "POST", path, job["jobKey"], json=wrong)
            assert status == 400
            told.append(str(body))
        while len(receiver.posts) < 6:
            told.append(str(await shown(gateway, job)))
            await anyio.sleep(1)
        for callback in await shown(gateway, job):
            status, body = await ask(gateway, "POST", f"{path}/{callback['id']}/retry", job["jobKey"])
            told.append(str(body))
        await anyio.sleep(20)
        for what in (f"/jobs/{job['jobId']}", f"/jobs/{job['jobId']}/events", "/jobs", "/metrics", "/healthz"):
            async with gateway.session.get(gateway.url + what, headers=OPERATOR) as response:
                told.append(await response.text() + str(dict(response.headers)))
        content = kept_in(tmp_path)
        for text in ("hidden-path", "hidden-query", SECRET, made_here):
            assert (text.encode() in content) == (secret_key is None)
        assert not [name for _, _, asked, body in upstream.asked for name in hidden if name in f"{asked}{body!r}"]
        assert not [post for post in receiver.posts if SECRET in f"{post.headers}{post.body!r}"]
    said, spans = lines(caplog), traced.text()
    assert spans.count("POST {callback}") >= 6
    assert "callback_failed" in said
    assert "callback_delivered" in said
    assert job["jobId"] not in said + spans
    for text in ("\n".join(told), said, spans):
        assert not [secret for secret in (*hidden, made_here) if secret in text]


async def test_an_allowed_name_on_a_private_address_is_not_dialled(tmp_path: Path) -> None:
    """The address that is really dialled decides: the listening socket sees nobody."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)  # noqa: FBT003 - its signature
        port = listening.getsockname()[1]
        hosts = f"localhost:{port},127.0.0.2:{port},*.example.com"
        async with (
            faking() as upstream,
            serving(upstream.url, tmp_path, monitor_hosts=hosts, poll_patience=5) as gateway,
        ):
            for host in (f"localhost:{port}", f"127.0.0.2:{port}"):
                async with gateway.session.post(
                    f"{gateway.url}/jobs", json={"monitorUrl": f"https://{host}/m"}, headers=OPERATOR
                ) as response:
                    job = await response.json()
                    assert response.status == 202
                last = (await tail(gateway.session, job["events"]))[-1].data
                assert last["error"]["code"] == "monitorUnreachable"
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_a_host_that_is_allowed_no_more_is_not_polled(tmp_path: Path) -> None:
    """The list is obeyed by every poll, also of jobs that were taken on under another."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, monitor_hosts="a.example.com") as gateway,
        gateway.session.post(
            f"{gateway.url}/jobs", json={"monitorUrl": "https://a.example.com/m"}, headers=OPERATOR
        ) as response,
    ):
        job = await response.json()
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, monitor_hosts="b.example.com", poll_patience=5) as gateway,
    ):
        last = (await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events"))[-1].data
        assert last["error"]["code"] == "monitorUnreachable"


async def test_no_cookie_of_one_monitor_reaches_another(tmp_path: Path) -> None:
    """Nothing is kept between polls but the connection."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = answering(
            lambda: web.json_response({"status": "inProgress"}, status=202, headers={"Set-Cookie": "a=b; Path=/"})
        )
        await gateway.copy("/v1.0/me/drive/items/1")
        await anyio.sleep(60)
        polls = [headers for _, path, headers, _ in upstream.asked if path.startswith("/monitor/")]
        assert len(polls) > 3
        assert not [headers for headers in polls if "Cookie" in headers or "Authorization" in headers]
