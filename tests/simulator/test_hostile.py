"""Refusals, strange Locations and accidents on the wire, as bytes and as a client meets them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import Operation, Simulator, running
from gateway.simulator.catalogue import CHAPTERS
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


TOKEN = {"Authorization": "Bearer x"}
SOON = 0.2  # seconds: whatever has not come by then hangs


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with running(Simulator(seconds=10, steps=10, clock=clock)) as simulator:
        yield simulator


async def post(
    simulator: Simulator, client: aiohttp.ClientSession, name: str, body: Any = None
) -> tuple[int, Any, Any]:
    url = f"{simulator.url}/v1.0/me/drive/items/{name}/copy"
    async with client.post(url, json=body or {}, headers=TOKEN, allow_redirects=False) as response:
        return response.status, await response.read(), response.headers


async def start(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> Operation:
    status, _, _ = await post(simulator, client, name)
    assert status == 202
    return list(simulator.operations.values())[-1]


async def poll(client: aiohttp.ClientSession, operation: Operation) -> tuple[int, bytes, Any]:
    assert operation.location
    async with client.get(URL(operation.location, encoded=True), allow_redirects=False) as response:
        return response.status, await response.read(), response.headers


REFUSED: dict[str, tuple[int, str]] = {
    "rejected-root": (400, "invalidRequest"),
    "rejected-children": (400, "invalidRequest"),
    "rejected-name": (400, "invalidRequest"),
    "rejected-400": (400, "invalidRequest/invalidResourceId"),
    "rejected-401": (401, "InvalidAuthenticationToken"),
    "rejected-403": (403, "accessDenied"),
    "rejected-404": (404, "itemNotFound/itemDoesNotExist"),
    "rejected-409": (409, "nameAlreadyExists"),
    "rejected-423": (423, "resourceLocked"),
    "rejected-429": (429, "activityLimitReached/throttledRequest/quota"),
    "rejected-500": (500, "generalException"),
    "rejected-501": (501, "notSupported"),
    "rejected-503": (503, "serviceNotAvailable"),
    "rejected-504": (504, "generalException"),
    "rejected-507": (507, "quotaLimitReached"),
}
REFUSED_OTHERWISE = {"rejected-html": (502, b"<html>"), "rejected-huge": (400, b'{"error":{"code":"invalidRequest"')}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> None:
    """POST and GET of a refusing item are refused with its code, its nested codes and the ids; nothing runs."""
    status, body, headers = await post(simulator, client, name)
    error = json.loads(body)["error"]
    codes, inner = [error["code"]], error["innerError"]
    assert {"date", "request-id", "client-request-id"} <= inner.keys()
    assert inner["request-id"] == headers["request-id"]
    while "code" in inner:
        codes.append(inner["code"])
        inner = inner.get("innerError", {})
    assert (status, "/".join(codes)) == REFUSED[name]
    assert error["message"]
    assert ("Retry-After" in headers) == (status in (429, 503))
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert not simulator.operations
    async with client.get(f"{simulator.url}/v1.0/me/drive/items/{name}", headers=TOKEN) as response:
        assert response.status == status


@pytest.mark.parametrize("name", REFUSED_OTHERWISE)
async def test_refusals_in_no_shape(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> None:
    """A page in HTML, and a body of 8 MiB."""
    status, body, headers = await post(simulator, client, name)
    assert (status, body[: len(REFUSED_OTHERWISE[name][1])]) == REFUSED_OTHERWISE[name]
    assert headers["Content-Type"] == ("text/html" if name == "rejected-html" else "application/json")
    assert name != "rejected-huge" or len(body) > 8 * 2**20


# Where Location points, with {path} for the usual path of a monitor; None for no Location.
LOCATIONS: dict[str, str | None] = {
    "location-missing": None,
    "location-relative": "{path}",
    "location-long": "{monitor}{path}&c=AAA",
    "location-http": "http://contoso.sharepoint.com{path}",
    "location-loopback": "http://127.0.0.2:9{path}",
    "location-loopback-6": "https://[::1]{path}",
    "location-mapped": "https://[::ffff:127.0.0.1]{path}",
    "location-link-local": "http://169.254.169.254{path}",
    "location-unlisted": "https://monitor.attacker.example{path}",
    "location-lookalike": "https://contoso.sharepoint.com.attacker.example{path}",
    "location-user-info": "https://contoso.sharepoint.com@attacker.example{path}",
    "location-file": "file://{path}",
    "location-garbage": "http://[not a url",
    "location-operations": "{monitor}/personal/megan/_api/v2.1/drive/operations/{operation}?c=",
}
RUNNING_ALL_THE_SAME = {
    "post-404-runs": 404,
    "post-500-runs": 500,
    "post-504-runs": 504,
    "post-reset-runs": None,
    "post-hang-runs": None,
}
OTHER_STARTS = {"post-200-empty", "post-redirect", "location-flip", "too-many", "post-202-cut"}
# The bytes in a 202's head, and the paths before the monitor's own under which it answers afterwards.
ODD_HEADS: dict[str, tuple[bytes, list[str]]] = {
    "location-utf-8": (b"/sites/B\xc3\xbccher/_api/", ["/sites/B%C3%BCcher"]),
    "location-latin-1": (b"/sites/B\xfccher/_api/", ["/sites/B%C3%BCcher", "/sites/B%FCcher"]),
    "location-space": (b"/sites/My Books/_api/", ["/sites/My%20Books"]),
    "request-id-control": (b"request-id: a\x01b\x7fc\r\n", [""]),
    "request-id-bytes": (b"request-id: a\xe6\x97\xa5b\xff\r\n", [""]),
}


@pytest.mark.parametrize("name", LOCATIONS)
async def test_locations(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> None:
    """The 202's Location is the scenario's, and the monitor answers where it can be reached at all."""
    status, body, headers = await post(simulator, client, name)
    assert (status, body) == (202, b"")
    (operation,) = simulator.operations.values()
    copy = operation.copy
    location = headers.get("Location")
    expected = LOCATIONS[name]
    if expected is None:
        assert location is None
        return
    places = {"path": copy.monitor_path, "monitor": simulator.monitor_url, "operation": copy.operation}
    assert location.startswith(expected.format(**places))
    assert len(location) == 4096 or name != "location-long"
    if expected.startswith(("{monitor}", "{path}")):
        async with client.get(URL(simulator.url).join(URL(location, encoded=True))) as response:
            assert (await response.json())["status"] == "inProgress"


@pytest.mark.parametrize("name", RUNNING_ALL_THE_SAME)
async def test_a_copy_that_runs_although_the_post_failed(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """The caller hears of an error, the item comes all the same, and the same POST again is 409."""
    status = RUNNING_ALL_THE_SAME[name]
    if status is None:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            async with asyncio.timeout(SOON):
                await post(simulator, client, name, {"name": "new"})
    else:
        assert (await post(simulator, client, name, {"name": "new"}))[0] == status
    (operation,) = simulator.operations.values()
    clock.now = 10
    async with client.get(f"{simulator.url}/v1.0/me/drive/root:/new", headers=TOKEN) as response:
        assert (await response.json())["id"] == operation.copy.resource_id
    again, body, _ = await post(simulator, client, name, {"name": "new"})
    assert (again, json.loads(body)["error"]["code"]) == (409, "nameAlreadyExists")


async def test_other_answers_to_the_post(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """200 with nothing, a redirect, Locations that change their form, and too many copies at once."""
    status, body, headers = await post(simulator, client, "post-200-empty")
    assert (status, body, headers.get("Location")) == (200, b"", None)
    status, _, headers = await post(simulator, client, "post-redirect")
    assert (status, headers["Location"].startswith("http://localhost:")) == (307, True)
    forms = [(await post(simulator, client, "location-flip"))[2]["Location"] for _ in range(4)]
    assert ["/v2.1/drive/operations/" in form for form in forms] == [False, True, False, True]
    answers = [await post(simulator, client, "too-many") for _ in range(12)]
    assert [status for status, _, _ in answers] == [202] * 10 + [500] * 2
    assert json.loads(answers[-1][1])["error"]["code"] == "generalException"


@pytest.mark.parametrize("name", ODD_HEADS)
async def test_heads_that_no_good_server_sends(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> None:
    """Byte for byte; the monitor answers under its path as clients encode it."""
    url = URL(simulator.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1.0/me/drive/items/{name}/copy HTTP/1.1\r\nHost: {url.authority}\r\nAuthorization: x\r\n"
    writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
    came = await reader.read()
    writer.close()
    expected, prefixes = ODD_HEADS[name]
    assert came.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert expected in came
    (operation,) = simulator.operations.values()
    for prefix in prefixes:
        place = URL(simulator.monitor_url + prefix + operation.copy.monitor_path, encoded=True)
        async with client.get(place) as response:
            assert (await response.json())["status"] == "inProgress"


async def test_a_202_whose_body_breaks_off(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """Its Location has come before."""
    url = f"{simulator.url}/v1.0/me/drive/items/post-202-cut/copy"
    async with client.post(url, headers=TOKEN) as response:
        assert response.status == 202
        location = response.headers["Location"]
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    async with client.get(URL(location, encoded=True)) as response:
        assert (await response.json())["status"] == "inProgress"


PAGE = b"<!DOCTYPE html>"
GONE = b'{"error":{"code":"itemNotFound"'
# Seconds, code and beginning of the body.
POLLS: dict[str, list[tuple[float, int, bytes]]] = {
    "expired-404": [(4, 202, b"{"), (5, 404, GONE), (10, 404, GONE)],
    "expired-410": [(4, 202, b"{"), (5, 410, GONE), (10, 410, GONE)],
    "expired-after": [(5, 202, b"{"), (10, 202, b'{"percentageComplete":100.0'), (10, 404, GONE)],
    "glitch-404": [(5, 404, GONE), (5, 202, b"{"), (5, 404, GONE)],
    "unauthorized": [(5, 401, b'{"error":{"code":"unauthenticated"'), (10, 401, b"{")],
    "forbidden": [(5, 403, b'{"error":{"code":"accessDenied"'), (10, 403, b"{")],
    "glitch-401": [(5, 401, b"{"), (5, 202, b"{"), (5, 401, b"{")],
    "unauthorized-html": [(5, 401, PAGE), (5, 202, b"{")],
    "html": [(5, 200, PAGE), (5, 202, b"{")],
    "error-500": [(5, 500, PAGE), (5, 202, b"{")],
    "empty-200": [(5, 200, b""), (5, 202, b"{")],
    "empty-202": [(5, 202, b""), (5, 202, b"{")],
    "text-plain": [(5, 202, b'{"operation":"ItemCopy"'), (10, 202, b"{")],
    "cut-json": [(5, 202, b'{"operation":"ItemCopy","percentageCompl'), (5, 202, b"{")],
    "not-an-object": [(5, 202, b'["inProgress"]'), (5, 202, b"{")],
    "deep-json": [(5, 202, b"[[[[["), (5, 202, b"{")],
    "not-utf8": [(5, 202, b'{"status":"inProgress\xff'), (5, 202, b"{")],
    "huge": [(5, 202, b'{"operation":"ItemCopy","status":"inProgress"'), (5, 202, b"{")],
}
ACCIDENTS = {"drip", "hang", "hang-body", "truncated", "reset", "reset-body"}
FLOODS = {"interim-flood", "header-flood", "endless-body"}
DEAD_ENDS = {"connect-refused", "connect-hang"}


def test_every_scenario_of_these_chapters_is_met() -> None:
    """The tables of this file leave out none."""
    chapters = {title: {scenario.name for scenario in chapter} for title, chapter in CHAPTERS}
    assert REFUSED.keys() | REFUSED_OTHERWISE.keys() == chapters["Refused immediately"]
    starts = LOCATIONS.keys() | RUNNING_ALL_THE_SAME.keys() | OTHER_STARTS | ODD_HEADS.keys()
    assert starts == chapters["Problems with the POST and its Location"]
    assert POLLS.keys() | ACCIDENTS | FLOODS | DEAD_ENDS == chapters["Monitors that break or expire"]


@pytest.mark.parametrize("name", POLLS)
async def test_monitors(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str) -> None:
    """Code and body of each poll are the scenario's."""
    operation = await start(simulator, client, name)
    for at, status, expected in POLLS[name]:
        clock.now = at
        answered, body, headers = await poll(client, operation)
        assert (answered, body[: len(expected)]) == (status, expected)
        assert body if expected else not body
        if expected == PAGE:
            assert headers["Content-Type"] == "text/html; charset=utf-8"


