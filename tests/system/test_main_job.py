"""The main job, end to end in one process: a copy, its stream, its item."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.simulator import Simulator, running
from tests.support.harness import TOKEN, serving, tail

pytestmark = pytest.mark.virtual_time


async def test_copy_streams_to_its_end_and_its_item_can_be_read(tmp_path: Path) -> None:
    """The stream rises from event 1 to `completed`, and the item is read where `resource` says."""
    async with (
        running(Simulator(seconds=20, steps=10, clock=asyncio.get_running_loop().time)) as upstream,
        serving(upstream.url, tmp_path) as gateway,
    ):
        job = await gateway.copy()
        seen = await tail(gateway.session, job["events"])
        assert [event.id for event in seen] == [str(n) for n in range(1, len(seen) + 1)]
        assert [event.name for event in seen[:-1]] == ["progress"] * (len(seen) - 1)
        assert seen[-1].name == "completed"
        percentages = [event.data["percentageComplete"] for event in seen]
        assert percentages == sorted(percentages)
        assert percentages[0] == 0.0
        assert percentages[-1] == 100.0
        async with gateway.session.get(gateway.url + seen[-1].data["resource"], headers=TOKEN) as response:
            item = await response.json()
        assert response.status == 200
        assert item["name"] == "a copy"
