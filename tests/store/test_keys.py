"""Idempotency keys among gateways that share a database: whose a key is, and who learns what became of it."""

from __future__ import annotations

import pytest

from tests.store.test_store import NOW, made
from tests.support.stores import PostgresLives


async def test_a_reservation_of_another_gateway(lives: PostgresLives) -> None:
    """In flight elsewhere, as long as that gateway lives."""
    one, two = lives.store, await lives.join()
    await one.reserve(b"k", b"f", NOW)
    known = await two.reserve(b"k", b"f", NOW)
    assert known is not None
    assert (known.outcome, known.elsewhere) == ("inFlight", True)
    known = await one.reserve(b"k", b"f", NOW)
    assert known is not None
    assert (known.outcome, known.elsewhere) == ("inFlight", False)


@pytest.mark.parametrize("marked", [False, True], ids=["adopted", "marked"])
@pytest.mark.parametrize("outcome", ["refused", "job", "unknown"])
async def test_a_key_in_flight_at_a_gateway_that_lost_its_lease(
    outcome: str, marked: bool, lives: PostgresLives
) -> None:
    """It joins again under another id, twice; what becomes of the request takes effect all the same."""
    one, two = lives.store, await lives.join()
    assert await one.reserve(b"k", b"f", NOW) is None
    for _ in range(2):
        await lives.expire(one)
        if marked:
            await two.expire_members()
        await one.join()
        await two.expire_members()
        known = await two.reserve(b"k", b"f", NOW + 1)
        assert known is not None
        assert (known.outcome, known.elsewhere) == ("unknown" if marked else "inFlight", True)
    if outcome == "refused":
        await one.release_key(b"k", NOW)
    elif outcome == "job":
        await made(one, "j", key=b"k")
    else:
        await one.mark_unknown(b"k", NOW)
        await one.release_key(b"k", NOW)  # too late
    known = await two.reserve(b"k", b"f", NOW + 1)
    if outcome == "refused":
        assert known is None
    else:
        assert known is not None
        assert (known.outcome, known.job_id) == (outcome, "j" if outcome == "job" else None)


async def test_a_key_that_another_gateway_reserved_is_nobody_elses_to_free(lives: PostgresLives) -> None:
    """Even at the same time."""
    one, two = lives.store, await lives.join()
    await one.reserve(b"k", b"f", NOW)
    await two.release_key(b"k", NOW)
    await two.mark_unknown(b"k", NOW)
    known = await two.reserve(b"k", b"f", NOW)
    assert known is not None
    assert known.outcome == "inFlight"
