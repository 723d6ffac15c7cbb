"""What the gateway says while it works: named events with fields, in one form, and nothing that opens anything."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import json
import logging
import os
import pty
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from gateway.telemetry import logs
from gateway.telemetry.logs import EventLog, JSONFormatter, RateLimitFilter, TextFormatter, context, without_secrets
from tests.conftest import VIRTUAL_TIME
from tests.support.fake_upstream import answering, faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, serving, tail

PACKAGE = Path(__file__).parent.parent.parent / "gateway"
PAGE = (PACKAGE.parent / "deploy" / "WATCHING.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
RESERVED = {"time", "level", "logger", "event", "exception", "message", "request_id", "client_request_id", "trace_id"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a log in gateway/, with its level."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "log" and node.func.attr in LEVELS:
                yield node.func.attr, node


def test_each_event_is_named_and_described() -> None:
    """A name in plain sight, in snake_case, with fields and no words; the page lists them all, with their levels."""
    levels: dict[str, set[str]] = {}
    for level, call in calls():
        (event,) = call.args
        assert isinstance(event, ast.Constant), ast.unparse(call)
        assert isinstance(event.value, str)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event.value), ast.unparse(call)
        assert not RESERVED & {keyword.arg for keyword in call.keywords}, ast.unparse(call)
        levels.setdefault(event.value, set()).add("error" if level == "exception" else level)
    table = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| ([a-z, ]+) \| ", PAGE, re.MULTILINE)
    described: dict[str, set[str]] = {}
    for names, told in table:
        events, levels_ = re.findall(r"[a-z_]+", names), told.split(", ")
        for number, event in enumerate(events):
            described[event] = {levels_[number]} if len(events) == len(levels_) else set(levels_)
    assert described.pop("library") == {"any"}
    assert levels == described


LOOKED_UP = ("logThreads", "logProcesses", "logMultiprocessing")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What comes of all that is logged meanwhile."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    looked_up = {name: getattr(logging, name) for name in ("_srcfile", *LOOKED_UP)}
    stream = io.StringIO()
    logs.begin(stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before, level
    for name, value in looked_up.items():
        setattr(logging, name, value)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object(written: io.StringIO) -> None:
    """With the fields of what is being done; what has no value is left out."""
    token = context.set({"request_id": "r", "trace_id": None})
    log = EventLog("gateway.test")
    log.info("it_happened", job="ab", count=3, ms=1.5, nothing=None, many=("a", "b"), odd=Path("x"))
    context.reset(token)
    (line,) = lines(written)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "gateway.test",
        "event": "it_happened",
        "job": "ab",
        "count": 3,
        "ms": 1.5,
        "many": ["a", "b"],
        "odd": "x",
        "request_id": "r",
    }


def test_libraries_speak_in_the_same_form(written: io.StringIO) -> None:
    """uvicorn, asyncio, Python's warnings; from warnings on, an exception as one field, and URLs cut."""
    logging.getLogger("uvicorn.error").warning("Invalid %s", "request at https://u:p@h.example:8/m/1?tempauth=t#f")
    logging.getLogger("uvicorn.error").info("Started")
    loop = asyncio.new_event_loop()
    loop.call_exception_handler({"message": "never retrieved", "exception": ValueError("at http://h/secret")})
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    one, two, three = lines(written)
    assert (one["logger"], one["event"], one["level"]) == ("uvicorn.error", "library", "warning")
    assert one["message"] == "Invalid request at https://h.example:8/…"
    assert (two["logger"], two["level"], two["message"]) == ("asyncio", "error", "never retrieved")
    assert "ValueError: at http://h/…" in two["exception"]
    assert "Traceback" not in two["message"]
    assert three["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in three["message"]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("GET https://x.sharepoint.com/m/1?tempauth=abc 404", "GET https://x.sharepoint.com/… 404"),
        ("postgresql://user:pass@host:5432/db refused", "postgresql://host:5432/… refused"),
        ("path '/jobs/XeaTDC76yA_LocS2N93-w24t/events'", "path '/jobs/…/events'"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
        ("Authorization: Basic dTpw", "Authorization: Basic …"),
        ("Header format invalid: api-key: SECRETKEY123", "Header format invalid: api-key: …"),
        ("GET /events?job=XeaTDC76yA_LocS2N93-w24t&job=b", "GET /events?job=…&job=…"),
        ("secret whsec_AbC/+= here", "secret whsec_… here"),
        ("a=1&sig=xyz&b=2 tempauth=t", "a=1&sig=…&b=2 tempauth=…"),
        ("nothing here: 10.0.0.1:80 a/b", "nothing here: 10.0.0.1:80 a/b"),
    ],
)
def test_words_of_others_are_cut(text: str, cut: str) -> None:
    assert without_secrets(text) == cut


