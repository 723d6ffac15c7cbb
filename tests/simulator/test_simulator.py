"""The simulator's face: the documented exchange, its pages, its record, its start and its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest
import uvloop
from yarl import URL

from gateway.simulator import SCENARIOS, Simulator, running, scenario_table, serve
from tests.conftest import Clock
from tests.support.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


TOKEN = {"Authorization": "Bearer secret-token"}
COPY = {"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"}
RESULT = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with running(Simulator(clock=clock)) as simulator:
        yield simulator


async def raw(url: str, request: bytes) -> bytes:
    """The bytes a server sends for the bytes of a request."""
    parts = URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_documented_exchange_to_the_byte(simulator: Simulator, clock: Clock) -> None:
    """Every status line, header that matters and body is what the overview of long-running actions prints."""
    body = json.dumps(COPY).encode()
    path = "/beta/me/drive/items/01MOWKYVLARGEFOLDER1/copy?seconds=18&steps=18"
    request = f"POST {path} HTTP/1.1\r\nHost: {simulator.url[7:]}\r\nConnection: close\r\nAuthorization: Bearer x\r\n"
    request += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    head, _, content = (await raw(simulator.url, request.encode() + body)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 202 Accepted"
    assert content == b""
    location = dict(line.split(": ", 1) for line in lines[1:])["Location"]
    assert location.startswith(f"{simulator.monitor_url}/_api/v2.0/monitor/")
    assert len(location.partition("tempauth=")[2]) > 500

    async def poll() -> tuple[bytes, bytes, bytes]:
        target = URL(location, encoded=True).raw_path_qs
        request = f"GET {target} HTTP/1.1\r\nHost: {simulator.url[7:]}\r\nConnection: close\r\n\r\n"
        head, _, content = (await raw(simulator.url, request.encode())).partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        return status, next(line for line in headers if line.lower().startswith(b"content-type")), content

    clock.now += 5
    status, kind, content = await poll()
    assert (status, kind) == (b"HTTP/1.1 202 Accepted", b"Content-Type: application/json")
    assert content == b'{"operation":"ItemCopy","percentageComplete":27.8,"status":"inProgress"}'
    clock.now += 13
    status, kind, content = await poll()
    assert (status, kind) == (b"HTTP/1.1 202 Accepted", b"Content-Type: application/json")
    assert content == b'{"percentageComplete":100.0,"resourceId":"%s","status":"completed"}' % RESULT.encode()

    request = f"GET /beta/me/drive/items/{RESULT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: x\r\n\r\n"
    head, _, content = (await raw(simulator.url, request.encode())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    item = json.loads(content)
    assert (item["id"], item["name"], item["size"]) == (RESULT, "Copy of LargeFolder1", 12019)
    assert "folder" in item
    assert item["parentReference"]["path"] == "/drives/b!personal/root:/Documents"


async def test_the_new_item_is_not_there_before_its_time(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """A copy's item is 404 while it runs and 200 from the moment it is done."""
    copy = f"{simulator.url}/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1/copy"
    async with client.post(copy, json=COPY, headers=TOKEN) as response:
        assert response.status == 202
    url = f"{simulator.url}/v1.0/me/drive/items/{RESULT}"
    async with client.get(url, headers=TOKEN) as response:
        assert response.status == 404
        error = (await response.json())["error"]
        assert error["code"] == "itemNotFound"
    clock.now += 5
    async with client.get(url, headers=TOKEN) as response:
        assert response.status == 200
        etag = response.headers["ETag"]
    async with client.get(url, headers=TOKEN | {"If-None-Match": etag}) as response:
        assert response.status == 304


def test_every_scenario_says_what_it_is() -> None:
    """Under its name, in a sentence."""
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.summary.endswith(".")


