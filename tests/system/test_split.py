"""deploy/proxies/split-*: the whole Graph behind one address, by clients that know nothing of a gateway."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from gateway.graph.operations import OPERATIONS
from tests.support.graph_clients import CLIENTS
from tests.support.harness import COPY_BODY, TOKEN
from tests.support.split import PROXIES, Split, splitting

SECONDS = 60
REPORT = "01MOWKYVREPORT"


class Splits:
    """One of each kind for all tests of the module, started when it is first asked for."""

    def __init__(self, folder: Path, parts: AsyncExitStack) -> None:
        self._folder = folder
        self._parts = parts
        self._open: dict[str, Split] = {}

    async def of(self, kind: str) -> Split:
        if kind not in self._open:
            self._open[kind] = await self._parts.enter_async_context(splitting(kind, self._folder))
        return self._open[kind]


@pytest.fixture(scope="module")
async def splits(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Splits]:
    async with AsyncExitStack() as parts:
        yield Splits(tmp_path_factory.mktemp("splits"), parts)


# Clients


EVERYWHERE = ("rclone", "microsoft-graph-client")
LARGE = ("m365",)
"""It needs 400 packages, and what it asks for goes where the requests below go."""


@pytest.mark.parametrize(
    ("kind", "client"),
    [
        pytest.param(kind, client, marks=[pytest.mark.thorough] if client in LARGE else [])
        for kind in PROXIES
        for client in (CLIENTS if kind == "nginx" else EVERYWHERE)
    ],
)
async def test_a_client_of_the_whole_graph(splits: Splits, kind: str, client: str) -> None:
    """Its copy is the gateway's, and what it does around it goes to Graph."""
    make, changes, moves = CLIENTS[client]
    name = f"{client.replace('/', '-')} by {kind}"
    split = await splits.of(kind)
    split.make_files()
    before = len(split.upstream.requests)
    command, own = make(split, name)
    environment = {**os.environ, **split.environment(), **own}
    with anyio.fail_after(SECONDS):
        ended = await anyio.run_process(command, env=environment, check=False)
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr[-2000:])
    asked = list(split.upstream.requests)[before:]
    starts = [one for one in asked if one.kind == "copy"]
    assert [(split.is_direct(one), one.status, name in one.body.decode()) for one in starts] == [(False, 202, True)]
    assert [split.is_direct(one) for one in asked if one.kind == "update" and one.status == 200] == [True] * changes
    assert [split.is_direct(one) for one in asked if one.kind == "move" and one.status == 200] == [False] * moves
    reads = [one for one in asked if one.method == "GET" and one.kind in ("item", "around")]
    assert reads
    assert all(split.is_direct(one) and one.authorized for one in reads)
    assert not split.upstream.refused


# Which side a request goes to


