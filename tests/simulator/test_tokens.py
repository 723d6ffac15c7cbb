"""Tokens at the simulator's operations: their end, and other origins; and what operations share with copies."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from gateway.simulator.catalogue import CHAPTERS
from tests.simulator.test_operations import TOKEN, Caller, caller

__all__ = ["caller"]


@pytest.mark.parametrize(
    ("query", "good"),
    [
        ("simulate=token-ends", [29]),
        ("simulate=token-ends&limit=8", [1, 7.9]),
        ("simulate=token-ends-polls", [1, 2]),
        ("simulate=token-ends-polls&limit=3", [1, 2, 3]),
    ],
)
async def test_a_token_that_ends(caller: Caller, query: str, good: list[float]) -> None:
    """401 for it from then on; any other is taken, and the operation goes on."""
    place, operation = await caller.start(f"/v1.0/teams/t/archive?seconds=100&{query}")
    for at in good:
        await caller.state(place, at)
    caller.clock.now = 30
    for _ in range(2):
        assert await caller.refusal(place) == (401, "InvalidAuthenticationToken")
        await caller.state(place, Authorization="Bearer second")
    assert (await caller.state(place, 100, Authorization="Bearer third"))["status"] == "succeeded"
    assert operation.polls == len(good) + 3
    tokens = [one.headers["authorization"] for one in caller.simulator.polls(operation.copy.operation)]
    assert tokens == [TOKEN] * len(good) + [TOKEN, "Bearer second"] * 2 + ["Bearer third"]


async def test_other_origins(caller: Caller) -> None:
    """A Location and a redirect on another host, where each request is recorded and none is answered."""
    place, _ = await caller.start("/v1.0/teams/operation-foreign/clone")
    assert urlsplit(place).netloc != urlsplit(caller.simulator.url).netloc
    started, operation = await caller.start("/v1.0/teams/redirect-foreign/clone")
    status, _, headers = await caller.ask("GET", started)
    assert status == 302
    assert urlsplit(headers["Location"]).netloc == urlsplit(place).netloc
    for location in (place, headers["Location"]):
        assert await caller.refusal(location.replace("localhost", "127.0.0.1")) == (401, "unauthenticated")
    assert [one.authorized for one in caller.simulator.asked("foreign")] == [True, True]
    assert (await caller.state(started, 10))["status"] == "succeeded"
    assert caller.simulator.polls() == caller.simulator.polls(operation.copy.operation)


@pytest.mark.parametrize("name", ["moved-302", "moved-307", "moved-thrice"])
async def test_redirects_on_the_own_origin(caller: Caller, name: str) -> None:
    """To another place of the status, where a token is asked for, too."""
    place, _ = await caller.start(f"/v1.0/employeeExperience/communities?simulate={name}")
    caller.clock.now = 5
    hops = 0
    while (answer := await caller.ask("GET", place))[0] in (301, 302, 307, 308):
        place, hops = answer[2]["Location"], hops + 1
        assert "://" not in place or place.startswith(f"{caller.simulator.url}/")
        assert (await caller.refusal(place, Authorization=None))[0] == 401
    assert (answer[0], answer[1]["status"], hops) == (200, "running", 3 if name == "moved-thrice" else 1)


async def test_other_scenarios_play_for_operations(caller: Caller) -> None:
    """Their faults; between them the state has the operation's own form."""
    place, _ = await caller.start("/v1.0/teams/busy/clone")
    answers = [await caller.ask("GET", place) for caller.clock.now in (4, 5, 10, 11)]
    assert [status for status, _, _ in answers] == [503, 200, 503, 200]
    assert answers[1][1]["operationType"] == "cloneTeam"
    assert answers[3][1]["status"] == "succeeded"
    status, value, _ = await caller.ask("POST", "/v1.0/teams/rejected-404/clone")
    assert (status, value["error"]["code"]) == (404, "itemNotFound")
    status, value, _ = await caller.ask("POST", "/v1.0/teams")
    assert (status, value["error"]["code"]) == (400, "BadRequest")
    status, value, _ = await caller.ask("DELETE", place)
    assert (status, value["error"]["code"]) == (405, "invalidRequest")


async def test_copies_play_none_of_this(caller: Caller) -> None:
    """A scenario of the chapter, chosen for a copy, is a copy as usual; all are in the table."""
    names = [one.name for title, chapter in CHAPTERS if title.startswith("Operations") for one in chapter]
    assert "token-ends" in names

    async def copied(name: str) -> int:
        return (await caller.ask("POST", f"/v1.0/me/drive/items/{name}/copy", {"name": name}))[0]

    assert set(await asyncio.gather(*map(copied, names))) == {202}
    caller.clock.now = 10
    for operation in caller.simulator.operations.values():
        status, value, _ = await caller.ask("GET", operation.location or "", Authorization=None)
        assert (status, value["status"], value["resourceId"]) == (202, "completed", operation.copy.resource_id)