async def test_the_front_page(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """GET / tells people with curl lines, and programs in JSON, how to choose a scenario."""
    async with client.get(simulator.url + "/") as response:
        assert response.content_type == "text/plain"
        page = await response.text()
    assert f"curl -i -X POST '{simulator.url}/v1.0/me/drive/items/copy/copy?seconds=10'" in page
    assert scenario_table() in page
    assert "POST  /sites/{id}[/lists/{id}]/contentTypes/addCopyFromContentTypeHub" in page
    assert "PATCH /external/connections/{id}/schema" in page
    for name, scenario in SCENARIOS.items():
        assert name in page
        assert scenario.summary[:-1] in page
    async with client.get(simulator.url + "/", headers={"Accept": "application/json"}) as response:
        listing = await response.json()
    assert [entry["name"] for entry in listing["scenarios"]] == list(SCENARIOS)
    assert listing["default"] == {"scenario": "copy", "seconds": 5.0, "steps": 20}


async def test_the_record(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession) -> None:
    """Every request is kept, for tests as it came and over HTTP without its token; DELETE forgets."""
    path = "/v1.0/me/drive/items/odd%2C50%25%21id/copy"
    url = URL(f"{simulator.url}{path}?a=%2F&seconds=9", encoded=True)
    async with client.post(url, json=COPY, headers=TOKEN | {"Idempotency-Key": "k"}) as response:
        location = response.headers["Location"]
    clock.now += 2.5
    async with client.get(URL(location, encoded=True)) as response:
        assert response.status == 202
    (post,) = simulator.asked("copy")
    assert (post.method, post.path, post.query) == ("POST", path, "a=%2F&seconds=9")
    assert (post.status, post.at, post.authorized) == (202, 0.0, True)
    assert post.headers["authorization"] == "Bearer secret-token"
    assert post.headers["idempotency-key"] == "k"
    assert json.loads(post.body) == COPY
    (poll,) = simulator.polls(post.operation)
    assert (poll.method, poll.authorized, poll.at) == ("GET", False, 2.5)
    assert post.operation
    operation = simulator.operations[post.operation]
    assert (operation.polls, list(operation.polled), operation.location) == (1, [2.5], location)

    async with client.get(simulator.url + "/record") as response:
        text = await response.text()
    assert "secret-token" not in text
    shown = json.loads(text)
    assert [(one["kind"], one["path"]) for one in shown["requests"]] == [("copy", path), ("monitor", poll.path)]
    assert shown["requests"][0]["headers"]["authorization"] == "redacted"
    assert shown["operations"][0]["polls"] == 1
    async with client.delete(simulator.url + "/record") as response:
        assert response.status == 204
    assert not simulator.requests


async def test_graph_wants_a_token_and_its_monitors_refuse_one(
    simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    """401 without Authorization on Graph, with it on a monitor, where it is counted, and for a changed monitor URL."""
    url = f"{simulator.url}/v1.0/me/drive/items/copy"
    for ask in (client.get(url), client.post(url + "/copy", json={})):
        async with ask as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    async with client.post(url + "/copy", json={}, headers=TOKEN) as response:
        location = URL(response.headers["Location"], encoded=True)
    async with client.get(location, headers=TOKEN) as response:
        assert response.status == 401
        message = {"code": "unauthenticated", "message": "Authentication failed"}
        assert await response.json() == {"error": message}
    assert simulator.refused == 1
    async with client.get(location.with_query("tempauth=other")) as response:
        assert response.status == 401
    async with client.post(location) as response:
        assert response.status == 405
    async with client.get(f"{simulator.monitor_url}/_api/v2.0/monitor/unknown") as response:
        assert response.status == 404
    assert simulator.refused == 1


async def test_errors_have_graphs_shape_and_ids_come_back(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """InnerError holds a date and the ids, which are the headers' too; the client's own id is echoed."""
    url = f"{simulator.url}/v1.0/me/drive/items/nothing-here"
    async with client.get(url, headers=TOKEN | {"client-request-id": "mine"}) as response:
        inner = (await response.json())["error"]["innerError"]
        assert response.headers["request-id"] == inner["request-id"]
        assert response.headers["client-request-id"] == inner["client-request-id"] == "mine"
        assert inner["date"].startswith("20")
        assert inner["code"] == "itemDoesNotExist"
    for path in ("/v1.0/me/messages", "/beta/drive/items", "/v1.0/me/drive/root/permissions"):
        async with client.get(simulator.url + path, headers=TOKEN) as response:
            assert response.status == 400
    async with client.delete(url, headers=TOKEN) as response:
        assert response.status == 405


@pytest.mark.parametrize(
    "query",
    [
        "simulate=nonsense",
        "seconds=-1",
        "seconds=nan",
        "seconds=x",
        "steps=0",
        "steps=1.5",
        "every=0",
        "window=-1",
        "window=nan",
    ],
)
async def test_a_wrong_choice_is_told(simulator: Simulator, client: aiohttp.ClientSession, query: str) -> None:
    """A misspelt scenario or number is 400 and starts nothing."""
    async with client.post(f"{simulator.url}/v1.0/me/drive/items/copy/copy?{query}", headers=TOKEN) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]
    assert not simulator.operations


def test_wrong_defaults_are_told() -> None:
    """So is a wrong default of the server."""
    with pytest.raises(ValueError, match="nonsense"):
        Simulator(scenario="nonsense")
    with pytest.raises(ValueError, match="seconds"):
        Simulator(seconds=-1)
    with pytest.raises(ValueError, match="steps"):
        Simulator(steps=0)


async def test_a_default_scenario(client: aiohttp.ClientSession) -> None:
    """The server's default plays where the caller chooses nothing; the caller's choice wins."""
    async with running(Simulator(scenario="completed-200", seconds=0)) as simulator:
        for item, status in (("01MOWKYVREPORT", 200), ("completed-303", 303)):
            url = f"{simulator.url}/v1.0/me/drive/items/{item}/copy"
            async with client.post(url, json={"name": "new"}, headers=TOKEN) as response:
                location = URL(response.headers["Location"], encoded=True)
            async with client.get(location, allow_redirects=False) as response:
                assert response.status == status


async def test_monitors_on_an_origin_of_their_own(client: aiohttp.ClientSession) -> None:
    """With a second port the monitor is on another origin than Graph."""
    async with running(Simulator(), monitor_port=0) as simulator:
        assert simulator.monitor_url != simulator.url
        async with client.post(f"{simulator.url}/v1.0/me/drive/items/copy/copy", headers=TOKEN) as response:
            location = response.headers["Location"]
        assert location.startswith(simulator.monitor_url + "/")
        async with client.get(URL(location, encoded=True)) as response:
            assert response.status == 202


async def test_hundreds_of_copies_at_once(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession) -> None:
    """Copies are told apart, get free names of their own, and cost no task."""
    tasks = len(asyncio.all_tasks())

    async def start(number: int) -> str:
        url = f"{simulator.url}/v1.0/me/drive/items/copy/copy?seconds={number}"
        async with client.post(url, json={"name": "same"}, headers=TOKEN) as response:
            return response.headers["Location"]

    async def status(location: str) -> str:
        async with client.get(URL(location, encoded=True)) as response:
            return str((await response.json())["status"])

    locations = await asyncio.gather(*(start(number) for number in range(1, 301)))
    assert len(set(locations)) == 300
    assert len({operation.copy.name for operation in simulator.operations.values()}) == 300
    clock.now += 100
    told = await asyncio.gather(*map(status, locations))
    assert told == ["completed"] * 100 + ["inProgress"] * 200
    assert len(asyncio.all_tasks()) <= tasks + 100  # connections being closed, no more


async def test_it_stops_at_once_whatever_hangs(client: aiohttp.ClientSession) -> None:
    """Hanging answers do not hold up the end; its port is free again."""
    async with running(Simulator()) as simulator:
        asking = []
        for name in ("hang", "hang-body", "drip"):
            url = f"{simulator.url}/v1.0/me/drive/items/{name}/copy"
            async with client.post(url, headers=TOKEN) as response:
                location = URL(response.headers["Location"], encoded=True)
            asking.append(asyncio.create_task(client._request("GET", location)))
        async with asyncio.timeout(5):
            for step in range(500):
                await asyncio.sleep(0.01 if step else 0)
                if len(simulator.polls()) == 3:
                    break
        port = URL(simulator.url).port or 0
        began = time.monotonic()
    assert time.monotonic() - began < 1
    for answer in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()
    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_serve_ends_with_sigterm() -> None:
    """`serve` says where it is, runs until SIGTERM and returns."""
    urls: list[str] = []
    ready = asyncio.Event()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    serving = asyncio.create_task(
        serve("127.0.0.1", 0, scenario="completed-200", seconds=1, steps=4, on_ready=on_ready)
    )
    async with asyncio.timeout(5):
        await ready.wait()
        async with aiohttp.ClientSession() as client, client.get(urls[0] + "/") as response:
            assert 'a copy plays "completed-200"' in await response.text()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, VirtualLoop])