def test_many_of_one_warning_are_counted() -> None:
    """Sixty a minute; the next minute's first says how many were left out. What is no warning is always written."""
    sparing = RateLimitFilter()

    def let_through(event: str, at: float, level: int = logging.WARNING, *, fields: bool = True) -> Any:
        record = logging.LogRecord("gateway.test", level, "", 0, event, None, None)
        record.created = at
        if fields:
            record.fields = {"job": "ab"}
        return record if sparing.filter(record) else None

    assert sum(let_through("one", 0.5) is not None for _ in range(100)) == logs.A_MINUTE
    assert let_through("other", 1) is not None
    assert all(let_through("one", 2, logging.INFO) for _ in range(100))
    assert all(let_through("one", 2, logging.ERROR) for _ in range(100))
    assert all(let_through("copy_unknown", 2) for _ in range(100))
    first = let_through("one", 61)
    assert first is not None
    assert json.loads(JSONFormatter().format(first))["left_out"] == 40
    second = let_through("one", 62)
    assert second is not None
    assert "left_out" not in JSONFormatter().format(second)
    assert sum(let_through(f"words {n}", 0.5, fields=False) is not None for n in range(100)) == logs.A_MINUTE
    again = let_through("words that differ", 61, fields=False)
    assert again is not None
    assert json.loads(JSONFormatter().format(again)) | {"time": ""} == {
        "time": "",
        "level": "warning",
        "logger": "gateway.test",
        "event": "library",
        "message": "words that differ",
        "left_out": 40,
    }


def test_words_for_a_person() -> None:
    record = logging.LogRecord("gateway.test", logging.WARNING, "", 0, "it_happened", None, None)
    record.fields = {"job": "ab12", "seconds": 1.0, "reason": 'two "words"\n', "none": None, "trace_id": "0123456789"}
    said = TextFormatter().format(record)
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d warning it_happened job=ab12 seconds=1 reason="two \\"words\\"\\n" trace_id=01234567', said
    )


async def test_a_process_writes_lines(tmp_path: Path) -> None:
    """All that comes after the greeting is an object; a job is told from its start to its end by one short reference,
    under the request that started it.
    """
    async with faking() as upstream, Process(upstream.url, tmp_path) as gateway:
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": "1"}))
        async with aiohttp.ClientSession() as session:
            headers = {**TOKEN, "client-request-id": "mine"}
            async with session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=headers) as response:
                job = await response.json()
            await tail(session, job["events"])
        gateway.signal(signal.SIGTERM)
        assert await gateway.exited() == 0
        said = gateway.output().splitlines()
    told = {line["event"]: line for line in map(json.loads, (line for line in said if line.startswith("{")))}
    words = [number for number, line in enumerate(said) if not line.startswith("{")]
    assert words == list(range(len(words)))
    reference = hashlib.sha256(job["jobId"].encode()).hexdigest()[:8]
    started, ended = told["copy_started"], told["job_ended"]
    assert started["job"] == ended["job"] == reference
    assert started["request_id"] == ended["request_id"]
    assert started["client_request_id"] == "mine"
    assert (ended["status"], ended["origin"], ended["level"]) == ("completed", "upstream", "info")
    assert {"started", "request", "drain_begun", "drained"} <= told.keys()
    assert told["drain_begun"]["streams"] == 0
    assert job["jobId"] not in gateway.output()


