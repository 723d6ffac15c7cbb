"""What each scenario's monitor says, at which moment of a copy of ten seconds in ten steps."""

from __future__ import annotations

import json
import math
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import SCENARIOS, Operation, Simulator, running
from gateway.simulator.catalogue import CHAPTERS
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


TOKEN = {"Authorization": "Bearer x"}
BODY = {"parentReference": {"driveId": "b!personal", "id": "01MOWKYVDOCUMENTS"}, "name": "new"}
ABSENT = "<absent>"
RESULT = "<result>"

# A poll is the seconds since the start, the code, and what the body must hold: as JSON, as bytes, or nothing of note.
Poll = tuple[float, int, Any]
RUNS: Poll = (5, 202, {"operation": "ItemCopy", "percentageComplete": 50.0, "status": "inProgress"})
ENDS: Poll = (10, 202, {"percentageComplete": 100.0, "resourceId": RESULT, "status": "completed"})
THROTTLED = {"error": {"code": "activityLimitReached", "message": "The request has been throttled"}}
BUSY = {"error": {"code": "serviceNotAvailable", "message": "The service is temporarily unavailable."}}
NAME_EXISTS = {"code": "nameAlreadyExists", "message": "Name already exists"}
GONE = {"error": {"code": "itemNotFound", "message": "The resource could not be found."}}


def word(status: str, at: float = 5, code: int = 202) -> Poll:
    return at, code, {"status": status}


def percent(value: Any, at: float = 5) -> Poll:
    return at, 202, {"percentageComplete": value}


def every_other(code: int, body: Any) -> list[Poll]:
    return [(4, code, body), RUNS, (6, code, body), ENDS]