def test_other_loops(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The whole exchange works on uvloop and in virtual time, too."""
    seconds = 30 if factory is VirtualLoop else 0.05

    async def exchange() -> None:
        now = asyncio.get_running_loop().time
        async with running(Simulator(seconds=seconds, clock=now)) as simulator, aiohttp.ClientSession() as client:
            url = f"{simulator.url}/v1.0/me/drive/items/copy/copy"
            async with client.post(url, headers=TOKEN) as response:
                location = URL(response.headers["Location"], encoded=True)
            await asyncio.sleep(seconds)
            async with client.get(location) as response:
                assert (await response.json())["status"] == "completed"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(exchange())


@pytest.mark.skipif(sys.platform == "win32", reason="addresses of IPv6 differ there")
async def test_ipv6(client: aiohttp.ClientSession) -> None:
    """An IPv6 address is written in brackets in the URLs."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with running(Simulator(), host="::1") as simulator:
        assert simulator.url.startswith("http://[::1]:")
        async with client.post(f"{simulator.url}/v1.0/me/drive/items/copy/copy", headers=TOKEN) as response:
            assert response.headers["Location"].startswith(simulator.url)


async def test_a_large_token() -> None:
    """Those of people in many groups have many kilobytes."""
    async with running(Simulator()) as upstream, aiohttp.ClientSession() as session:
        large = {"Authorization": "Bearer " + "t" * 100_000}
        url = f"{upstream.url}/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1"
        async with session.get(url, headers=large) as response:
            assert response.status == 200
