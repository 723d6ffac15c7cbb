"""Receivers that hang, and what they cannot do to others; and callbacks over the gateway's stop and restart."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from gateway.callbacks import engine as callbacks
from gateway.callbacks import limits
from tests.support.fake_receiver import (
    ALLOWED,
    FakeReceiver,
    going,
    hanging,
    in_turn,
    receiving,
    register,
    saying,
    settled,
    shown,
)
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import Running, serving, tail

pytestmark = pytest.mark.virtual_time

ITEM = "/v1.0/me/drive/items/1"
OK = saying(204)


def now() -> float:
    return asyncio.get_running_loop().time()


async def ended(gateway: Running, upstream: FakeUpstream) -> dict[str, Any]:
    upstream.on_poll = going()
    job = await gateway.copy(ITEM)
    await tail(gateway.session, job["events"])
    return job


async def told_soon(gateway: Running, upstream: FakeUpstream, receiver: FakeReceiver) -> None:
    """A new callback to this receiver is delivered at once."""
    job = await ended(gateway, upstream)
    asked = now()
    count = len(receiver.posts)
    await register(gateway, job, receiver.url)
    posts = await receiver.received(count + 1)
    assert posts[-1].at - asked < 0.5
    await settled(gateway, job, "delivered")


async def test_a_dead_receiver_holds_its_own_places_only(tmp_path: Path) -> None:
    """So many attempts at once and no more; all its callbacks get their turn; other receivers do not wait."""
    many = 2 * limits.PER_HOST + 3
    most = limits.PER_HOST + limits.PER_HOST_AGAIN
    async with (
        faking() as upstream,
        receiving() as dead,
        receiving() as good,
        serving(upstream.url, tmp_path, **ALLOWED) as gateway,
    ):
        dead.answer = hanging
        for _ in range(2):
            job = await ended(gateway, upstream)
            for number in range(many // 2 + 1):
                await register(gateway, job, f"{dead.url}/{job['jobId']}/{number}")
        await told_soon(gateway, upstream, good)
        assert dead.open == limits.PER_HOST
        await asyncio.sleep(60)
        assert dead.most_open <= most
        assert len({post.path for post in dead.posts}) == 2 * (many // 2 + 1)


async def test_slow_receivers_leave_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hosts hang: once they are known to, they share a few places, and the others have theirs."""
    for lane in ("QUICK_AT_ONCE", "NEW_AT_ONCE", "AGAIN_AT_ONCE", "LATE_AT_ONCE"):
        monkeypatch.setattr(limits, lane, 2)
    async with faking() as upstream, receiving() as good, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(receiving()) for _ in range(6)]
        gateway = await stack.enter_async_context(serving(upstream.url, tmp_path, **ALLOWED))
        await told_soon(gateway, upstream, good)
        job = await ended(gateway, upstream)
        for receiver in slow:
            receiver.answer = hanging
            await register(gateway, job, receiver.url)
        held = 0
        for _ in range(30):
            await asyncio.sleep(1)
            held = max(held, sum(receiver.open for receiver in slow))
            await told_soon(gateway, upstream, good)
        assert 4 <= held <= 6
        await asyncio.sleep(80)
        assert all(len(receiver.posts) >= 2 for receiver in slow)


async def test_an_answer_whose_body_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head has decided: the attempt succeeded, also when it is broken off to make room for others."""
    monkeypatch.setattr(limits, "LATE_AT_ONCE", 0)

    async def begun(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(100_000)
        return response

    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        receiver.answer = begun
        job = await ended(gateway, upstream)
        await register(gateway, job, receiver.url)
        await receiver.received(1)
        begun_at = now()
        await settled(gateway, job, "delivered")
        assert now() - begun_at < limits.SLOW + 0.5
        await asyncio.sleep(1)
        assert (len(receiver.posts), receiver.open) == (1, 0)


async def test_what_comes_while_one_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress that gives way does so up to the moment of the attempt."""
    monkeypatch.setattr(limits, "PER_HOST_AGAIN", 1)
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        other = await ended(gateway, upstream)
        upstream.on_poll = going(10, end=None)
        by_path = {"/waits": in_turn(saying(500), OK), "/hangs": in_turn(saying(429, Retry_After="1"), hanging)}

        async def answer(request: web.Request) -> web.StreamResponse:
            return await by_path[request.path](request)

        receiver.answer = answer
        job = await gateway.copy(ITEM)
        await asyncio.sleep(1)
        await register(gateway, job, f"{receiver.url}/waits", "progress")
        await receiver.received(1)
        await register(gateway, other, f"{receiver.url}/hangs")
        await asyncio.sleep(8)
        upstream.on_poll = going(50, end=None)
        first, second = await receiver.received(2, "/waits")
        assert second.at - first.at > 14
        assert (first.percentage, second.percentage) == (0, 50)


