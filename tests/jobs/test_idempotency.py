"""The Idempotency-Key: one copy, however often the request is repeated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.core.errors import StoreUnavailable
from gateway.store import Reservation
from tests.jobs.test_copies import hang, post
from tests.support.fake_upstream import FakeUpstream, answering, faking, reset
from tests.support.harness import Running, serving, tail

pytestmark = pytest.mark.virtual_time


async def again(gateway: Running, upstream: FakeUpstream) -> tuple[int, Any]:
    """Repeat the request; how many copies went upstream must not change."""
    before = upstream.copies()
    status, body, _ = await post(gateway, Idempotency_Key="k")
    assert upstream.copies() == before
    return status, body


async def test_a_repeat_shows_the_first_job(tmp_path: Path) -> None:
    """The same URL and jobKey, and the state as it is now: 202 while it runs, 200 afterwards; nothing is started."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        _, first, headers = await post(gateway, Idempotency_Key="k")
        status, second = await again(gateway, upstream)
        assert status == 202
        assert (second["jobId"], second["jobKey"], second["events"]) == (
            first["jobId"],
            first["jobKey"],
            first["events"],
        )
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        await tail(gateway.session, first["events"])
        status, third, repeated = await post(gateway, Idempotency_Key="k")
        assert (status, third["status"], third["jobKey"]) == (200, "completed", first["jobKey"])
        assert repeated["Location"] == headers["Location"]


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/v1.0/me/drive/items/2/copy"},
        {"path": "/v1.0/me/drive/items/1/copy?a=1"},
        {"path": "/v1.0/me/drive/items/1/archive"},
        {"data": b"{ }"},
        {"Gateway_Label": "a"},
        {"Gateway_Callback_Url": "https://1.1.1.1/"},
    ],
)
async def test_another_request_under_the_key(change: dict[str, Any], tmp_path: Path) -> None:
    """422, and nothing is started."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        await post(gateway, Idempotency_Key="k")
        status, body, _ = await post(gateway, Idempotency_Key="k", **change)
        assert (status, body["error"]["code"]) == (422, "idempotencyKeyReused")
        assert upstream.copies() == 1


async def test_the_key_belongs_to_its_caller(tmp_path: Path) -> None:
    """Under another token it is another key."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        _, first, _ = await post(gateway, Idempotency_Key="k")
        status, second, _ = await post(gateway, Idempotency_Key="k", Authorization="Bearer other")
        assert status == 202
        assert second["jobId"] != first["jobId"]
        assert upstream.copies() == 2


async def test_while_the_first_is_in_flight(tmp_path: Path) -> None:
    """409; then its job."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        let_go = asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            await let_go.wait()
            return await upstream.accept(request)

        upstream.on_copy = slow
        first = asyncio.create_task(post(gateway, Idempotency_Key="k"))
        while upstream.copies() == 0:  # noqa: ASYNC110 - until it is upstream
            await asyncio.sleep(0.01)
        status, body = await again(gateway, upstream)
        assert (status, body["error"]["code"]) == (409, "requestInProgress")
        let_go.set()
        _, job, _ = await first
        status, body = await again(gateway, upstream)
        assert (status, body["jobId"]) == (202, job["jobId"])


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 503])
async def test_a_refusal_without_effect_frees_the_key(status: int, tmp_path: Path) -> None:
    """The same key may try again."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status))
        assert (await post(gateway, Idempotency_Key="k"))[0] == status
        upstream.on_copy = upstream.accept
        assert (await post(gateway, Idempotency_Key="k"))[0] == 202
        assert upstream.copies() == 2