POLLS: dict[str, list[Poll]] = {
    "copy": [(0, 202, {"percentageComplete": 0.0, "status": "inProgress"}), RUNS, ENDS, ENDS],
    "completed-200": [RUNS, (10, 200, ENDS[2])],
    "completed-303": [RUNS, (10, 303, ENDS[2])],
    "completed-303-item": [RUNS, (10, 303, b"See Other")],
    "rich": [
        (5, 202, {"percentComplete": 50.0, "percentageComplete": 50.0, "createdDateTime": "0001-01-01T00:00:00Z"}),
        (5, 202, {"status": "inProgress", "statusDescription": "20/40; 6010 bytes", "resourceId": ABSENT}),
        (10, 200, {"status": "completed", "resourceId": RESULT, "percentComplete": 100.0}),
    ],
    "phases": [word("notStarted", 1), word("inProgress", 2), word("waiting", 4), word("inProgress", 6), ENDS],
    "all-words": [
        word("notStarted", 1),
        word("inProgress", 2),
        word("waiting", 4),
        word("updating", 5),
        word("deletePending", 7),
        word("cancelPending", 9),
        ENDS,
    ],
    "other-drive": [RUNS, ENDS],
    "conflict": [RUNS, ENDS],
    "conflict-file": [RUNS, ENDS],
    "location-item": [(0, 200, {"id": RESULT, "name": "new", "status": ABSENT})],
    "location-item-303": [(0, 303, {"id": RESULT, "name": "new", "status": ABSENT})],
    "teams": [word("running", 5, 200), word("succeeded", 10, 200)],
    "rich-operation": [word("running", 5, 200), (10, 200, {"status": "succeeded", "resourceId": RESULT})],
    "succeeded": [word("running", 5, 200), word("succeeded", 10, 200)],
    "onenote": [RUNS, ENDS],
    "failed": [RUNS, (10, 200, {"status": "failed", "error": NAME_EXISTS})],
    "failed-202": [RUNS, (10, 202, {"status": "failed", "error": NAME_EXISTS})],
    "failed-details": [RUNS, (10, 200, {"status": "failed", "resourceId": ABSENT})],
    "failed-500": [RUNS, (10, 500, {"status": "failed", "errorCode": "AccessDenied_NotEnoughRights"})],
    "operation-not-found": [
        RUNS,
        (10, 500, {"error": {"code": "operationNotFound", "message": "The operation does not exist."}}),
    ],
    "delete-failed": [RUNS, word("deleteFailed", 10)],
    "cancelled": [RUNS, word("cancelPending", 7), word("cancelled", 10)],
    "failed-late": [percent(50.4, 9), (10, 200, {"status": "failed", "percentageComplete": 56.0})],
    "failed-bare": [RUNS, (10, 200, {"status": "failed", "error": ABSENT, "errorCode": ABSENT})],
    "completed-then-running": [RUNS, ENDS, (11, 202, {"status": "inProgress", "percentageComplete": 60.0})],
    "no-resource": [RUNS, (10, 202, {"status": "completed", "resourceId": ABSENT})],
    "read-lag": [RUNS, ENDS],
    "wrong-parent": [RUNS, ENDS],
    "early-completed": [RUNS, ENDS],
    "throttled": [(0, 429, THROTTLED), (5, 429, THROTTLED), (319, 429, THROTTLED), (634, 202, ENDS[2])],
    "retry-after": every_other(429, THROTTLED),
    "retry-after-none": every_other(429, THROTTLED),
    "retry-after-garbage": every_other(429, THROTTLED),
    "retry-after-negative": every_other(429, THROTTLED),
    "retry-after-digits": every_other(429, THROTTLED),
    "retry-after-long": every_other(429, THROTTLED),
    "retry-after-date": every_other(503, BUSY),
    "retry-after-running": [RUNS, ENDS],
    "rate-limit": every_other(429, THROTTLED),
    "busy": every_other(503, BUSY),
    "busy-bare": every_other(503, BUSY),
    "timeout-504": every_other(504, b"<!DOCTYPE html>"),
    "bandwidth-509": every_other(509, THROTTLED),
    "throttle-page": every_other(302, b"<!DOCTYPE html>"),
    "percent-fraction": [percent(0.5), (10, 202, {"percentageComplete": 1, "status": "completed"})],
    "percent-zero": [percent(0.0, 1), percent(0.0, 9), ENDS],
    "percent-missing": [percent(ABSENT), ENDS],
    "percent-null": [percent(None), ENDS],
    "percent-text": [percent("50.0"), ENDS],
    "percent-over": [percent(180.0, 9), ENDS],
    "percent-falling": [percent(90.0, 1), percent(50.0), percent(10.0, 9), ENDS],
    "percent-nan": [percent(math.nan), ENDS],
    "percent-negative": [percent(-1), ENDS],
    "percent-wrong-type": [percent({"value": 50.0}), ENDS],
    "percent-twins": [(5, 202, {"percentageComplete": 25.0, "percentComplete": 50.0}), ENDS],
    "status-case": [word("InProgress"), word("Completed", 10)],
    "status-unknown": [word("inProgress", 2), word("paused"), word("inProgress", 8), ENDS],
    "status-missing": [(5, 202, {"percentageComplete": 50.0, "status": ABSENT}), ENDS],
    "stuck": [RUNS, (1e6, 202, {"status": "inProgress", "percentageComplete": 56.0})],
    "stuck-not-started": [word("notStarted"), word("notStarted", 1e6)],
    "skewed-date": [RUNS, ENDS],
    "doubled-keys": [
        (5, 202, b'{"percentageComplete":0.0,"percentageComplete":50.0,"status":"notStarted",'),
        (5, 202, {"percentageComplete": 50.0, "status": "inProgress"}),
        ENDS,
    ],
    "byte-order-mark": [(5, 202, b'\xef\xbb\xbf{"operation":"ItemCopy"'), (10, 202, b"\xef\xbb\xbf{")],
}
# The answers of the POST that are no 202 with a Location; their copies have no monitor that anybody could ask.
AT_ONCE = {"sync-200": 200, "sync-201": 201}

