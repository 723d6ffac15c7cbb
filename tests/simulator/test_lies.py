"""Hosts that lie for a while: scenarios that do from their start, and the control that makes all monitors do so."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import SCENARIOS, Operation, Simulator, running
from gateway.simulator.answers import Delivery
from gateway.simulator.catalogue import CHAPTERS
from gateway.simulator.lies import LIES
from tests.conftest import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = {"Authorization": "Bearer x"}
GENERAL = b'{"error":{"code":"generalException"'
IIS = b"<!DOCTYPE html PUBLIC"
RUNS = b'{"operation":"ItemCopy"'


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with running(Simulator(seconds=10, steps=10, clock=clock)) as simulator:
        yield simulator


async def start(simulator: Simulator, client: aiohttp.ClientSession, name: str, query: str = "") -> Operation:
    async with client.post(f"{simulator.url}/v1.0/me/drive/items/{name}/copy{query}", headers=TOKEN) as response:
        assert response.status == 202
    return list(simulator.operations.values())[-1]


async def poll(client: aiohttp.ClientSession, operation: Operation) -> tuple[int, bytes]:
    assert operation.location
    async with client.get(URL(operation.location, encoded=True)) as response:
        return response.status, await response.read()


LYING: dict[str, tuple[int, bytes]] = {
    "lying-401": (401, GENERAL),
    "lying-401-text": (401, b"RPS"),
    "lying-403": (403, GENERAL),
    "lying-404": (404, b""),
    "lying-404-html": (404, IIS),
    "late-404": (404, b'{"error":{"code":"itemNotFound"'),
}
DOUBTFUL = {"doubtful-401": (401, GENERAL), "doubtful-404": (404, IIS)}


def test_every_scenario_of_this_chapter_is_met() -> None:
    chapters = {title: {scenario.name for scenario in chapter} for title, chapter in CHAPTERS}
    assert LYING.keys() | DOUBTFUL.keys() == chapters["Hosts that lie for a while"]


@pytest.mark.parametrize("name", LYING)
async def test_a_monitor_that_lies_at_first(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """For 45 s, or as long as the caller says; the copy itself goes on meanwhile."""
    code, beginning = LYING[name]
    for query, seconds in (("", 45.0), ("?window=8", 8.0), ("?window=0", 0.0)):
        operation = await start(simulator, client, name, query)
        began = clock.now
        for clock.now in (began + seconds / 2, began + seconds - 0.1) if seconds else ():
            answered, body = await poll(client, operation)
            assert (answered, body[: len(beginning)]) == (code, beginning)
        clock.now = began + seconds
        assert json.loads((await poll(client, operation))[1])["status"] == (
            "completed" if seconds > 10 else "inProgress"
        )


@pytest.mark.parametrize("name", DOUBTFUL)
async def test_a_monitor_that_never_speaks_again(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """Neither in the middle of the copy nor long after its end."""
    operation = await start(simulator, client, name)
    for clock.now in (5, 10, 1e5):
        code, body = await poll(client, operation)
        assert (code, body[: len(DOUBTFUL[name][1])]) == (DOUBTFUL[name][0], DOUBTFUL[name][1])


@pytest.mark.parametrize("name", LIES)
async def test_all_monitors_lie_when_they_are_told_to(
    simulator: Simulator, clock: Clock, client: aiohttp.ClientSession, name: str
) -> None:
    """Whatever their scenarios are, until the time is over; Graph itself goes on answering."""
    operations = [await start(simulator, client, scenario) for scenario in ("copy", "failed")]
    control = f"{simulator.url}/lie?seconds=20&answer={name}"
    async with client.post(control) as response:
        assert (response.status, await response.json()) == (200, {"answer": name, "seconds": 20.0})
    clock.now = 12
    for operation in operations:
        if LIES[name].delivery is Delivery.WHOLE:
            assert await poll(client, operation) == (LIES[name].status, LIES[name].body)
        else:
            with pytest.raises((aiohttp.ClientError, TimeoutError)):
                async with asyncio.timeout(0.2):
                    await poll(client, operation)
    async with client.get(f"{simulator.url}/v1.0/me/drive/items/01MOWKYVREPORT", headers=TOKEN) as response:
        assert response.status == 200
    clock.now = 20
    assert [json.loads((await poll(client, operation))[1])["status"] for operation in operations] == [
        "completed",
        "failed",
    ]
    assert all(operation.polls >= 2 for operation in operations)  # a client may repeat a GET after a reset


async def test_a_lie_is_shown_and_ended(simulator: Simulator, clock: Clock, client: aiohttp.ClientSession) -> None:
    """GET tells which one and for how long; DELETE ends it; a new one takes its place."""
    operation = await start(simulator, client, "copy")
    url = f"{simulator.url}/lie"

    async def shown() -> object:
        async with client.get(url) as response:
            return await response.json()

    assert await shown() == {"answer": None, "seconds": 0.0}
    async with client.post(url) as response:
        assert await response.json() == {"answer": "401", "seconds": 45.0}
    clock.now = 5
    async with client.post(f"{url}?answer=404&seconds=9") as response:
        assert response.status == 200
    clock.now = 6
    assert await shown() == {"answer": "404", "seconds": 8.0}
    assert (await poll(client, operation))[0] == 404
    async with client.delete(url) as response:
        assert response.status == 204
    assert await shown() == {"answer": None, "seconds": 0.0}
    assert (await poll(client, operation))[1].startswith(RUNS)
    async with client.post(f"{url}?seconds=1") as response:
        assert response.status == 200
    clock.now = 7
    assert await shown() == {"answer": None, "seconds": 0.0}
    assert not simulator.asked("other")


@pytest.mark.parametrize("query", ["answer=nonsense", "answer=", "seconds=-1", "seconds=nan", "seconds=x"])
async def test_a_wrong_lie_is_refused(simulator: Simulator, client: aiohttp.ClientSession, query: str) -> None:
    """And nothing lies."""
    operation = await start(simulator, client, "copy")
    async with client.post(f"{simulator.url}/lie?{query}") as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]
    assert (await poll(client, operation))[1].startswith(RUNS)


async def test_the_control_is_on_the_front_page(simulator: Simulator, client: aiohttp.ClientSession) -> None:
    """With every answer that can be asked for, and so is how long a scenario's fault lasts."""
    async with client.get(simulator.url) as response:
        page = await response.text()
    assert f"curl -X POST '{simulator.url}/lie?seconds=45&answer=401'" in page
    assert f"curl -X DELETE {simulator.url}/lie" in page
    assert ", ".join(LIES) in page
    assert "401 generalException, for the first 45 s." in page
    assert {name for name in LYING if SCENARIOS[name].window != 45} == set()
