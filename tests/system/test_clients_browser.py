"""Libraries of the field in Chromium, from another origin: Graph's SDKs through TLS, and those that follow streams."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
from aiohttp import web
from playwright.async_api import Browser
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from tests.support import node
from tests.support.browser import front_end, tab
from tests.support.fake_receiver import going
from tests.support.fake_upstream import Answer, answering, faking
from tests.support.harness import COPY_BODY, Running, free_port, serving
from tests.support.nginx import Nginx
from tests.support.wire import wired

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


@pytest.mark.parametrize("sdk", ["@microsoft/microsoft-graph-client", "@pnp/graph"])
async def test_sdks_of_graph(sdk: str, tmp_path: Path, browser: Browser) -> None:
    """With their base URL and hosts changed alone, through nginx's TLS: the copy, its events to the end, its result."""
    port = free_port()
    with Nginx(tmp_path, (port, port)) as nginx:
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


async def test_followers(tmp_path: Path, browser: Browser) -> None:
    """All on connections that break in the middle: who resumes has each event once and in order."""
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
        jobs = {name: (await gateway.copy())["jobId"] for name in TABLE}
        wires = {
            name: await stack.enter_async_context(wired(gateway.url)) for name in TABLE
        }  # a browser has six for one
        urls = {name: f"{wires[name].url}/jobs/{jobs[name]}/events" for name in TABLE}
        await opened.page.goto(origin)
        await opened.page.evaluate("(urls) => follow(urls)", urls)
        await opened.page.wait_for_function("([at, names]) => have([at, names])", arg=[10, list(TABLE)])
        for wire in wires.values():
            await wire.cut()
        upstream.on_poll = at(60)
        resuming = [name for name in TABLE if TABLE[name].resumes]
        await opened.page.wait_for_function("([at, names]) => have([at, names])", arg=[60, resuming])
        upstream.on_poll = going()
        told = await opened.page.evaluate("told")
        with anyio.fail_after(30):
            while not all(one["stopped"] or refusals(asked[jobs[name]]) > 1 for name, one in told.items()):
                await anyio.sleep(0.02)
                told = await opened.page.evaluate("told")
    assert {name: judged(asked[jobs[name]], told[name]["stopped"]) for name in TABLE} == TABLE
    for name, one in told.items():
        names = ["progress", "progress", "progress", "completed"][: 4 if name in resuming else 2]
        assert [event["name"] for event in one["seen"]] == names, name
        assert [event["id"] for event in one["seen"]] == [str(number + 1) for number in range(len(names))], name


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
                headers, job = Headers(scope=scope), scope["path"].split("/")[2]
                preflight = headers.get("Access-Control-Request-Headers") if scope["method"] == "OPTIONS" else None
                query = QUERY if scope["query_string"].startswith(QUERY.encode()) else None
                asked[job].append(Asked(message["status"], preflight, HEADER if HEADER in headers else query))
            await send(message)

        await inner(scope, receive, sent if scope["path"].endswith("/events") else send)

    gateway.gateway._app = app  # type: ignore[assignment]
    return asked


def at(percentage: float) -> Answer:
    """A monitor that stands there."""
    return answering(lambda: web.json_response({"status": "inProgress", "percentageComplete": percentage}))
