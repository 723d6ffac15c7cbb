"""A gateway delivers what it owns: the latest version of a callback, and only while it has its lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest

from gateway.callbacks.engine import Callbacks
from gateway.callbacks.receivers import Receivers
from gateway.core.callback import Callback, Delivered, Outcome, callback_request, new_callback
from gateway.core.job import Job
from gateway.membership import Lease
from gateway.telemetry.tracing import Tracing
from tests.callbacks.test_limits import BEGUN, Ended, now
from tests.support.fake_receiver import SECRET
from tests.support.harness import runtime

pytestmark = pytest.mark.virtual_time


class Stored(Ended):
    """A store that has the callback under an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.saved: list[str] = []

    async def save_callback(self, callback: Callback) -> bool:
        if callback.epoch != self.epoch:
            return False
        self.saved.append(callback.state)
        return True


class Slow(Receivers):
    """A receiver that takes a second for each event."""

    def __init__(self) -> None:
        self.told = 0

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
        await anyio.sleep(1)
        self.told += 1
        return Delivered()


@pytest.mark.parametrize(
    ("stored", "steps", "told"),
    [
        (2, [("take", 1), ("take", 2)], 1),
        (2, [("take", 2), ("take", 1)], 1),
        (3, [("take", 3), ("leave_to", 2)], 1),
        (3, [("take", 3), ("leave_to", 3)], 1),
        (4, [("take", 3), ("leave_to", 4)], 0),
        (4, [("take", 3), ("drop", None)], 0),
    ],
)
async def test_the_latest_version(stored: int, steps: list[tuple[str, int | None]], told: int) -> None:
    """Two retries may be answered in another order than they were made, and word of one may come after the next."""
    store, receiver = Stored(stored), Slow()
    given: Any = store
    async with anyio.create_task_group() as tasks:
        engine = Callbacks(given, receiver, runtime(tasks, lambda: BEGUN + now()))
        engine.start()
        callback = new_callback(callback_request("https://receiver.example/", None, SECRET), "j", "c", BEGUN)
        for what, epoch in steps:
            match what:
                case "take":
                    engine.take(msgspec.structs.replace(callback, epoch=epoch))
                case "leave_to":
                    assert epoch is not None
                    engine.leave_to("c", epoch)
                case _:
                    engine.drop("c")
            await anyio.sleep(0.1)
        await anyio.sleep(20)
        assert (receiver.told, store.saved) == (told, ["delivered"] * told)
        assert engine.active == 0
        tasks.cancel_scope.cancel()


class Traced(Tracing):
    on = True


async def test_a_lease_that_ends_while_the_trace_is_read() -> None:
    """Another gateway may deliver the callback by then."""

    class SlowToTell(Stored):
        async def get(self, job_id: str) -> Job | None:
            await anyio.sleep(4)
            return None

    given: Any = SlowToTell(1)
    receiver, lease = Slow(), Lease(5)
    async with anyio.create_task_group() as tasks:
        shared = msgspec.structs.replace(runtime(tasks, lambda: BEGUN + now(), lease), tracing=Traced())
        engine = Callbacks(given, receiver, shared)
        engine.start()
        lease.renewed(now() - 3)
        engine.take(new_callback(callback_request("https://receiver.example/", None, SECRET), "j", "c", BEGUN))
        await anyio.sleep(20)
        assert receiver.told == 0
        lease.renewed(now())
        await anyio.sleep(20)
        assert receiver.told == 1
        tasks.cancel_scope.cancel()
