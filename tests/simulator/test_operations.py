"""The simulator's operations whose status asks for a token: starts, status resources, results, and their readers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import Operation, Simulator, running
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "Bearer first"
ASYNC = {"Prefer": "respond-async"}
UUID = "[0-9a-f-]{36}"
ITEM = "me/drive/items/1"


class Caller:
    """A caller of a simulator whose operations take ten seconds."""

    def __init__(self, simulator: Simulator, client: aiohttp.ClientSession, clock: Clock) -> None:
        self.simulator = simulator
        self.clock = clock
        self._client = client

    async def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> tuple[int, Any, Any]:
        """Ask under the first token unless `Authorization` is another, or None."""
        url = URL(path if "://" in path else self.simulator.url + path, encoded=True)
        sent = {name: value for name, value in ({"Authorization": TOKEN} | headers).items() if value is not None}
        async with self._client.request(method, url, json=body, headers=sent, allow_redirects=False) as response:
            value = await response.json() if response.content_type == "application/json" else await response.read()
            return response.status, value, response.headers

    async def start(self, path: str, body: Any = None, method: str = "POST") -> tuple[str, Operation]:
        """Start an operation, and return the path of its status, which for Teams is under v1.0."""
        status, value, headers = await self.ask(method, path, body or {"displayName": "x"}, **ASYNC)
        assert status == 202, value
        location = headers.get("Location") or headers["Operation-Location"]
        operation = self.simulator.operations[self.simulator.requests[-1].operation or ""]
        return location if "/v1.0/" in location or "://" in location else f"/v1.0{location}", operation

    async def state(self, place: str, at: float | None = None, **headers: str | None) -> dict[str, Any]:
        """The state of a status, at a time of the simulator's clock."""
        if at is not None:
            self.clock.now = at
        status, value, _ = await self.ask("GET", place, **headers)
        assert status == 200, value
        assert isinstance(value, dict)
        return value

    async def refusal(self, place: str, **headers: str | None) -> tuple[int, str]:
        status, value, _ = await self.ask("GET", place, **headers)
        return status, value["error"]["code"]


@pytest.fixture
async def caller(clock: Clock) -> AsyncIterator[Caller]:
    clock.now = 0
    async with running(Simulator(seconds=10, steps=10, clock=clock)) as simulator, aiohttp.ClientSession() as client:
        yield Caller(simulator, client, clock)


class Row(NamedTuple):
    """A start, its header's value, the words at 1 s, 5 s and the end, and the path of the result."""

    path: str
    place: str  # regular expression
    words: tuple[str, str, str]
    result: str  # regular expression
    header: str = "Location"
    method: str = "POST"


TEAM_WORDS = ("notStarted", "inProgress", "succeeded")
RUNNING = ("notStarted", "running", "succeeded")
NOTEBOOK = ("notstarted", "running", "completed")
TEAM = rf"/teams\('t1'\)/operations\('{UUID}'\)"


def of_notebook(owner: str, of: str, action: str, result: str) -> Row:
    start = f"{owner}/onenote/{of}/1-a!b/{action}"
    place = f"{{origin}}/{owner}/onenote/operations/{UUID}"
    return Row(start, place, NOTEBOOK, f"{owner}/onenote/{result}/{UUID}", "Operation-Location")


