"""Every operation whose status asks for a token, end to end: the simulator with its quirks, the gateway, the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.graph.operations import OPERATIONS
from gateway.simulator import SCENARIOS, Simulator, running
from gateway.simulator.catalogue import CHAPTERS
from tests.jobs.test_operations import asks, hand_in, until
from tests.support.harness import TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time

ASYNC = {"Prefer": "respond-async"}
STARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "createTeam": ("POST", "/v1.0/teams", {"displayName": "Team", "template@odata.bind": "standard"}),
    "cloneTeam": ("POST", "/v1.0/teams/t/clone", {"displayName": "Clone", "partsToClone": "apps"}),
    "archiveTeam": ("POST", "/v1.0/teams/t/archive", {}),
    "unarchiveTeam": ("POST", "/v1.0/teams/t/unarchive", {}),
    "archiveChannel": ("POST", "/v1.0/teams/t/channels/19:c@thread.tacv2/archive", {}),
    "unarchiveChannel": ("POST", "/v1.0/teams/t/channels/19:c@thread.tacv2/unarchive", {}),
    "addCopyFromContentTypeHub": (
        "POST",
        "/v1.0/sites/root/lists/Documents/contentTypes/addCopyFromContentTypeHub",
        {"contentTypeId": "0x0101"},
    ),
    "createSession": ("POST", "/v1.0/me/drive/items/01MOWKYVREPORT/workbook/createSession", {"persistChanges": True}),
    "copyNotebook": ("POST", "/v1.0/me/onenote/notebooks/n/copyNotebook", {"renameAs": "Notebook"}),
    "copyToNotebook": ("POST", "/v1.0/me/onenote/sections/s/copyToNotebook", {"id": "n"}),
    "copyToSectionGroup": ("POST", "/v1.0/groups/g/onenote/sections/s/copyToSectionGroup", {"id": "n"}),
    "copyToSection": ("POST", "/v1.0/users/u/onenote/pages/p/copyToSection", {"id": "s"}),
    "createCommunity": ("POST", "/v1.0/employeeExperience/communities", {"displayName": "C", "privacy": "public"}),
    "updateSchema": ("PATCH", "/v1.0/external/connections/hr/schema", {"baseType": "microsoft.graph.externalItem"}),
}
OWN = [scenario.name for _, chapter in CHAPTERS for scenario in chapter if scenario.for_operations]


@asynccontextmanager
async def both(folder: Path, **values: Any) -> AsyncIterator[tuple[Simulator, Running]]:
    clock = asyncio.get_running_loop().time
    async with (
        running(Simulator(seconds=values.pop("seconds", 100), clock=clock)) as upstream,
        serving(upstream.url, folder, **values) as gateway,
    ):
        yield upstream, gateway


async def start(gateway: Running, action: str, scenario: str = "") -> tuple[int, dict[str, Any]]:
    method, path, body = STARTS[action]
    url = f"{gateway.url}{path}" + (f"?simulate={scenario}" if scenario else "")
    async with gateway.session.request(method, url, json=body, headers=TOKEN | ASYNC) as response:
        return response.status, await response.json() if response.content_type == "application/json" else {}


async def last(gateway: Running, job: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = (await tail(gateway.session, job["events"]))[-1].data
    return data


def test_each_is_here() -> None:
    """All operations of the table that ask for a token."""
    assert STARTS.keys() == {operation.action for operation in OPERATIONS if operation.asks_for_token}


@pytest.mark.parametrize("action", STARTS)
async def test_from_its_start_to_its_result(action: str, tmp_path: Path) -> None:
    """It is followed to its end under the caller's token, and what it names as its result can be read upstream."""
    async with both(tmp_path) as (upstream, gateway):
        status, job = await start(gateway, action)
        assert (status, job["status"]) == (202, "notStarted")
        assert job["operationLocation"].startswith("/v1.0/")
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert (seen[-1]["status"], seen[-1]["percentageComplete"]) == ("completed", 100)
        assert len({state["status"] for state in seen}) >= 2
        assert not [state for state in seen if "trouble" in state]
        polls = upstream.polls()
        assert {one.headers["authorization"] for one in polls} == {TOKEN["Authorization"]}
        if "resource" in seen[-1]:
            await anyio.sleep(60)  # some cannot be read at once
            async with gateway.session.get(upstream.url + seen[-1]["resource"], headers=TOKEN) as response:
                assert response.status == 200
        else:
            assert action in ("archiveTeam", "unarchiveTeam", "archiveChannel", "unarchiveChannel", "updateSchema")


@pytest.mark.parametrize("name", OWN)
async def test_its_quirks(name: str, tmp_path: Path) -> None:
    """Of each kind of words, errors, ids, waits and tokens: the job ends as it should, or asks for a token."""
    async with both(tmp_path) as (upstream, gateway):
        for action in ("createTeam", "createSession", "copyNotebook", "addCopyFromContentTypeHub"):
            status, job = await start(gateway, action, name)
            if name == "operation-foreign":
                assert (status, job["error"]["code"]) == (502, "monitorHostNotAllowed")
                continue
            if name == "operation-at-once":
                assert status in (200, 201, 202)
                if status != 202:
                    continue
            assert status == 202, (action, job)
            if name.startswith("token-ends"):
                await until(gateway, job, lambda state: asks(state) or state["status"] == "completed")
                if asks(await until(gateway, job, bool)):
                    assert await hand_in(gateway, job, "another") == 204
            end = await last(gateway, job)
            if name in ("operation-failed", "operation-stuck"):
                assert (end["status"], end["error"]["origin"]) == ("failed", "upstream"), action
                assert end["error"]["code"]
            elif name == "operation-newer-words":
                assert end["status"] == "partiallySucceeded", action
            else:
                assert end["status"] == "completed", (action, end)
        assert not upstream.asked("foreign")
    assert name in SCENARIOS


def used(upstream: Simulator) -> str:
    """The token of the newest poll."""
    return upstream.polls()[-1].headers["authorization"]


async def test_a_content_type_of_seventy_minutes(tmp_path: Path) -> None:
    """Through a token that ends and a restart of the gateway."""
    clock = asyncio.get_running_loop().time
    async with running(Simulator(seconds=4200, clock=clock)) as upstream:
        async with serving(upstream.url, tmp_path) as gateway:
            _, job = await start(gateway, "addCopyFromContentTypeHub", "token-ends")
            await until(gateway, job, asks)
            assert used(upstream) == TOKEN["Authorization"]
            assert await hand_in(gateway, job, "second") == 204
            await anyio.sleep(600)
            assert used(upstream) == "Bearer second"
        async with serving(upstream.url, tmp_path) as gateway:
            await until(gateway, job, asks)
            await anyio.sleep(600)
            assert await hand_in(gateway, job, "third") == 204
            end = await until(gateway, job, lambda state: state["status"] == "completed")
            assert end["percentageComplete"] == 100
        assert used(upstream) == "Bearer third"
        assert clock() > 4200
