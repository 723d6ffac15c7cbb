"""Words, errors and ids of other operations, encodings, and redirects: as they come over the wire."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import Operation, Simulator, running
from gateway.simulator.catalogue import CHAPTERS
from gateway.simulator.shapes import BOMB, WORDS
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TOKEN = {"Authorization": "Bearer x"}
ODATA = {"code": "-2130575338, SPException", "message": {"lang": "en-US", "value": "The list does not exist."}}


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with running(Simulator(seconds=10, steps=10, clock=clock)) as simulator:
        yield simulator


@pytest.fixture
async def raw() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that decompresses nothing."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def start(simulator: Simulator, client: aiohttp.ClientSession, name: str) -> Operation:
    async with client.post(f"{simulator.url}/v1.0/me/drive/items/{name}/copy", headers=TOKEN) as response:
        assert response.status == 202
    return list(simulator.operations.values())[-1]


async def poll(client: aiohttp.ClientSession, operation: Operation, url: str = "") -> tuple[int, bytes, Any]:
    place = URL(url or operation.location or "", encoded=True)
    async with client.get(place, allow_redirects=False) as response:
        return response.status, await response.read(), response.headers


def chapter(title: str) -> set[str]:
    return {scenario.name for scenario in dict(CHAPTERS)[title]}


# What the final state holds; {id} is the new item's.
ENDS: dict[str, dict[str, Any]] = {
    "other-words": {"status": "Succeeded", "resourceId": "{id}"},
    "partially-succeeded": {
        "status": "partiallySucceeded",
        "resourceId": "{id}",
        "resultInfo": {"code": 207, "subcode": 12, "message": "3 of 40 items were skipped."},
    },
    "completed-with-error": {
        "status": "completedWithError",
        "resourceId": "{id}",
        "error": {"code": "accessDenied", "message": "One artifact could not be restored."},
    },
    "completed-with-errors": {"status": "completedWithErrors", "resourceId": "{id}"},
    "canceled": {"status": "Canceled"},
    "submission-failed": {"status": "submissionFailed", "statusDetail": "Not submitted."},
    "invalid": {"status": "invalid"},
    "error-odata": {"status": "failed", "odata.error": ODATA},
    "error-odata-nested": {"status": "failed", "odata": {"error": ODATA}},
    "error-number": {"status": "failed", "error": {"code": 5, "message": "No."}},
    "error-string": {"status": "failed", "error": "The disk is full."},
    "error-json-string": {
        "status": "failed",
        "error": '{"error": {"code": "quotaLimitReached", "message": "The disk is full."}}',
    },
    "error-message": {"status": "failed", "errorCode": "AccessDenied", "errorMessage": "No access."},
    "error-result": {
        "status": "failed",
        "resultInfo": {"code": 500, "subcode": 7, "message": "The export failed."},
    },
    "percent-progress": {"status": "succeeded", "percentProgress": 100, "resourceId": "{id}"},
    "target-resource": {"status": "succeeded", "targetResourceId": "{id}"},
    "id-encoded": {"status": "completed", "resourceId": "%30{id}"},
    "id-later": {"status": "completed", "percentageComplete": 100},
}


@pytest.mark.parametrize("name", ENDS)
async def test_how_other_operations_end(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """In their own words, and with the reason where they put it."""
    operation = await start(simulator, client, name)
    clock.now = 10
    state = json.loads((await poll(client, operation))[1])
    item = operation.copy.resource_id
    shown = item.removeprefix("0") if name == "id-encoded" else item
    wanted = {
        key: value.format(id=shown) if value in ("{id}", "%30{id}") else value for key, value in ENDS[name].items()
    }
    assert {key: state.get(key) for key in wanted} == wanted
    assert ("resourceId" in state) == ("resourceId" in wanted)


async def test_while_they_run(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession) -> None:
    """Each word in turn; the percentage has another name; the result has no place yet."""
    operation = await start(simulator, client, "other-words")
    seen = []
    for clock.now in range(10):
        seen.append(json.loads((await poll(client, operation))[1])["status"])
    assert list(dict.fromkeys(seen)) == list(WORDS)
    operation = await start(simulator, client, "percent-progress")
    clock.now += 5
    assert json.loads((await poll(client, operation))[1])["percentProgress"] == 50
    operation = await start(simulator, client, "target-resource")
    assert json.loads((await poll(client, operation))[1])["targetResourceId"] is None


async def test_an_id_that_comes_later(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession) -> None:
    """At the second poll after the end."""
    operation = await start(simulator, client, "id-later")
    clock.now = 10
    ids = [json.loads((await poll(client, operation))[1]).get("resourceId") for _ in range(3)]
    assert ids == [None, operation.copy.resource_id, operation.copy.resource_id]


def test_every_scenario_of_these_chapters_is_met() -> None:
    assert ENDS.keys() == chapter("Status words, errors and ids of other operations")
    assert CODED.keys() | CHARSETS.keys() | BROKEN == chapter("Encodings")
    assert {*TARGETS, *MOVED, "redirect-foreign-state", "moved-ring"} == chapter("Redirects")


CODED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.decompress),
    "deflate": ("deflate", zlib.decompress),
    "deflate-raw": ("deflate", lambda body: zlib.decompress(body, wbits=-zlib.MAX_WBITS)),
}
CHARSETS = {
    "charset-latin-1": ("latin-1", "application/json; charset=ISO-8859-1"),
    "charset-windows": ("cp1252", "application/json; charset=windows-1252"),
    "charset-utf-16": ("utf-16", "application/json; charset=utf-16"),
    "charset-utf-16-le": ("utf-16-le", "application/json; charset=utf-16le"),
    "charset-quoted": ("utf-8", 'application/json; charset="utf-8"'),
    "charset-unknown": ("utf-8", "application/json; charset=x-unheard-of"),
    "charset-unnamed": ("latin-1", "application/json"),
}
BROKEN = {"gzip-bomb", "gzip-cut", "coding-unknown"}


@pytest.mark.parametrize("name", [*CODED, *CHARSETS])
async def test_encodings(simulator: Simulator, clock: Clock, raw: aiohttp.ClientSession, name: str) -> None:
    """The state is what it always is, under the coding or charset that its headers name."""
    operation = await start(simulator, raw, name)
    for clock.now, status in ((5, "inProgress"), (10, "completed")):
        _, body, headers = await poll(raw, operation)
        if name in CODED:
            coding, decode = CODED[name]
            assert headers["Content-Encoding"] == coding
            state = json.loads(decode(body))
        else:
            charset, content_type = CHARSETS[name]
            assert headers["Content-Type"] == content_type
            state = json.loads(body.decode(charset))
            assert status == "completed" or state["statusDescription"] == "Größe geprüft"
        assert state["status"] == status


async def test_encodings_that_nobody_can_read(simulator: Simulator, raw: aiohttp.ClientSession) -> None:
    """A small body that is 64 MiB, half of one, and one in an unknown coding; the next poll is fine."""
    bodies = {}
    for name in BROKEN:
        operation = await start(simulator, raw, name)
        bodies[name] = await poll(raw, operation)
        assert json.loads((await poll(raw, operation))[1])["status"] == "inProgress"
    _, bomb, _ = bodies["gzip-bomb"]
    assert len(bomb) < 2**17
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)
    assert unpacker.decompress(bomb, 100).startswith(b'{"status":"inProgress"')
    assert int.from_bytes(bomb[-4:], "little") > BOMB
    with pytest.raises(EOFError):
        gzip.decompress(bodies["gzip-cut"][1])
    assert bodies["coding-unknown"][2]["Content-Encoding"] == "x-unheard-of"


# The second, the code, and the target, with {url} for the simulator and {id} for the new item.
TARGETS: dict[str, tuple[float, int, str]] = {
    "redirect-foreign": (5, 302, "http://localhost:"),
    "redirect-foreign-item": (10, 303, "http://localhost:"),
    "redirect-broken-item": (10, 303, "{url}/v1.0/drives('me')/items('')"),
    "redirect-me-item": (10, 303, "{url}/v1.0/drives('me')/items('{id}')"),
    "redirect-elsewhere": (10, 303, "{url}/v1.0/me/drive/root"),
    "redirect-denied": (5, 303, "/_layouts/15/AccessDenied.aspx"),
    "redirect-login": (5, 303, "/_forms/default.aspx"),
    "redirect-throttle": (5, 303, "/_layouts/15/Throttle.htm"),
    "redirect-foreign-page": (5, 303, "http://localhost:"),
}
MOVED: dict[str, tuple[tuple[int, ...], int]] = {  # the redirects' codes, and the last answer's at the end
    "moved-301": ((301,), 202),
    "moved-302": ((302,), 202),
    "moved-307": ((307,), 202),
    "moved-308": ((308,), 202),
    "moved-thrice": ((308, 302, 307), 202),
    "moved-303": ((302,), 303),
    "moved-failed": ((302,), 200),
    "moved-too-far": ((302, 302, 302, 302), 202),
}


@pytest.mark.parametrize("name", TARGETS)
async def test_redirects(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str) -> None:
    """To where nobody should go, to pages for people, and to the item."""
    operation = await start(simulator, client, name)
    clock.now, code, target = TARGETS[name]
    answered, _, headers = await poll(client, operation)
    assert answered == code
    assert headers["Location"].startswith(target.format(url=simulator.url, id=operation.copy.resource_id))
    if code == 302 or target[0] == "/" or name == "redirect-foreign-page":
        assert json.loads((await poll(client, operation))[1])["status"] == "inProgress"


@pytest.mark.parametrize("name", MOVED)
async def test_monitors_that_moved(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """Behind each redirect is the same monitor, and each redirect is a poll of it on record."""
    codes, last = MOVED[name]
    operation = await start(simulator, client, name)
    for clock.now in (5, 10):
        url = URL(operation.location or "", encoded=True)
        seen = []
        for _ in range(len(codes) + 1):
            code, body, headers = await poll(client, operation, str(url))
            seen.append(code)
            url = url.join(URL(headers.get("Location", ""), encoded=True))
        assert seen == [*codes, 202 if clock.now == 5 else last]
        if clock.now == 5:
            assert json.loads(body)["percentageComplete"] == 50.0
    assert len(simulator.polls(operation.copy.operation)) == 2 * (len(codes) + 1)


async def test_a_ring_and_a_state_beside_a_redirect(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """The one leads nowhere; the other tells in its body what there is to know."""
    operation = await start(simulator, client, "moved-ring")
    url = operation.location or ""
    for _ in range(4):
        code, _, headers = await poll(client, operation, url)
        assert code == 302
        url = headers["Location"]
    assert url == operation.location
    operation = await start(simulator, client, "redirect-foreign-state")
    code, body, headers = await poll(client, operation)
    assert (code, json.loads(body)["status"]) == (302, "inProgress")
    assert headers["Location"].startswith("http://localhost:")
    clock.now += 10
    assert json.loads((await poll(client, operation))[1])["status"] == "completed"


async def test_who_goes_where_nobody_should_is_on_record(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """The other host refuses every token, the broken item is unknown, the page is HTML."""
    names = ("redirect-foreign", "redirect-foreign-item", "redirect-broken-item", "redirect-throttle")
    operations = [await start(simulator, client, name) for name in names]
    clock.now = 10
    targets = [(await poll(client, operation))[2]["Location"] for operation in operations]
    assert not simulator.asked("foreign")
    codes = []
    for target in targets:
        # By address: whether "localhost" leads to this server is the machine's affair.
        url = URL(simulator.url).join(URL(target, encoded=True)).with_host("127.0.0.1")
        async with client.get(url, headers=TOKEN) as response:
            codes.append(response.status)
    assert codes == [401, 401, 400, 200]
    assert len(simulator.asked("foreign")) == 2
