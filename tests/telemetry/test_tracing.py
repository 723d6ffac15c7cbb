"""Traces: one a copy, from its request through polls to callbacks; and nothing at all of it while it is off."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from multidict import CIMultiDict

from gateway.telemetry.tracing import OFF
from tests.support.collector import Seen, collecting
from tests.support.fake_receiver import ALLOWED, going, in_turn, receiving, saying
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, serving, tail

CALLER = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACEPARENT = f"00-{CALLER[0]}-{CALLER[1]}-01"
HIDDEN = ("/monitor/", "hidden-path", "hidden-query", "a-token-of-the-caller", "whsec_")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def headers_of(upstream: FakeUpstream, method: str) -> list[CIMultiDict[str]]:
    return [headers for asked, path, headers, _ in upstream.asked if asked == method and "favicon" not in path]


async def started(gateway: Process, **headers: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers={**TOKEN, **headers}) as response,
    ):
        assert response.status == 202
        job: dict[str, Any] = await response.json()
        return job


async def test_all_of_a_copy_is_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's: its request, the copy upstream, each poll, each attempt of the callback, also after the gateway was
    killed and started again; whoever is called gets the traceparent of the span that stands for it. No secret is in it.
    """
    async with collecting() as collector, faking() as upstream, receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        upstream.on_poll = upstream.progress
        receiver.answer = in_turn(saying(503, Retry_After="1"), saying(204))
        gateway = Process(upstream.url, tmp_path, **ALLOWED)
        async with gateway:
            url = f"{receiver.url}/hidden-path?t=hidden-query"
            job = await started(
                gateway, traceparent=TRACEPARENT, tracestate="congo=t61", baggage="a=b", **{"Gateway-Callback-Url": url}
            )
            with anyio.fail_after(20):
                await collector.until(lambda spans: sum(span.name == "GET {monitor}" for span in spans) >= 2)
            gateway.kill()
            before = len(collector.spans)
            await gateway.start()
            with anyio.fail_after(20):
                await collector.until(lambda spans: len(spans) >= before + 2)
            upstream.on_poll = going(50)
            async with aiohttp.ClientSession() as session:
                await tail(session, job["events"])
            with anyio.fail_after(20):
                await receiver.received(2)
            gateway.signal(signal.SIGTERM)
            assert await gateway.exited() == 0
        spans = collector.spans
        logged = gateway.output()
    assert {span.trace_id for span in spans} == {CALLER[0]}
    assert {span.service for span in spans} == {"copy-gateway"}
    (served,) = of(spans, "POST /v1.0/{item}/copy")
    assert (served.kind, served.parent_id) == ("SERVER", CALLER[1])
    assert served.attributes["http.response.status_code"] == 202
    assert served.attributes["http.route"] == "/v1.0/{item}/copy"
    (copied,) = of(spans, "POST {item}/copy")
    polls, attempts = of(spans, "GET {monitor}"), of(spans, "POST {callback}")
    for span in (copied, *polls, *attempts):
        assert (span.kind, span.parent_id) == ("CLIENT", served.span_id)
    (post,) = headers_of(upstream, "POST")
    assert (post["traceparent"], post["tracestate"]) == (copied.traceparent, "congo=t61")
    assert {headers["traceparent"] for headers in headers_of(upstream, "GET")} >= {span.traceparent for span in polls}
    assert [sent.headers["traceparent"] for sent in receiver.posts] == [span.traceparent for span in attempts]
    assert not [headers for _, _, headers, _ in upstream.asked if "baggage" in headers]
    assert not [sent for sent in receiver.posts if "baggage" in sent.headers]
    assert [span.failed for span in attempts] == [True, False]
    assert [span.attributes["gateway.attempt"] for span in attempts] == [1, 2]
    assert attempts[0].attributes["server.address"] == "127.0.0.1"
    assert {span.attributes["gateway.outcome"] for span in polls} == {"answered"}
    assert len({span.attributes["gateway.job"] for span in (served, *polls, *attempts)}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    everything = "\n".join(span.text for span in spans)
    assert not [secret for secret in (*HIDDEN, job["jobId"], job["jobKey"]) if secret in everything]
    assert '"event":"tracing_on"' in logged
    assert CALLER[0] in logged


def of(spans: list[Seen], name: str) -> list[Seen]:
    return [span for span in spans if span.name == name]


async def test_a_caller_that_names_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gets one of the gateway's; one that asked for no sampling gets no spans, and its wish goes on upstream."""
    async with collecting() as collector, faking() as upstream:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
        upstream.on_poll = going(50)
        async with Process(upstream.url, tmp_path) as gateway, aiohttp.ClientSession() as session:
            await tail(session, (await started(gateway, traceparent=f"00-{CALLER[0]}-{CALLER[1]}-00"))["events"])
            await tail(session, (await started(gateway, traceparent="rubbish", tracestate="a=b"))["events"])
            gateway.signal(signal.SIGTERM)
            assert await gateway.exited() == 0
    assert {span.service for span in collector.spans} == {"ours"}
    (trace,) = {span.trace_id for span in collector.spans}
    assert trace != CALLER[0]
    (root,) = [span for span in collector.spans if not span.parent_id]
    assert root.name == "POST /v1.0/{item}/copy"
    first, second = headers_of(upstream, "POST")
    assert re.fullmatch(rf"00-{CALLER[0]}-[0-9a-f]{{16}}-00", first["traceparent"])
    assert re.fullmatch(rf"00-{trace}-[0-9a-f]{{16}}-0[13]", second["traceparent"])
    assert "tracestate" not in second


async def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that takes a connection and says nothing: copies go on, and the end comes in time."""

    async def hang(_request: web.Request) -> web.StreamResponse:
        await anyio.sleep(60)
        return web.Response()

    async with faking() as upstream, faking() as silent:
        silent.on_copy = hang
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", silent.url)
        upstream.on_poll = going(50)
        async with Process(upstream.url, tmp_path) as gateway, aiohttp.ClientSession() as session:
            await tail(session, (await started(gateway))["events"])
            begun = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert await gateway.exited() == 0
            assert time.monotonic() - begun < 6
            assert silent.asked


async def test_off_it_touches_nothing(tmp_path: Path) -> None:
    """The caller's place in a trace goes upstream unchanged, and no other place is made up."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = going(50)
        headers = {**TOKEN, "traceparent": TRACEPARENT, "tracestate": "congo=t61"}
        await tail(gateway.session, (await gateway.copy(headers=headers))["events"])
        (post,) = headers_of(upstream, "POST")
        assert (post["traceparent"], post["tracestate"]) == (TRACEPARENT, "congo=t61")
        assert not [headers for headers in headers_of(upstream, "GET") if "traceparent" in headers]
    headers = {"traceparent": TRACEPARENT}
    assert OFF.serving("POST", headers).along(headers) is headers


def python(code: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_off_it_is_not_imported() -> None:
    """Whatever is installed."""
    code = (
        "import sys, os; from gateway.server import server; from gateway.telemetry import setup as tracing;"
        "tracing.begin(os.environ, '1');"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf', 'requests'))])"
    )
    assert python(code) == "[]"
    assert python(code, OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "[]"
    assert python(code, OTEL_TRACES_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "[]"


@pytest.mark.parametrize(
    ("environment", "before", "reason"),
    [
        ({}, "sys.modules['opentelemetry'] = None;", "pip install 'copy-gateway[otel]'"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "", "OTEL_TRACES_EXPORTER is jaeger"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "", "ValueError"),
    ],
)
def test_what_cannot_be_is_said(environment: dict[str, str], before: str, reason: str) -> None:
    """In one line at the start, which goes on."""
    code = (
        f"import sys, os; {before} from gateway.telemetry import logs, tracing as spans, setup as tracing;"
        "logs.begin(sys.stdout);"
        "assert tracing.begin(os.environ, '1') is spans.OFF"
    )
    said = python(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **environment)
    assert '"event":"tracing_off"' in said
    assert reason in said