# What the first poll's headers say besides.
HEADERS: dict[str, dict[str, str | None]] = {
    "throttled": {"Retry-After": "41"},
    "retry-after": {"Retry-After": "1"},
    "retry-after-none": {"Retry-After": None},
    "retry-after-garbage": {"Retry-After": "soon"},
    "retry-after-negative": {"Retry-After": "-5"},
    "retry-after-digits": {"Retry-After": "9" * 400},
    "retry-after-long": {"Retry-After": "86400000"},
    "retry-after-running": {"Retry-After": "2"},
    "rate-limit": {"Retry-After": None, "RateLimit-Remaining": "0", "RateLimit-Reset": "31"},
    "busy": {"Retry-After": "1"},
    "busy-bare": {"Retry-After": None},
    "throttle-page": {"Location": "{monitor}/_layouts/15/Throttle.htm"},
    "location-item-303": {"Location": "{graph}/v1.0/drives/b!personal/items/{result}"},
    "completed-303": {"Location": None},
}


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with running(Simulator(seconds=10, steps=10, clock=clock)) as simulator:
        yield simulator


async def start(simulator: Simulator, client: aiohttp.ClientSession, name: str, query: str = "") -> Operation:
    url = f"{simulator.url}/v1.0/me/drive/items/{name}/copy{query}"
    async with client.post(url, json=BODY, headers=TOKEN) as response:
        assert response.status == AT_ONCE.get(name, 202)
    return list(simulator.operations.values())[-1]


async def poll(client: aiohttp.ClientSession, operation: Operation) -> tuple[int, bytes, Any]:
    assert operation.location
    url = URL(operation.copy.origins.monitor).join(URL(operation.location, encoded=True))
    headers = TOKEN if operation.scenario.bearer else {}
    async with client.get(url, allow_redirects=False, headers=headers) as response:
        return response.status, await response.read(), response.headers


def held(expected: dict[str, Any], result: str) -> dict[str, Any]:
    return {name: result if value == RESULT else value for name, value in expected.items()}


def test_every_scenario_of_these_chapters_is_asked() -> None:
    """The tables above leave out none."""
    chapters = {title: {scenario.name for scenario in chapter} for title, chapter in CHAPTERS}
    here = chapters["Copies that succeed, and copies that fail"] | chapters["Throttling"] | chapters["Unusual states"]
    assert POLLS.keys() | AT_ONCE.keys() == here