async def test_a_terminal_shows_words(tmp_path: Path) -> None:
    """On a pseudo-terminal, as on a real one."""
    ours, theirs = pty.openpty()
    environment = {"GATEWAY_PORT": "0", "GATEWAY_STORE_URL": f"sqlite:///{tmp_path}/g.db", "GATEWAY_UNKNOWN": "x"}
    async with await anyio.open_process(
        [sys.executable, "-m", "gateway", "serve"], env={**os.environ, **environment}, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = ""
        while "started" not in said:
            said += (await anyio.to_thread.run_sync(os.read, ours, 4096)).decode()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    os.close(ours)
    assert re.search(r"\d\d:\d\d:\d\d info    started version=", said)
    assert "{" not in said


@pytest.mark.parametrize(
    ("answer", "status", "event", "code"),
    [
        ({"status": 409, "body": "{}"}, 409, "copy_refused", None),
        ({"status": 202}, 502, "copy_unknown", "invalidUpstreamResponse"),
        (
            {"status": 202, "headers": {"Location": "https://elsewhere.example/m"}},
            502,
            "copy_unknown",
            "monitorHostNotAllowed",
        ),
        ({"status": 202, "headers": {"Location": "/monitor/1"}}, 202, "copy_started", None),
    ],
)
async def test_request_ids_match_upstreams(
    answer: dict[str, Any], status: int, event: str, code: str | None, tmp_path: Path, written: io.StringIO
) -> None:
    """Once it has answered, the caller has its ids, in the headers and in the error, and the log has both."""
    ids = {"request-id": "of-upstream", "client-request-id": "of-the-client"}
    answer = {**answer, "headers": {**answer.get("headers", {}), **ids}}
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(**answer))
        async with gateway.session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response:
            assert response.status == status
            assert {name: response.headers[name] for name in ids} == ids
            body = await response.json(content_type=None)
        if code is not None:
            assert body["error"]["code"] == code
            assert {name: body["error"]["innerError"][name] for name in ids} == ids
    told = {line["event"]: line for line in lines(written)}
    for line in (told[event], told["request"]):
        assert line["upstream_request_id"] == "of-upstream"
        assert re.fullmatch(r"[0-9a-f-]{36}", line["request_id"])
    assert told["request"]["route"] == "/v1.0/{item}/copy"
    assert told[event].get("code") == code


async def test_ids_that_are_none_are_not_passed_on(tmp_path: Path, written: io.StringIO) -> None:
    """Upstream's, when they are no plain words."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=200, headers={"request-id": "x" * 500}))
        async with gateway.session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response:
            assert len((await response.json())["error"]["innerError"]["request-id"]) == 36
    assert "x" * 500 not in written.getvalue()


@pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME], ids=["virtual"])
async def test_a_monitor_in_trouble_is_told_of_ever_more_rarely(tmp_path: Path, written: io.StringIO) -> None:
    """The first time, the second, the fourth, the eighth; and when it is over."""
    troubles = [500] * 9 + [429] * 7

    async def troubled(_request: web.Request) -> web.StreamResponse:
        if troubles:
            return web.Response(status=troubles.pop(0), headers={"Retry-After": "3"})
        return web.json_response({"status": "completed", "resourceId": "1"})

    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_poll = troubled
        await tail(gateway.session, (await gateway.copy())["events"])
    told = [line for line in lines(written) if line["event"].startswith("poll_")]
    assert [(line["event"], line["troubles"]) for line in told] == [
        *(("poll_failing", count) for count in (1, 2, 4, 8)),
        ("poll_throttled", 16),
        ("poll_recovered", 16),
    ]
    assert told[0]["reason"] == "HTTP 500 without a usable status"
    assert told[4]["retry_after"] == 3
    assert {line["host"] for line in told} == {"other"}


@pytest.mark.parametrize("level", ["debug", "INFO", "warning"])
async def test_the_least_level(level: str, tmp_path: Path) -> None:
    """Probes and scrapes are for debugging, other requests for information."""
    async with faking() as upstream:
        async with (
            await Process(upstream.url, tmp_path, log_level=level).start() as gateway,
            aiohttp.ClientSession() as session,
        ):
            for path in ("/healthz", "/readyz", "/metrics", "/page/card.js", "/jobs/none"):
                async with session.get(gateway.url + path) as response:
                    await response.read()
        lines = [json.loads(line) for line in gateway.output().splitlines() if line.startswith("{")]
    seen = {line["route"]: line["level"] for line in lines if line["event"] == "request"}
    quiet = dict.fromkeys(("/healthz", "/readyz", "/metrics", "/page/{part}"), "debug")
    assert seen == {"debug": quiet | {"/jobs/{job}": "info"}, "INFO": {"/jobs/{job}": "info"}, "warning": {}}[level]