async def test_sizes_and_types(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """The huge body is beyond 8 MiB and sound JSON; text/plain says so."""
    _, body, _ = await poll(client, await start(simulator, client, "huge"))
    assert len(body) > 8 * 2**20
    assert json.loads(body)["status"] == "inProgress"
    _, _, headers = await poll(client, await start(simulator, client, "text-plain"))
    assert headers["Content-Type"] == "text/plain"


async def wire(operation: Operation) -> tuple[bytes, str]:
    """What comes over a bare connection, and how it ends."""
    assert operation.location
    url = URL(operation.location, encoded=True)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    came = b""
    try:
        async with asyncio.timeout(SOON):
            while chunk := await reader.read(2**16):
                came += chunk
            end = "closed"
    except TimeoutError:
        end = "hangs"
    except ConnectionResetError:
        end = "reset"
    writer.close()
    return came, end


@pytest.mark.parametrize(
    ("name", "end", "head", "share"),
    [
        ("drip", "hangs", True, 0.01),
        ("hang", "hangs", False, 0),
        ("hang-body", "hangs", True, 0),
        ("truncated", "closed", True, 0.5),
        ("reset", "reset", False, 0),
        ("reset-body", "reset", True, 0.5),
    ],
)
async def test_accidents(simulator: Simulator, name: str, end: str, *, head: bool, share: float) -> None:
    """Each accident is really on the wire, and the next poll is fine."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
        operation = await start(simulator, client, name)
        came, ended = await wire(operation)
        lines, _, body = came.partition(b"\r\n\r\n")
        assert ended == end
        assert bool(lines) == head
        if head:
            length = int(lines.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert length > 4096
            assert len(body) <= length * share
            assert bool(body) == bool(share)
        assert (await poll(client, operation))[0] == 202


@pytest.mark.parametrize(
    ("name", "beginning", "more"),
    [
        ("interim-flood", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n", b"HTTP/1.1 102"),
        ("header-flood", b"HTTP/1.1 202 Accepted\r\nX-Flood: ", b"\r\nX-Flood: "),
        ("endless-body", b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n\r\n  ", b"    "),
    ],
)
async def test_floods(simulator: Simulator, name: str, beginning: bytes, more: bytes) -> None:
    """They go on for as long as anybody reads, and end with the reader; the next poll is fine."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
        operation = await start(simulator, client, name)
        url = URL(operation.location or "", encoded=True)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(20):
            came = await reader.readexactly(2**21)
        writer.close()
        assert came.startswith(beginning)
        assert more in came[-1000:]
        assert (await poll(client, operation))[0] == 202


async def test_dead_ends(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """One port refuses connections, the other never completes them."""
    refused = await start(simulator, client, "connect-refused")
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await poll(client, refused)
    assert isinstance(caught.value.os_error, ConnectionRefusedError)
    silent = await start(simulator, client, "connect-hang")
    assert silent.location
    url = URL(silent.location, encoded=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await asyncio.open_connection(url.host, url.port)
    assert not simulator.polls()