DRIVES = [
    "me/drive",
    "me/drives/b!x,y",
    "drives/b%21x",
    "users/a@b.com/drive",
    "groups/1/drives/2",
    "sites/a,b,c/drive",
]
ITEMS = ["root", "items/01A!9", "items/odd,50%25!id", "root:/a/b%20c%2520d:", "items/01A:/%C3%A4,!:"]
MOVE = {"parentReference": {"id": "01MOWKYVDOCUMENTS"}}
LONG = {"description": "x" * 100_000}
STARTS = [
    ("POST", f"/{version}/{drive}/{item}/{action}", COPY_BODY)
    for drive in DRIVES
    for item in ITEMS
    for name in (one.action for one in OPERATIONS if one.method == "POST" and not one.asks_for_token)
    for version, action in (
        ("v1.0", name),
        ("beta", f"microsoft.graph.{name}/"),
        ("v1.0", f"{name}?@microsoft.graph.conflictBehavior=rename&x=%2F%21"),
    )
]
MOVES = [
    ("PATCH", f"/{version}/{drive}/{item}{end}", MOVE)
    for drive in DRIVES
    for item in (*ITEMS, "root:/a.docx")
    for version, end in (("v1.0", ""), ("beta", "/"), ("v1.0", "?x=%2F"))
]
REST: list[tuple[str, str, Any]] = [
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", {"name": "report.docx"}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", {"description": 'a "parentReference" in words'}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", LONG),
    (
        "PATCH",
        "/v1.0/me/drive/root:/report.docx:",
        {"fileSystemInfo": {"lastModifiedDateTime": "2026-02-03T04:05:06Z"}},
    ),
    ("PATCH", "/v1.0/me/messages/1", {"parentReference": {}}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}/listItem/fields", {"Title": "x"}),
    ("GET", f"/v1.0/me/drive/items/{REPORT}", None),
    ("GET", "/v1.0/me/drive/root:/copy", None),
    ("GET", "/beta/me/drive/root/children?$top=1", None),
    ("GET", "/V1.0/me/drive", None),
    ("GET", "/v1.0/drives/b!x%2Fy/root:/a//b%20c!,%C3%A4:/children", None),
    ("GET", "/v1.0/sites/contoso.sharepoint.com:/sites/a:/drive", None),
    ("GET", "/v1.0/$metadata", None),
    ("GET", "/v1.0", None),
    ("PUT", "/v1.0/me/drive/root:/new.txt:/content", {"x": "x" * 300_000}),
    ("DELETE", "/v1.0/me/drive/items/1", None),
    ("POST", "/v1.0/$batch", {"requests": []}),
    ("POST", "/v1.0/me/messages/1/copy", {}),
    ("POST", "/v1.0/me/mailFolders/1/copy", {}),
    ("POST", "/v1.0/teams/1/channels", {}),
    ("PATCH", "/v1.0/teams/1", {}),
    ("POST", "/v1.0/teams/1/sendActivityNotification", {}),
    ("POST", "/v1.0/teams/1/channels/2/messages/3/clone", {}),
    ("GET", "/v1.0/teams('1')/operations('2')", None),
    ("GET", "/v1.0/teams", None),
    ("POST", "/v1.0/me/drive/items/1/workbook/closeSession", {}),
    ("POST", "/v1.0/me/onenote/notebooks/1/copyToSection", {}),
    ("POST", "/v1.0/external/connections/1/schema", {}),
    ("PATCH", "/v1.0/external/connections/1", {}),
    ("POST", "/v1.0/me/drive/items/1/createUploadSession", {}),
    ("POST", "/v1.0/me/drive/root:/a/copy", {}),
    ("POST", "/v1.0/me/drive/items/1/Copy", {}),
    ("POST", "/v1.0/me/drive/items/1/copy/copy", {}),
    ("POST", "/v1.0/me/drive/root/children", {"name": "no folder"}),
    ("GET", f"/v1.0/me/drive/items/{REPORT}/copy", None),
]
OWN = [
    "/",
    "/jobs",
    "/jobs/none",
    "/jobs/none/events",
    "/events?job=none",
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
]


def asking() -> Iterator[tuple[str, str, Any]]:
    """The operations whose status asks for a token, in their forms."""
    for operation in (one for one in OPERATIONS if one.asks_for_token):
        for owner, part in (("me", ""), ("sites/a,b,c", "lists/{id}/")):
            path = operation.path.replace("{owner}", owner).replace("{item}", "me/drive/root:/a/b.xlsx:")
            form = path.replace("[lists/{id}/]", part).replace("{id}", "19:1-2@x%2C")
            yield operation.method, f"/beta/{form}?a=%2F", {}
            yield operation.method, f"/v1.0/{form}/", {}