async def test_a_stop_lets_attempts_finish(tmp_path: Path) -> None:
    """For a moment: what was answered by then is stored, and not told again."""
    async with faking() as upstream, receiving() as receiver:

        async def late(_request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(callbacks.STOP_GRACE - 0.5)
            return web.Response()

        receiver.answer = late
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            job = await ended(gateway, upstream)
            await register(gateway, job, receiver.url)
            await receiver.received(1)
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            assert [callback["state"] for callback in await shown(gateway, job)] == ["delivered"]
            await asyncio.sleep(600)
        assert len(receiver.posts) == 1


async def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    """An attempt that hangs is broken off after its moment, and repeated under its id by the next start."""
    async with faking() as upstream, receiving() as receiver:
        receiver.answer = hanging
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            job = await ended(gateway, upstream)
            await register(gateway, job, receiver.url)
            await receiver.received(1)
            stopped = now()
        assert callbacks.STOP_GRACE <= now() - stopped < callbacks.STOP_GRACE + 2
        assert receiver.open == 0
        receiver.answer = OK
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            await settled(gateway, job, "delivered")
        first, second = receiver.posts
        assert (second.id, second.body) == (first.id, first.body)


async def test_a_stop_begins_no_attempt(tmp_path: Path) -> None:
    """Neither those that wait for their time nor those that wait for room; the next start takes them all up."""
    many = limits.PER_HOST + 4
    async with faking() as upstream, receiving() as receiver:
        receiver.answer = hanging
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            job = await ended(gateway, upstream)
            for number in range(many):
                await register(gateway, job, f"{receiver.url}/{number}")
            await receiver.received(limits.PER_HOST)
        assert len(receiver.posts) == limits.PER_HOST
        receiver.answer = OK
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            await settled(gateway, job, *["delivered"] * many)
        assert len(receiver.posts) == limits.PER_HOST + many


async def test_when_it_is_due_survives_a_restart(tmp_path: Path) -> None:
    """Neither at once nor from the beginning: where the wait was, and with the tries that are left."""
    async with faking() as upstream, receiving() as receiver:
        receiver.answer = saying(500)
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            job = await ended(gateway, upstream)
            await register(gateway, job, receiver.url)
            (first,) = await receiver.received(1)
            await asyncio.sleep(1)
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            _, second = await receiver.received(2)
            await asyncio.sleep(1)
            (failing,) = await shown(gateway, job)
            assert failing["attempts"] == 2
        assert 3 < second.at - first.at < 10
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            _, _, third = await receiver.received(3)
            assert third.at - second.at > 200
            receiver.answer = OK
            assert len({post.id for post in receiver.posts}) == 1


async def test_what_happened_while_it_was_away_is_told_afterwards(tmp_path: Path) -> None:
    """The log goes on where it was, and so does the cursor."""
    async with faking() as upstream, receiving() as receiver:
        upstream.on_poll = going(10, end=None)
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            job = await gateway.copy(ITEM)
            await register(gateway, job, receiver.url, "progress", "completed")
            await receiver.received(2)
            await anyio.sleep(0.5)
        upstream.on_poll = going(20)
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            await settled(gateway, job, "delivered")
        assert [post.percentage for post in receiver.posts] == [0, 10, 20, 100]