ROWS = [
    Row("teams", rf"/teams\('{UUID}'\)/operations\('{UUID}'\)", TEAM_WORDS, rf"/teams\('{UUID}'\)"),
    Row("teams/t1/clone", TEAM, TEAM_WORDS, rf"/teams\('{UUID}'\)"),
    Row("teams/t1/archive", TEAM, TEAM_WORDS, r"/teams\('t1'\)"),
    Row("teams/t1/microsoft.graph.unarchive", TEAM, TEAM_WORDS, r"/teams\('t1'\)"),
    Row(
        "teams/t1/channels/19%3Ac/archive",
        f"/teams/t1/operations/{UUID}",
        TEAM_WORDS,
        r"/teams\('t1'\)/channels\('19%3Ac'\)",
    ),
    Row(
        "teams/t1/channels/c/unarchive",
        f"/teams/t1/operations/{UUID}",
        TEAM_WORDS,
        r"/teams\('t1'\)/channels\('c'\)",
    ),
    Row(
        "sites/h,1,2/contentTypes/addCopyFromContentTypeHub",
        "{origin}/sites/h,1,2/operations/contentTypeCopy,0x0101",
        RUNNING,
        "sites/h,1,2/contentTypes/0x0101",
    ),
    Row(
        "sites/root/lists/l/contentTypes/addCopyFromContentTypeHub",
        "{origin}/sites/root/lists/l/operations/contentTypeCopy,0x0101",
        RUNNING,
        "sites/root/lists/l/contentTypes/0x0101",
    ),
    Row(
        f"{ITEM}/workbook/createSession",
        f"{{origin}}/{ITEM}/workbook/operations/{UUID}",
        RUNNING,
        rf"{ITEM}/workbook/sessionInfoResource\(key='{UUID}'\)",
    ),
    Row(
        "drives/b!1/root:/a%20b.xlsx:/workbook/createSession",
        f"{{origin}}/drives/b!1/root:/a%20b.xlsx:/workbook/operations/{UUID}",
        RUNNING,
        rf"drives/b!1/root:/a%20b.xlsx:/workbook/sessionInfoResource\(key='{UUID}'\)",
    ),
    of_notebook("me", "notebooks", "copyNotebook", "notebooks"),
    of_notebook("users/a@b", "sections", "copyToNotebook", "sections"),
    of_notebook("groups/g", "sections", "copyToSectionGroup", "sections"),
    of_notebook("sites/h,1,2", "pages", "copyToSection", "pages"),
    Row(
        "employeeExperience/communities",
        rf"{{origin}}/employeeExperience/engagementAsyncOperations\('{UUID}'\)",
        RUNNING,
        f"employeeExperience/communities/{UUID}",
        "Operation-Location",
    ),
    Row(
        "external/connections/c1/schema",
        f"{{origin}}/external/connections/c1/operations/{UUID}",
        ("inprogress", "inprogress", "completed"),
        "external/connections/c1/schema",
        method="PATCH",
    ),
]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.path) for row in ROWS])
@pytest.mark.parametrize("version", ["v1.0", "beta"])
async def test_from_the_start_to_the_result(caller: Caller, row: Row, version: str) -> None:
    """Each answers in its own form, to a Bearer only, and leads to what can be read."""
    path = f"/{version}/{row.path}"
    for none in (None, "Basic eA==", "Bearer "):
        status, value, headers = await caller.ask(row.method, path, {"a": 1}, Authorization=none)
        assert (status, value["error"]["code"]) == (401, "InvalidAuthenticationToken")
        assert "WWW-Authenticate" in headers
    assert not caller.simulator.operations
    status, _, headers = await caller.ask(row.method, path, {"displayName": "name"}, **ASYNC)
    assert status == 202
    origin = f"{caller.simulator.url}/{version}"
    assert re.fullmatch(row.place.replace("{origin}", origin), headers[row.header])
    assert {"Location", "Operation-Location"} & headers.keys() == {row.header}
    assert ("Content-Location" in headers) == (row.path == "teams")
    place = headers[row.header] if "://" in headers[row.header] else f"{origin}{headers[row.header]}"
    if "://" not in headers[row.header]:
        assert (await caller.ask("GET", headers[row.header]))[0] == 404  # without a version
    assert await caller.refusal(place, Authorization=None) == (401, "InvalidAuthenticationToken")
    states = [await caller.state(place, at, Authorization=f"Bearer {at}") for at in (1, 5, 10)]
    assert tuple(state["status"] for state in states) == row.words
    (operation,) = caller.simulator.operations.values()
    assert operation.copy.monitor_path == urlsplit(place).path
    assert all(state["id"] in place for state in states)
    last = states[-1]
    shown = last.get("targetResourceLocation") or last.get("resourceLocation")
    if shown:
        base = "" if row.path.startswith("teams") else f"{re.escape(origin)}/"
        assert re.fullmatch(base + row.result, shown)
    result = shown or f"/{row.result}"
    result = result if "://" in result else f"/{version}{result}"
    status, value, _ = await caller.ask("GET", result)
    assert (status, value["displayName"]) == (200, "name")
    told = last.get("targetResourceId") or last.get("resourceId") or value["id"]
    assert told == value["id"]
    assert await caller.refusal(result, Authorization=None) == (401, "InvalidAuthenticationToken")
    asked = [one.headers.get("authorization") for one in caller.simulator.polls()]
    assert asked == [None, "Bearer 1", "Bearer 5", "Bearer 10"]


