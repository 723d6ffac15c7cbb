"""What is asked together: who is served with whom, and who fails with whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from gateway.core.errors import StoreUnavailable
from gateway.store.postgres.pool import MOST, Batches

pytestmark = pytest.mark.virtual_time


async def test_those_behind_a_failure_fail_at_once() -> None:
    """They would only wait as long for the same: a database that hangs costs each of them one patience, not many."""
    turns = 0

    async def away(_asked: Sequence[int]) -> Sequence[int]:
        nonlocal turns
        turns += 1
        await anyio.sleep(5)
        raise StoreUnavailable("away")

    batches: Batches[int, int] = Batches(away)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        asked = [batches.ask(number) for number in range(10 * MOST)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in found)
        assert turns == 1
        assert anyio.current_time() < 6
        tasks.cancel_scope.cancel()


async def test_who_does_not_wait_any_more_is_not_served() -> None:
    """Their turn would be for nobody."""
    served: list[int] = []

    async def serve(asked: Sequence[int]) -> Sequence[int]:
        served.extend(asked)
        return asked

    batches: Batches[int, int] = Batches(serve)
    gone, stays = batches.ask(1), batches.ask(2)
    gone.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        assert await stays == 2
        tasks.cancel_scope.cancel()
    assert served == [2]


async def test_one_at_fault_harms_no_other() -> None:
    """An error that is its own."""

    async def serve(asked: Sequence[int]) -> Sequence[int]:
        if 3 in asked:
            raise ValueError("three")
        return asked

    batches: Batches[int, int] = Batches(serve)
    asked = [batches.ask(number) for number in range(5)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batches.run)
        found = await asyncio.gather(*asked, return_exceptions=True)
        tasks.cancel_scope.cancel()
    assert [one for one in found if isinstance(one, int)] == [0, 1, 2, 4]
    assert isinstance(found[3], ValueError)
