"""Libraries of the field in Chromium, from another origin: Graph's SDKs through TLS, and those that follow streams."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs

import anyio
import pytest
from aiohttp import web
from playwright.async_api import Browser
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from tests.support import node
from tests.support.browser import tab
from tests.support.fake_receiver import going
from tests.support.fake_upstream import Answer, answering, faking
from tests.support.front_end import front_end
from tests.support.harness import COPY_BODY, Running, free_port, serving
from tests.support.proxies import Nginx
from tests.support.wire import Wire, wired

SCRIPTS = Path(node.__file__).parent / "npm"
BUNDLE = """
import { buildSync } from "esbuild";

const stdin = { contents: process.env.SOURCE, resolveDir: process.cwd() };
const { outputFiles } = buildSync({ stdin, bundle: true, write: false, logLevel: "error" });
process.stdout.write(outputFiles[0].text);
"""
ITEM = "01MOWKYVLARGEFOLDER1"
RESULT = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"


def bundled(name: str) -> str:
    """A script with the packages that it imports, as one file."""
    environment = {"SOURCE": (SCRIPTS / name).read_text()}
    ran = subprocess.run(node.running(BUNDLE), cwd=node.FOLDER, env=environment, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()


@pytest.mark.parametrize("sdk", ["@microsoft/microsoft-graph-client", "@microsoft/msgraph-sdk-core", "@pnp/graph"])
async def test_sdks_of_graph(sdk: str, tmp_path: Path, browser: Browser) -> None:
    """With their base URL and hosts changed alone, through nginx's TLS: the copy, its events to the end, its result."""
    port = free_port()
    with Nginx(tmp_path, port) as nginx:
        async with (
            front_end(bundled("sdks.js")) as origin,
            faking() as upstream,
            serving(upstream.url, tmp_path, port=port, public_url=nginx.url, cors_origins=origin),
            tab(browser, ignore_https_errors=True) as opened,
        ):
            upstream.on_poll = going(27.8, 60, resourceId=RESULT)
            upstream.on_item = answering(lambda: web.json_response({"id": RESULT, "name": "a copy"}))
            await opened.page.goto(origin)
            options = {"url": nginx.url, "item": ITEM, "body": COPY_BODY, "token": "a-token"}
            seen = await opened.page.evaluate("([name, options]) => copy(name, options)", [sdk, options])
    assert seen["percentages"] == [0, 27.8, 60, 100]
    assert (seen["state"]["status"], seen["state"]["resourceId"]) == ("completed", RESULT)
    assert seen["item"]["name"] == "a copy"
    asked = [(method, path) for method, path, *_ in upstream.asked if not path.startswith("/monitor/")]
    assert asked == [
        ("POST", f"/v1.0/me/drive/items/{ITEM}/copy"),
        ("GET", f"/v1.0/me/drive/items/{RESULT}"),
    ]
    tokens = {headers.get("Authorization") for _, path, headers, _ in upstream.asked if "monitor" not in path}
    assert tokens == {"Bearer a-token"}


class Asked(NamedTuple):
    """One request for a stream: its status, what its preflight asks for if it is one, how it says where it resumes."""

    status: int
    preflight: str | None
    resumes: str | None


class Follows(NamedTuple):
    """What a client does: the headers that its preflights ask for, how it resumes a stream that broke (it does not if
    there is no way), and what it does after the end of the stream when nobody closes it.
    """

    preflights: set[str]
    resumes: set[str]
    end: str


STOPS = "stops at 204"
AGAIN = "comes again after 204"  # so it must be closed at the terminal event
ONCE = "takes the first end for the last"  # also one that a drain makes, so it needs a loop until the terminal event
HEADER, QUERY = "Last-Event-ID", "lastEventId"
TABLE = {
    "EventSource": Follows(set(), {HEADER}, STOPS),
    "eventsource": Follows({"last-event-id"}, {HEADER}, STOPS),
    "eventsource-client": Follows({"last-event-id"}, {HEADER}, STOPS),
    "event-source-polyfill": Follows(set(), {QUERY}, STOPS),
    "reconnecting-eventsource": Follows(set(), {HEADER, QUERY}, AGAIN),
    "fetch-event-source": Follows({"last-event-id"}, {HEADER}, AGAIN),
    "fetch-event-source without onclose": Follows({"last-event-id"}, {HEADER}, ONCE),
    "sse.js": Follows({"last-event-id"}, {HEADER}, AGAIN),
    "sse.js without autoReconnect": Follows(set(), set(), ONCE),
    "@sentool/fetch-event-source": Follows({"content-type"}, set(), ONCE),
    "eventsource-parser": Follows(set(), set(), ONCE),
}
"""By the names in followers.js."""