def in_turn(requests: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Of the three endings that each drive, item and action has, one: each in turn, so that every two of them meet."""
    for number in range(len(requests) // 3):
        yield requests[3 * number + number % 3]


@pytest.mark.parametrize("kind", PROXIES)
async def test_where_each_request_goes(request: pytest.FixtureRequest, splits: Splits, kind: str) -> None:
    """Starts to the gateway and the rest to Graph, byte for byte, with the caller's token; nothing of it is logged."""
    split = await splits.of(kind)
    trust = aiohttp.TCPConnector(ssl=split.trust())
    async with aiohttp.ClientSession(connector=trust, headers={"Authorization": "Bearer a-token"}) as session:

        async def ask(method: str, target: str, body: Any, number: int) -> tuple[int, str]:
            ids = {"client-request-id": f"{kind}-{number}"}
            url = URL(split.url + target, encoded=True)
            async with session.request(method, url, json=body, headers=ids, allow_redirects=False) as response:
                return response.status, await response.text()

        thorough = request.config.getoption("thorough")
        wanted = {True: REST, False: [*(STARTS if thorough else in_turn(STARTS)), *MOVES, *asking()]}
        for direct, requests in wanted.items():
            for number, (method, target, body) in enumerate(requests):
                await ask(method, target, body, number)
                asked = [
                    one for one in split.upstream.requests if one.headers.get("client-request-id") == f"{kind}-{number}"
                ]
                assert asked, (method, target)
                first = asked[0]
                raw = f"{first.path}?{first.query}" if first.query else first.path
                assert (split.is_direct(first), first.method) == (direct, method), target
                assert raw == (target if direct else target.replace("/?", "?").removesuffix("/")), target
                assert first.headers["authorization"] == "Bearer a-token"
                assert json.loads(first.body or b"null") == body
                split.upstream.forget()
        for number, target in enumerate(OWN):
            status, text = await ask("GET", target, None, number)
            assert status in (200, 401, 404), (target, status)
            assert status == 200 or "innerError" in text, target
        assert (await ask("GET", "/metrics", None, 0))[0] == 404
        assert [one for one in split.upstream.requests if one.kind != "monitor"] == []  # the jobs go on
    logged = split.logged()
    assert "a-token" not in logged
    assert "/jobs/" not in logged


@pytest.mark.parametrize("kind", PROXIES)
async def test_events_come_as_they_happen_and_a_stream_comes_back(tmp_path: Path, kind: str) -> None:
    """An event is read before the copy goes on; while the gateway is away a stream is told to come back, a copy that it
    may have been done, or that it was not.
    """
    now = [0.0]
    async with (
        splitting(kind, tmp_path, clock=lambda: now[0], seconds=100) as split,
        split.client() as client,
    ):
        started = await client.post(f"/v1.0/me/drive/items/{REPORT}/copy", json=COPY_BODY, headers=TOKEN)
        job = started.headers["Location"]
        assert job.startswith(f"{split.url}/jobs/")
        with anyio.fail_after(SECONDS):
            async with client.stream("GET", f"{job}/events") as stream:
                lines = stream.aiter_lines()
                for percentage in (25.0, 50.0, 75.0, 100.0):
                    now[0] = percentage
                    while True:
                        line = await anext(lines)
                        if line.startswith("data:") and json.loads(line[5:])["percentageComplete"] == percentage:
                            break
            split.gateway.kill()
            streams = ("/events?job=x", f"{job}/events?lastEventId=3")
            as_stream = {"Accept": "text/event-stream"}
            copy = f"/v1.0/me/drive/items/{REPORT}/copy"
            *told, state, start, around = await asyncio.gather(  # some proxies try for seconds
                *(client.get(target) for target in streams),
                client.get(job, headers=as_stream),
                client.get(job),
                client.post(copy, json=COPY_BODY, headers=TOKEN),
                client.get("/v1.0/me/drive", headers=TOKEN),
            )
            for answer in told:
                assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
                    200,
                    as_stream["Accept"],
                )
                assert answer.text.startswith("retry: 5000\n\n:")
                assert answer.headers["access-control-allow-origin"] == "*"
            for answer in (state, start):
                error = answer.json()["error"]["code"]
                assert (answer.status_code, error) in ((502, "outcomeUnknown"), (503, "serviceNotAvailable"))
            assert (around.status_code, around.json()["id"]) == (200, "b!personal")


@pytest.mark.parametrize("kind", PROXIES)
async def test_graph_must_show_its_certificate(tmp_path: Path, kind: str) -> None:
    """A host with another certificate gets no token."""
    async with splitting(kind, tmp_path, graph_name="elsewhere.example.com") as split, split.client() as client:
        answer = await client.get("/v1.0/me/drive", headers=TOKEN)
        assert answer.status_code in (502, 503)
        assert not split.upstream.requests
        started = await client.post(f"/v1.0/me/drive/items/{REPORT}/copy", json=COPY_BODY, headers=TOKEN)
        assert started.status_code == 202
