"""What an HTTP action of Azure Logic Apps makes of the answers, by the rules that Microsoft's documents tell."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
import pytest
from aiohttp import web

from tests.support.fake_upstream import FakeUpstream, answering, faking, reset
from tests.support.harness import COPY_BODY, FOLDER, OPERATOR, TOKEN, Running, serving

pytestmark = pytest.mark.virtual_time

EVERY = 20
"""Seconds between two polls where no `Retry-After` tells of others."""
RETRIES = 4
"""How often a request is sent again by default, after 408, 429 and 5xx."""
GATEWAY = "https://gateway.example.com"
ITEM = "/v1.0/me/drive/items/01A"
JSON = "application/json"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Action:
    """An HTTP action, its Asynchronous Pattern on and its retry policy the default one.

    A 202 with a `location`, which must be an absolute URL, is polled there by GET: after its `retry-after` in seconds,
    else every 20 s, until an answer is no such 202. That one is the action's output. The documents do not tell whether
    polls have the headers of the action; here they have.
    """

    def __init__(self, gateway: Running, headers: dict[str, str]) -> None:
        self._gateway = gateway
        self._headers = headers
        self.answers: list[Answer] = []

    async def run(self, method: str, path: str, body: Any) -> Answer:
        answer = await self._send(method, path, json=body)
        while answer.status == 202 and "Location" in answer.headers:
            await anyio.sleep(int(answer.headers.get("Retry-After", EVERY)))
            location = urlsplit(answer.headers["Location"])
            assert f"{location.scheme}://{location.netloc}" == GATEWAY
            answer = await self._send("GET", location.path)
        return answer

    async def _send(self, method: str, path: str, **options: Any) -> Answer:
        url = self._gateway.url + path
        for attempt in range(RETRIES + 1):
            if attempt:
                await anyio.sleep(min(7.5 * 2**attempt, 45))
            async with self._gateway.session.request(method, url, headers=self._headers, **options) as response:
                body = await response.json() if response.content_type == JSON else await response.text()
                answer = Answer(response.status, dict(response.headers), body)
            self.answers.append(answer)
            if answer.status not in (408, 429) and answer.status < 500:
                break
        return self.answers[-1]


class Scene(NamedTuple):
    gateway: Running
    upstream: FakeUpstream
    folder: Path


Happens = Callable[[Scene], Awaitable[None]]


def monitor(status: str, **more: Any) -> Happens:
    """The copy is there, as its monitor tells."""
    return polled(200, {"status": status, **more})


def polled(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Happens:
    """Polls are answered so from now on."""

    async def happens(scene: Scene) -> None:
        scene.upstream.on_poll = answering(lambda: web.json_response(body, status=status, headers=headers))

    return happens


def started(status: int, body: Any = None) -> Happens:
    """Starts are answered so from now on."""

    async def happens(scene: Scene) -> None:
        scene.upstream.on_copy = answering(lambda: web.json_response(body, status=status))

    return happens


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code}}


async def accepted(scene: Scene) -> None:
    scene.upstream.on_copy = scene.upstream.accept


async def broken(scene: Scene) -> None:
    scene.upstream.on_copy = reset


async def before(scene: Scene) -> None:
    """The same copy was started by a request whose answer was lost."""
    await scene.gateway.copy(headers=HEADERS)


async def stopped(scene: Scene) -> None:
    async with scene.gateway.session.get(f"{scene.gateway.url}/jobs", headers=OPERATOR) as response:
        (job,) = (await response.json())["value"]
    async with scene.gateway.session.delete(f"{scene.gateway.url}/jobs/{job['jobId']}", headers=OPERATOR) as response:
        assert response.status == 204


def renamed(old: str, new: str) -> Happens:
    """The store has, or lacks, a table."""

    async def happens(scene: Scene) -> None:
        with closing(sqlite3.connect(scene.folder / "gateway.db", isolation_level=None)) as other:
            other.execute(f"ALTER TABLE {old} RENAME TO {new}")

    return happens


async def second(scene: Scene) -> None:
    """Another copy runs."""
    await scene.gateway.copy()


HEADERS = {**TOKEN, "Idempotency-Key": "run-1"}
COPY = ("POST", f"{FOLDER}/copy", COPY_BODY)
MOVE = ("PATCH", ITEM, {"parentReference": {"id": "F"}})
WATCH = ("POST", "/jobs", None)
GOING = (0, monitor("inProgress", percentageComplete=10))
DONE_AT_ONCE, DONE = (0, monitor("completed", resourceId="01R")), (5, monitor("completed", resourceId="01R"))
COMPLETED = {"status": "completed", "percentageComplete": 100.0}
POLLED = "(202 )+200"


class Row(NamedTuple):
    """`answers` are the statuses that the action gets, as a pattern; `output` is the last one's body or a part of it,
    or its error's code; `happens` is what happens so many seconds after the action begins; `starts` counts the
    requests for a start that upstream gets.
    """

    answers: str
    output: dict[str, Any] | str
    happens: tuple[tuple[float, Happens], ...] = (GOING, DONE)
    request: tuple[str, str, Any] = COPY
    starts: int = 1
    settings: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


ROWS = {
    "the copy completes": Row(POLLED, COMPLETED),
    "the copy has completed before the first poll": Row("202 200", COMPLETED, (DONE_AT_ONCE,)),
    "the copy fails": Row(POLLED, {"status": "failed"}, (GOING, (5, monitor("failed")))),
    "the copy is cancelled": Row(POLLED, {"status": "cancelled"}, (GOING, (5, monitor("cancelled")))),
    "some of it is left out": Row(
        POLLED, {"status": "partiallySucceeded"}, (GOING, (5, monitor("partiallySucceeded")))
    ),
    "upstream throttles the polls": Row(
        POLLED, COMPLETED, (GOING, (2, polled(429, headers={"Retry-After": "10"})), DONE)
    ),
    "upstream does not answer for a while": Row(POLLED, COMPLETED, (GOING, (2, polled(500)), DONE)),
    "the monitor is lost": Row(POLLED, "monitorExpired", (GOING, (2, polled(404, error("itemNotFound"))))),
    "the monitor refuses without a token": Row(
        POLLED, "monitorUnauthorized", (GOING, (2, polled(401, error("unauthenticated"))))
    ),
    "the monitor never answers": Row(POLLED, "monitorUnreachable", ((0, polled(500)),), settings={"poll_patience": 20}),
    "the copy takes too long": Row(POLLED, "deadlineExceeded", (GOING,), settings={"job_deadline": 20}),
    "somebody stops the watch": Row(POLLED, "watchStopped", (GOING, (5, stopped))),
    "the store is away at a poll": Row(
        "(202 )+(503 )+(202 )*200",
        COMPLETED,
        (GOING, (2.5, renamed("jobs", "jobs_away")), (8, renamed("jobs_away", "jobs")), DONE),
    ),
    "the job is forgotten between two polls": Row(
        "(202 )+404", "jobNotFound", (GOING, (5.1, monitor("completed"))), settings={"retention": 0.1}
    ),
    "upstream refuses": Row("403", "accessDenied", ((0, started(403, error("accessDenied"))),)),
    "upstream throttles the start": Row(
        "429 " + POLLED, COMPLETED, ((0, started(429)), (5, accepted), GOING, DONE), starts=2
    ),
    "upstream is away at the start": Row(
        "503 " + POLLED, COMPLETED, ((0, started(503)), (5, accepted), GOING, DONE), starts=2
    ),
    "upstream fails at the start": Row("(502 ?){5}", "outcomeUnknown", ((0, started(500)),)),
    "the start's answer is lost": Row("(502 ?){5}", "outcomeUnknown", ((0, broken),)),
    "upstream's 202 names no monitor": Row("(502 ?){5}", "outcomeUnknown", ((0, started(202)),)),
    "too many copies run": Row(
        "503 " + POLLED, COMPLETED, ((0, second), GOING, (5, monitor("completed"))), starts=2, settings={"max_jobs": 1}
    ),
    "the copy was started before and runs": Row(POLLED, COMPLETED, ((0, before), GOING, DONE)),
    "the copy was started before and has ended": Row("200", "watchStopped", ((0, before), (0, stopped))),
    "the body is none": Row("400", "invalidRequest", (), ("POST", f"{FOLDER}/copy", "text"), starts=0),
    "a move becomes a job": Row(POLLED, COMPLETED, request=MOVE),
    "a move is done at once": Row("200", {"id": "01A"}, ((0, started(200, {"id": "01A"})),), MOVE),
    "a move is accepted without a monitor": Row("(502 ?){5}", "outcomeUnknown", ((0, started(202)),), MOVE),
    "an archiving becomes a job": Row(POLLED, COMPLETED, request=("POST", f"{ITEM}/archive", {})),
    "a monitor is watched": Row(POLLED, COMPLETED, request=WATCH, starts=0),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
async def test_an_action(row: Row, tmp_path: Path) -> None:
    """Its output is the end of what it started, or the refusal; no start is sent again that may be running."""
    given = {"public_url": GATEWAY, "poll_max": 2, **row.settings}
    async with faking() as upstream, serving(upstream.url, tmp_path, **given) as gateway:
        scene = Scene(gateway, upstream, tmp_path)
        method, path, body = row.request
        headers = HEADERS
        if row.request is WATCH:
            headers, body = OPERATOR, {"monitorUrl": f"{upstream.url}/monitor/1"}
        action = Action(gateway, headers)
        for at, happens in row.happens:
            if not at:
                await happens(scene)
        async with anyio.create_task_group() as tasks:
            for at, happens in row.happens:
                if at:
                    tasks.start_soon(later, at, happens, scene)
            output = await action.run(method, path, body)
            tasks.cancel_scope.cancel()
    assert re.fullmatch(row.answers, " ".join(str(one.status) for one in action.answers))
    if isinstance(row.output, str):
        assert output.body["error"]["code"] == row.output
    else:
        assert row.output.items() <= output.body.items()
    assert upstream.copies() == row.starts


async def later(seconds: float, happens: Happens, scene: Scene) -> None:
    await anyio.sleep(seconds)
    await happens(scene)