PATHS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "/jobs/{job}/events": ([], ""),
    "/events?job=nobody&job={job}": ([("-,0", "gone")], "-,"),
}
"""The streams, with the events that come before the job's, and what stands before its numbers in their ids."""


async def test_followers(tmp_path: Path, browser: Browser) -> None:
    """On connections that break in the middle, of one job and of many: who resumes has each event once, in order."""
    async with (
        front_end(bundled("followers.js")) as origin,
        faking() as upstream,
        serving(upstream.url, tmp_path, cors_origins=origin) as gateway,
        tab(browser) as opened,
        AsyncExitStack() as stack,
    ):
        opened.expects("net::ERR_", "network error", "status 204")
        upstream.on_poll = at(10)
        asked = recorded(gateway)
        jobs = {(client, path): (await gateway.copy())["jobId"] for client in TABLE for path in PATHS}
        wires: list[Wire] = []
        streams: dict[str, dict[str, str]] = {}
        for (client, path), job in jobs.items():
            # Each at a port of its own, since a browser has six connections to one.
            wires.append(await stack.enter_async_context(wired(gateway.url)))
            streams[job] = {"client": client, "url": wires[-1].url + path.format(job=job)}
        resuming = [job for (client, _), job in jobs.items() if TABLE[client].resumes]
        await opened.page.goto(origin)
        await opened.page.evaluate("(streams) => follow(streams)", streams)
        await opened.page.wait_for_function("(wanted) => have(wanted)", arg=[10, list(streams)])
        for wire in wires:
            await wire.cut()
        upstream.on_poll = at(60)
        await opened.page.wait_for_function("(wanted) => have(wanted)", arg=[60, resuming])
        upstream.on_poll = going()
        told = await opened.page.evaluate("told")
        with anyio.fail_after(30):
            while not all(one["stopped"] or refusals(asked[job]) > 1 for job, one in told.items()):
                await anyio.sleep(0.02)
                told = await opened.page.evaluate("told")
    for path, (first, before) in PATHS.items():
        assert {
            client: judged(asked[jobs[client, path]], told[jobs[client, path]]["stopped"]) for client in TABLE
        } == TABLE
        for client in TABLE:
            job = jobs[client, path]
            names = ["progress", "progress", "progress", "completed"][: 4 if job in resuming else 2]
            ids = [before + str(number + 1) for number in range(len(names))]
            events = [*first, *zip(ids, names, strict=True)]
            assert [(event["id"], event["name"]) for event in told[job]["seen"]] == events, (client, path)


def judged(asked: Sequence[Asked], stopped: bool) -> Follows:
    return Follows(
        {one.preflight for one in asked if one.preflight is not None},
        {one.resumes for one in asked if one.resumes is not None},
        AGAIN if not stopped else STOPS if refusals(asked) else ONCE,
    )


def refusals(asked: Sequence[Asked]) -> int:
    """How often it came after the end."""
    return [one.status for one in asked].count(204)


def recorded(gateway: Running) -> dict[str, list[Asked]]:
    """The requests for streams that the gateway answers from now on, by the job's id."""
    asked: defaultdict[str, list[Asked]] = defaultdict(list)
    inner = gateway.gateway._app

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers, query = Headers(scope=scope), parse_qs(scope["query_string"].decode())
                preflight = headers.get("Access-Control-Request-Headers") if scope["method"] == "OPTIONS" else None
                resumes = HEADER if HEADER in headers else QUERY if QUERY in query else None
                job = query["job"][-1] if "job" in query else scope["path"].split("/")[2]
                asked[job].append(Asked(message["status"], preflight, resumes))
            await send(message)

        await inner(scope, receive, sent if scope["path"].endswith("/events") else send)

    gateway.gateway._app = app  # type: ignore[assignment]
    return asked


def at(percentage: float) -> Answer:
    """A monitor that stands there."""
    return answering(lambda: web.json_response({"status": "inProgress", "percentageComplete": percentage}))
