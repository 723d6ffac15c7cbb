"""A process that may be killed at any step while it polls under a token: the job asks for another, and ends once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from multidict import CIMultiDict

from gateway.core.job import State, Target, accepted
from gateway.graph.client import Monitor
from gateway.jobs.poller import Poller
from gateway.jobs.tokens import Token
from gateway.outbound.exchange import Address
from gateway.outbound.reply import Reply
from gateway.store import Store, sqlite
from tests.support.callback_lives import lived
from tests.support.dying import ThreadInTheLoop, left_behind
from tests.support.harness import poll_context, runtime
from tests.support.stores import open_sqlite

BEGUN = 1.7e9
WORDS = ["notStarted", "inProgress", "inProgress", "running", "succeeded"]


class Operation:
    """A status that goes on with each poll under one of two tokens, of which the first ends after two."""

    def __init__(self) -> None:
        self.polls: list[str | None] = []

    def allows(self, _url: str) -> bool:
        return False

    def monitor(self, url: str, _operation: object) -> Monitor:
        return Monitor(url, Address(url, b"", None), None, "h:443", is_own=True)

    async def poll(self, _monitor: Monitor, _headers: object, authorization: str | None) -> Reply:
        await anyio.sleep(0.01)
        self.polls.append(authorization)
        if authorization == "Bearer secret-1" and len(self.polls) > 2:
            return Reply(401, CIMultiDict(), b"")
        body = msgspec.json.encode({"status": WORDS[min(len(self.polls), len(WORDS)) - 1]})
        return Reply(200, CIMultiDict(), body)


@asynccontextmanager
async def life(folder: Path, upstream: Any) -> AsyncIterator[tuple[Store, Poller]]:
    loop = asyncio.get_running_loop()
    store = open_sqlite(folder / "s.db")
    try:
        async with anyio.create_task_group() as tasks:
            own = runtime(tasks, lambda: BEGUN + loop.time())
            poller = Poller(poll_context(own, store, upstream, deadline=1e6))
            poller.take_up(await store.claim())
            yield store, poller
            tasks.cancel_scope.cancel()
    finally:
        await store.close()


async def state(store: Store) -> State | None:
    job = await store.get("j")
    return None if job is None else job.state


async def to_the_end(store: Store, poller: Poller) -> None:
    """Hand in a token whenever the job asks for one."""
    while (now := await state(store)) is not None and not now.ended:
        if now.trouble is not None and now.trouble.code == "tokenRequired":
            await poller.hand_in("j", Token("Bearer secret-2", 3600))
        await anyio.sleep(1)


def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a life with a token that is refused in mid-job and another that is handed in."""
    monkeypatch.setattr(sqlite, "SQLiteThread", ThreadInTheLoop)
    monkeypatch.setattr(ThreadInTheLoop, "chance", random.Random(1))
    upstream = Operation()
    (tmp_path / "first").mkdir()
    points: dict[tuple[int, int], Path] = {}

    def before_step() -> None:
        point = (ThreadInTheLoop.commits, len(upstream.polls))
        if begun and point not in points:
            points[point] = left_behind(tmp_path / "first", tmp_path / f"left-{len(points)}")

    begun = False

    async def first_life() -> None:
        nonlocal begun
        async with life(tmp_path / "first", upstream) as (store, poller):
            target = Target(action="copyNotebook")
            job, events = accepted("j", monitor="https://h/v1.0/o", target=target, now=BEGUN)
            begun = True
            await store.create(job, events, None)
            poller.watch(job, upstream.monitor("https://h/v1.0/o", None), Token("Bearer secret-1", 3600))
            await to_the_end(store, poller)
            begun = False

    lived(before_step, first_life)
    assert set(upstream.polls) == {"Bearer secret-1", "Bearer secret-2"}
    assert len(points) > 10
    for left in points.values():
        for path in left.iterdir():
            assert b"secret-" not in path.read_bytes()
        after = Operation()
        kinds: list[str] = []
        lived(lambda: None, partial(_another_life, left, after, kinds))
        assert kinds == [] or [kind for kind in kinds if kind != "progress"] == ["completed"]
        assert set(after.polls) <= {"Bearer secret-2"}


async def _another_life(folder: Path, upstream: Operation, kinds: list[str]) -> None:
    async with life(folder, upstream) as (store, poller):
        await to_the_end(store, poller)
        (piece,) = await store.read([("j", 0)], 64)
        kinds.extend(event.kind for event in (piece.events if piece else ()))