@pytest.mark.parametrize(
    ("path", "percentages"),
    [
        ("me/onenote/notebooks/n/copyNotebook", {"percentComplete": ("40", None)}),
        ("sites/s/contentTypes/addCopyFromContentTypeHub", {"percentageComplete": (40, 100)}),
        ("teams/t/clone", {}),
    ],
)
async def test_percentages(caller: Caller, path: str, percentages: dict[str, tuple[Any, Any]]) -> None:
    """Text for OneNote, and only while it runs; a number for a content type; none for the others."""
    place, _ = await caller.start(f"/v1.0/{path}")
    states = [await caller.state(place, at) for at in (4, 10)]
    found = {name: tuple(state.get(name) for state in states) for name in states[0] if name.startswith("percent")}
    assert found == percentages
    place, _ = await caller.start(f"/v1.0/{path}?simulate=operation-stuck")
    states = [await caller.state(place, at) for at in (14, 19, 20)]
    assert {str(value) for state in states[:2] for name, value in state.items() if "percent" in name} == {"0"}
    assert (states[2]["status"], states[2]["error"]["code"]) == ("failed", "20280")


async def test_a_session_at_once(caller: Caller) -> None:
    """201 unless respond-async is preferred; a scenario makes it 201 with that, too, and a content type 200."""
    path = f"/v1.0/{ITEM}/workbook/createSession"
    sync = "simulate=operation-at-once"
    for headers, query, wanted in (({}, "", 201), (ASYNC, sync, 201), (ASYNC, "", 202)):
        status, value, _ = await caller.ask("POST", f"{path}?{query}", {"persistChanges": True}, **headers)
        assert status == wanted
        assert value == b"{}" if wanted == 202 else value["persistChanges"] is True
    session = f"/v1.0/{ITEM}/workbook/sessionInfoResource(key='"
    made = [one.copy.resource_id for one in caller.simulator.operations.values()]
    assert [(await caller.ask("GET", f"{session}{one}')"))[0] for one in made] == [200, 200, 404]
    path = f"/v1.0/sites/s/contentTypes/addCopyFromContentTypeHub?{sync}"
    status, value, _ = await caller.ask("POST", path, {"contentTypeId": "0x01"})
    assert (status, value["id"]) == (200, "0x01")


@pytest.mark.parametrize(
    ("path", "codes", "more"),
    [
        ("teams/operation-failed/clone", ["TeamUnavailable"], {"attemptsCount": 3}),
        (
            "me/drive/root:/operation-failed:/workbook/createSession",
            ["internalServerError", "internalServerErrorUncategorized", "GenericFileOpenError"],
            {},
        ),
        ("me/onenote/pages/operation-failed/copyToSection", ["20102"], {"resourceLocation": None}),
        (
            "sites/operation-failed/contentTypes/addCopyFromContentTypeHub",
            ["accessDenied", "notAllowed"],
            {"percentageComplete": None},
        ),
        ("employeeExperience/communities", ["accessDenied", "notAllowed"], {"resourceId": None}),
    ],
)
async def test_failures(caller: Caller, path: str, codes: list[str], more: dict[str, Any]) -> None:
    """With an error of the kind's own; the scenario is an id in the path, or the name in the body."""
    place, operation = await caller.start(f"/v1.0/{path}", {"displayName": "operation-failed"})
    assert operation.scenario.name == "operation-failed"
    state = await caller.state(place, 10)
    assert state["status"] == "failed"
    error, found = state["error"], []
    while error:
        found.append(error["code"])
        error = error.get("innerError")
    assert found == codes
    assert {name: state.get(name) for name in more} == more


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("teams/operation-words/archive", ["notStarted", "running", "succeeded"]),
        (f"{ITEM}/workbook/createSession", ["NotStarted", "Running", "Completed"]),
        ("me/onenote/pages/p/copyToSection", ["NotStarted", "Running", "Completed"]),
        ("employeeExperience/communities", ["notStarted", "inProgress", "succeeded"]),
    ],
)
async def test_other_words(caller: Caller, path: str, words: list[str]) -> None:
    """Which Graph's documents have beside the usual ones."""
    place, _ = await caller.start(f"/v1.0/{path}?simulate=operation-words")
    assert [(await caller.state(place, at))["status"] for at in (1, 5, 10)] == words