@pytest.mark.parametrize("name", POLLS)
async def test_what_a_monitor_says(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """Code, body and headers of each poll are the scenario's."""
    operation = await start(simulator, client, name)
    copy = operation.copy
    for number, (at, status, expected) in enumerate(POLLS[name]):
        clock.now = at
        answered, body, headers = await poll(client, operation)
        assert answered == status, body
        if isinstance(expected, bytes):
            assert body.startswith(expected)
        else:
            value = json.loads(body)
            shown = {field: value.get(field, ABSENT) for field in expected}
            assert repr(shown) == repr(held(expected, copy.resource_id))  # as text, since NaN equals nothing
        for header, wanted in HEADERS.get(name, {}).items() if number == 0 else ():
            places = {"monitor": simulator.monitor_url, "graph": simulator.url, "result": copy.resource_id}
            assert headers.get(header) == (wanted and wanted.format(**places))
    assert operation.polls == len(POLLS[name])


@pytest.mark.parametrize("name", [*POLLS, *AT_ONCE])
async def test_where_its_item_is(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str) -> None:
    """The new item is in the target drive when the copy is done, and nowhere when the copy fails or never ends."""
    operation = await start(simulator, client, name)
    scenario, copy = SCENARIOS[name], operation.copy

    async def read() -> tuple[int, dict[str, Any]]:
        url = f"{simulator.url}/v1.0/drives/{copy.drive_id}/items/{copy.resource_id}"
        async with client.get(URL(url, encoded=True), headers=TOKEN) as response:
            return response.status, await response.json()

    assert (await read())[0] == (200 if scenario.at_once else 404)
    clock.now = 10
    for _ in range(scenario.hidden):
        assert (await read())[0] == 404
    status, item = await read()
    assert status == (200 if scenario.lands else 404)
    if scenario.lands:
        parent = "/drives/b!personal/root:" + ("" if scenario.strays else "/Documents")
        assert (item["name"], item["parentReference"]["path"]) == ("new", parent)


async def test_headers_and_bodies_with_places_in_them(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """Locations, ids of drives and targets inside the answers are this copy's."""
    clock.now = 0
    operations = {
        name: await start(simulator, client, name)
        for name in ("completed-303-item", "rich", "failed-details", "retry-after-date", "skewed-date")
    }
    clock.now = 10
    copy = operations["completed-303-item"].copy
    _, _, headers = await poll(client, operations["completed-303-item"])
    assert headers["Location"] == f"{simulator.url}/v1.0/drives/b!personal/items/{copy.resource_id}"
    _, body, _ = await poll(client, operations["rich"])
    place = f"drives/b!personal/items/{operations['rich'].copy.resource_id}"
    assert json.loads(body)["resourceLocation"] == f"https://contoso.sharepoint.com/sites/other/_api/v2.0/{place}"
    _, body, _ = await poll(client, operations["failed-details"])
    error = json.loads(body)["error"]
    assert "code" not in error
    assert [detail.get("target") for detail in error["details"]] == ["failed-details", None]
    _, _, headers = await poll(client, operations["retry-after-date"])
    ahead = parsedate_to_datetime(headers["Retry-After"]) - parsedate_to_datetime(headers["Date"])
    assert 0 < ahead.total_seconds() <= 3
    _, _, skewed = await poll(client, operations["skewed-date"])
    assert (parsedate_to_datetime(skewed["Date"]) - parsedate_to_datetime(headers["Date"])).days in (699, 700)


async def test_a_target_elsewhere_when_none_is_named(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """The copy called other-drive lands in the library, where /me/drive does not find it."""
    url = f"{simulator.url}/v1.0/me/drive/items/other-drive/copy"
    async with client.post(url, json={}, headers=TOKEN) as response:
        assert response.status == 202
    (operation,) = simulator.operations.values()
    clock.now = 10
    for drive, status in (("me/drive", 404), ("drives/b!library", 200), ("sites/any/drive", 200)):
        item = f"{simulator.url}/v1.0/{drive}/items/{operation.copy.resource_id}"
        async with client.get(item, headers=TOKEN) as response:
            assert response.status == status


async def test_a_folder_that_fills_after_its_copy_is_done(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """The result of early-completed is read with a growing size."""
    operation = await start(simulator, client, "early-completed")
    sizes = []
    for clock.now in (10, 15, 20, 30):
        url = f"{simulator.url}/v1.0/me/drive/items/{operation.copy.resource_id}"
        async with client.get(url, headers=TOKEN) as response:
            sizes.append((await response.json())["size"])
    assert sizes == [0, 6010, 12019, 12019]


async def test_trouble_as_often_as_wished(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """`every` says how often a monitor is troubled, up to always; `simulate` chooses as an id does."""
    for every, codes in ((1, [503] * 6), (3, [503, 202, 202, 503, 202, 202])):
        operation = await start(simulator, client, "01MOWKYVREPORT", f"?simulate=busy&every={every}")
        assert [(await poll(client, operation))[0] for _ in codes] == codes


async def test_patience_with_throttling_is_rewarded(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession
) -> None:
    """The monitor called throttled tells 41 s, 315 s to whoever comes too soon, and is over for whoever waits."""
    operation = await start(simulator, client, "throttled")
    seen = []
    for clock.now in (0, 41, 42):
        status, _, headers = await poll(client, operation)
        seen.append((status, headers.get("Retry-After")))
    assert seen == [(429, "41"), (202, None), (202, None)]
    operation = await start(simulator, client, "throttled")
    seen = []
    for wait in (0, 40, 314, 315, 1):
        clock.now += wait
        status, _, headers = await poll(client, operation)
        seen.append((status, headers.get("Retry-After")))
    assert seen == [(429, "41"), (429, "315"), (429, "315"), (202, None), (202, None)]
