"""Whether a gateway may still act for what it has."""

from __future__ import annotations

import anyio
import pytest

from gateway.membership import Lease
from tests.conftest import VIRTUAL_TIME

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL_TIME


async def test_a_lease_without_a_term_always_holds() -> None:
    """There is nobody else."""
    lease = Lease()
    await lease.held()
    await anyio.sleep(86400)
    assert lease.holds


async def test_a_lease_counts_from_when_its_renewal_was_sent() -> None:
    """Not from when the answer came."""
    lease = Lease(7.5)
    sent = anyio.current_time()
    await anyio.sleep(3)
    lease.renewed(sent)
    await anyio.sleep(4.4)
    assert lease.holds
    await anyio.sleep(0.2)
    assert not lease.holds


async def test_who_waits_goes_on_with_the_next_renewal() -> None:
    """All of them; one that came too late to be of use lets nobody go on."""
    lease = Lease(5)
    went_on: list[float] = []

    async def wait() -> None:
        await lease.held()
        went_on.append(anyio.current_time())

    begun = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.sleep(10)
        lease.renewed(begun + 2)
        await anyio.sleep(10)
        assert went_on == []
        lease.renewed(anyio.current_time())
    assert went_on == [begun + 20] * 3