async def test_newer_words(caller: Caller) -> None:
    """They are told to those who prefer them."""
    place, _ = await caller.start("/v1.0/teams/operation-newer-words/clone")
    for at, word in ((1, "notStarted"), (5, "validating"), (10, "partiallySucceeded")):
        assert (await caller.state(place, at, Prefer="include-unknown-enum-members"))["status"] == word
        hidden = word if word == "notStarted" else "unknownFutureValue"
        assert (await caller.state(place))["status"] == hidden


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (f"{ITEM}/workbook/createSession?seconds=1000", 240),
        ("teams/operation-vanishes/clone?seconds=1000", 240),
        ("me/onenote/pages/operation-vanishes/copyToSection?limit=7", 7),
    ],
)
async def test_what_is_not_polled_vanishes(caller: Caller, path: str, limit: int) -> None:
    """For good; a workbook's operation always does."""
    place, _ = await caller.start(f"/v1.0/{path}")
    for at in (limit - 1, 2 * limit - 2):
        await caller.state(place, at)
    for caller.clock.now in (3 * limit - 2, 3 * limit):
        assert await caller.refusal(place) == (404, "itemNotFound")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("operation-zeros", r"/teams\('t'\)/operations\('00000000-0000-0000-0000-000000000000'\)"),
        ("operation-unquoted", rf"/teams\(t\)/operations\({UUID}\)"),
        ("location-relative", rf"/v1.0/teams\('t'\)/operations\('{UUID}'\)"),
    ],
)
async def test_spellings(caller: Caller, name: str, place: str) -> None:
    """Of the status's path; each is polled as it is, whether its keys are encoded, or segments."""
    path, _ = await caller.start(f"/v1.0/teams/t/clone?simulate={name}")
    assert re.fullmatch(place, path.removeprefix("" if name == "location-relative" else "/v1.0"))
    assert (await caller.state(path, 5))["status"] == "inProgress"
    encoded = path.replace("'", "%27").replace("(", "%28").replace(")", "%29")
    assert (await caller.state(encoded))["status"] == "inProgress"
    segments = path.replace("('", "/").replace("')", "").replace("(", "/").replace(")", "")
    assert (await caller.state(segments))["status"] == "inProgress"


async def test_a_notebook_of_a_group(caller: Caller) -> None:
    """Its result is in the group that the body names; and some 202s have the operation in their body."""
    path = "/v1.0/me/onenote/notebooks/n/copyNotebook?simulate=operation-body"
    status, value, headers = await caller.ask("POST", path, {"groupId": "g"})
    place = headers["Operation-Location"]
    assert (status, value) == (202, {"id": place.rpartition("/")[2], "status": "notstarted"})
    state = await caller.state(place, 10)
    assert state["resourceLocation"].startswith(f"{caller.simulator.url}/v1.0/groups/g/onenote/notebooks/")
    assert (await caller.ask("GET", state["resourceLocation"]))[0] == 200


LATE = "&simulate=result-late"


@pytest.mark.parametrize(("query", "late"), [("", 0), (LATE, 3), (f"{LATE}&limit=9", 9)])
async def test_a_team_that_is_not_there_yet(caller: Caller, query: str, late: float) -> None:
    """Its GET is 404 for a while after the operation has succeeded."""
    place, _ = await caller.start(f"/v1.0/teams?seconds=1{query}")
    team = f"/v1.0{(await caller.state(place, 0.9))['targetResourceLocation']}"
    assert await caller.refusal(team) == (404, "itemNotFound")
    state = await caller.state(place, 1)
    assert state["status"] == "succeeded"
    if late:
        caller.clock.now = 0.9 + late
        assert await caller.refusal(team) == (404, "itemNotFound")
    caller.clock.now = 1 + late
    assert (await caller.ask("GET", team))[0] == 200
    assert (await caller.ask("GET", f"/v1.0/teams/{state['targetResourceId']}"))[0] == 200