@pytest.mark.parametrize("status", [200, 202, 303, 500, 501, 502, 504, 507])
async def test_any_other_answer_leaves_the_outcome_unknown(status: int, tmp_path: Path) -> None:
    """It is passed on once; repeats are outcomeUnknown, also of a broken exchange."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(lambda: web.Response(status=status))
        assert (await post(gateway, Idempotency_Key="k"))[0] in (status, 502)
        upstream.on_copy = upstream.accept
        for _ in range(2):
            repeated, body = await again(gateway, upstream)
            assert (repeated, body["error"]["code"]) == (502, "outcomeUnknown")


@pytest.mark.parametrize("broken", [hang, reset], ids=["hangs", "resets"])
async def test_a_broken_first(broken: Any, tmp_path: Path) -> None:
    """The repeat of a request whose answer never came starts no second copy."""
    async with faking() as upstream, serving(upstream.url, tmp_path, copy_timeout=5) as gateway:
        upstream.on_copy = broken
        assert (await post(gateway, Idempotency_Key="k"))[0] == 502
        upstream.on_copy = upstream.accept
        status, body = await again(gateway, upstream)
        assert (status, body["error"]["code"]) == (502, "outcomeUnknown")


async def test_nothing_sent_frees_the_key(tmp_path: Path) -> None:
    """As long as upstream cannot be reached, or the gateway is full, the key stays free."""
    async with faking() as upstream, serving(upstream.url, tmp_path, max_jobs=1) as gateway:
        await gateway.copy("/v1.0/me/drive/items/1")
        for _ in range(2):
            status, body, _ = await post(gateway, Idempotency_Key="k")
            assert (status, body["error"]["code"]) == (503, "serviceNotAvailable")
    async with serving("http://127.0.0.1:9", tmp_path) as gateway:
        for _ in range(2):
            status, body, _ = await post(gateway, Idempotency_Key="k")
            assert (status, body["error"]["code"]) == (502, "upstreamUnreachable")


async def test_a_key_lives_as_long_as_its_job(tmp_path: Path) -> None:
    """When the job is forgotten, the key is."""
    async with faking() as upstream, serving(upstream.url, tmp_path, retention=60) as gateway:
        upstream.on_poll = answering(lambda: web.json_response({"status": "completed"}))
        _, first, _ = await post(gateway, Idempotency_Key="k")
        await tail(gateway.session, first["events"])
        await asyncio.sleep(50)
        assert (await again(gateway, upstream))[1]["jobId"] == first["jobId"]
        await asyncio.sleep(20)
        async with gateway.session.get(first["events"]) as response:
            assert response.status == 404
        _, second, _ = await post(gateway, Idempotency_Key="k")
        assert second["jobId"] != first["jobId"]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_key_whose_keeping_got_no_answer(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, since nothing was started; and the key is free, whether or not it had been kept."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        store = gateway.gateway.parts.store
        reserve = store.reserve

        async def lost(key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
            monkeypatch.setattr(store, "reserve", reserve)
            if kept:
                await reserve(key, fingerprint, now)
            raise StoreUnavailable("no answer")

        monkeypatch.setattr(store, "reserve", lost)
        status, _, _ = await post(gateway, Idempotency_Key="k")
        assert status == 503
        assert upstream.copies() == 0
        status, _, _ = await post(gateway, Idempotency_Key="k")
        assert status == 202
        assert upstream.copies() == 1


@pytest.mark.parametrize("what", ["mark_unknown", "release_key"])
async def test_what_became_of_a_key_is_kept_later(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is away it cannot be; then it is, before anything else is asked of it."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        store = gateway.gateway.parts.store

        async def away(_key: bytes, _made: float) -> None:
            raise StoreUnavailable("away")

        upstream.on_copy = reset if what == "mark_unknown" else answering(lambda: web.json_response({}, status=403))
        with monkeypatch.context() as now:
            now.setattr(store, what, away)
            status, _, _ = await post(gateway, Idempotency_Key="k")
            assert status == (502 if what == "mark_unknown" else 403)
            assert (await post(gateway, Idempotency_Key="k"))[0] == 503
        upstream.on_copy = upstream.accept
        status, _, _ = await post(gateway, Idempotency_Key="k")
        assert status == (502 if what == "mark_unknown" else 202)


async def test_a_repeat_while_an_earlier_outcome_is_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they meet, one copy: the late release is the earlier attempt's, and a third hears of the second."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        store = gateway.gateway.parts.store
        reserve, release = store.reserve, store.release_key
        released, go_on = asyncio.Event(), asyncio.Event()

        async def lost(key: bytes, fingerprint: bytes, now: float) -> Reservation | None:
            monkeypatch.setattr(store, "reserve", reserve)
            await reserve(key, fingerprint, now)
            raise StoreUnavailable("no answer")

        async def slow(key: bytes, made: float) -> None:
            released.set()
            await go_on.wait()
            await release(key, made)

        monkeypatch.setattr(store, "reserve", lost)
        monkeypatch.setattr(store, "release_key", slow)
        assert (await post(gateway, Idempotency_Key="k"))[0] == 503
        second = asyncio.create_task(post(gateway, Idempotency_Key="k"))
        await released.wait()
        assert (await post(gateway, Idempotency_Key="k"))[0] == 409
        go_on.set()
        assert (await second)[0] == 202
        assert (await post(gateway, Idempotency_Key="k"))[0] == 202
        assert upstream.copies() == 1


async def test_an_outcome_is_held_until_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one request stores the outcome of another's key, that key's repeat stores it too, and is then free."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        store = gateway.gateway.parts.store
        release = store.release_key
        failed, storing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def fails(_key: bytes, _made: float) -> None:
            monkeypatch.setattr(store, "release_key", slow)
            failed.set()
            raise StoreUnavailable("away")

        async def slow(key: bytes, made: float) -> None:
            monkeypatch.setattr(store, "release_key", release)
            storing.set()
            await go_on.wait()
            await release(key, made)

        monkeypatch.setattr(store, "release_key", fails)
        upstream.on_copy = answering(lambda: web.Response(status=403))
        assert (await post(gateway, Idempotency_Key="first"))[0] == 403
        await failed.wait()
        upstream.on_copy = upstream.accept
        other = asyncio.create_task(post(gateway, Idempotency_Key="other"))
        await storing.wait()
        assert (await post(gateway, Idempotency_Key="first"))[0] == 202
        go_on.set()
        assert (await other)[0] == 202
