"""The routes of callbacks, and the headers of a copy request that register one: who may do what, and what it does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.store import CALLBACKS_PER_JOB
from tests.jobs.test_copies import post
from tests.support.fake_receiver import (
    ALLOWED,
    SECRET,
    ask,
    going,
    hanging,
    receiving,
    register,
    saying,
    settled,
    shown,
)
from tests.support.fake_upstream import FakeUpstream, faking
from tests.support.harness import OPERATOR_KEY, TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time

ITEM = "/v1.0/me/drive/items/1"
SECRETS = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")


async def test_registering(tmp_path: Path) -> None:
    """The answer has all that a receiver needs, this once; the list shows scheme and host and no secret."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await gateway.copy(ITEM)
        path = f"/jobs/{job['jobId']}/callbacks"
        url = f"{receiver.url}/in?token=t"
        wish = {"url": url, "events": ["failed", "progress"], "secret": SECRET}
        status, first = await ask(gateway, "POST", path, job["jobKey"], json=wish)
        assert status == 201
        assert first == {"id": first["id"], "url": url, "events": ["progress", "failed"], "secret": SECRET}
        await asyncio.sleep(0.001)  # else both are made at one moment, and their order is that of their ids
        status, second = await ask(gateway, "POST", path, job["jobKey"], json={"url": url})
        assert status == 201
        assert second["events"] == ["completed", "failed"]
        assert SECRETS.fullmatch(second["secret"])
        assert second["id"] != first["id"]
        await receiver.received(1)
        listed = await shown(gateway, job)
        assert [set(callback) for callback in listed] == [{"id", "url", "events", "state", "attempts", "history"}] * 2
        assert [callback["id"] for callback in listed] == [first["id"], second["id"]]
        assert [callback["url"] for callback in listed] == [receiver.url] * 2
        assert [callback["state"] for callback in listed] == ["active"] * 2
        assert listed[1]["attempts"] == 0


async def test_registering_in_one_step_with_the_copy(tmp_path: Path) -> None:
    """The 202 carries the callback, and it is told like any other."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_poll = going(50)
        url = f"{receiver.url}/in?token=t"
        headers: dict[str, Any] = {"Gateway_Callback_Url": url, "Gateway_Callback_Events": "progress , completed"}
        status, job, _ = await post(gateway, **headers)
        assert status == 202
        callback = job["callback"]
        assert callback == {
            "id": callback["id"],
            "url": url,
            "events": ["progress", "completed"],
            "secret": callback["secret"],
        }
        posts = await receiver.received(3)
        assert [one.kind for one in posts] == ["progress", "progress", "completed"]
        assert all(one.path == "/in?token=t" and one.signed_with(callback["secret"]) for one in posts)
        ((listed,), (_, plain, _)) = await settled(gateway, job, "delivered"), await post(gateway)
        assert listed["id"] == callback["id"]
        assert "callback" not in plain
        assert not any(name.startswith("Gateway-") for _, _, asked, _ in upstream.asked for name in asked)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Gateway_Callback_Events": "completed"}, "invalidRequest"),
        ({"Gateway_Callback_Secret": SECRET}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/", "Gateway_Callback_Secret": ""}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/", "Gateway_Callback_Secret": "whsec_c2hvcnQ="}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/", "Gateway_Callback_Secret": SECRET[6:]}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/", "Gateway_Callback_Events": "done"}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/", "Gateway_Callback_Events": ""}, "invalidRequest"),
        ({"Gateway_Callback_Url": ""}, "invalidRequest"),
        ({"Gateway_Callback_Url": "https://127.0.0.1/" + "x" * 2048}, "invalidRequest"),
        ({"Gateway_Callback_Url": "127.0.0.1"}, "callbackUrlNotAllowed"),
        ({"Gateway_Callback_Url": "ftp://127.0.0.1/"}, "callbackUrlNotAllowed"),
        ({"Gateway_Callback_Url": "https://me:word@127.0.0.1/"}, "callbackUrlNotAllowed"),
        ({"Gateway_Callback_Url": "https://127.0.0.2/"}, "callbackUrlNotAllowed"),
        ({"Gateway_Callback_Url": "https://169.254.169.254/"}, "callbackUrlNotAllowed"),
    ],
)
async def test_a_bad_header_starts_nothing(headers: dict[str, Any], code: str, tmp_path: Path) -> None:
    """400 before anything goes upstream, and the idempotency key is free for the request put right."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        status, body, _ = await post(gateway, Idempotency_Key="k", **headers)
        assert (status, body["error"]["code"]) == (400, code)
        assert upstream.asked == []
        status, _, _ = await post(gateway, Idempotency_Key="k", Gateway_Callback_Url="https://127.0.0.1/")
        assert (status, upstream.copies()) == (202, 1)


async def test_a_repeated_copy_shows_its_callback_again(tmp_path: Path) -> None:
    """Its secret too, since the first answer may have been lost; other callbacks of the job are not shown with it."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        headers: dict[str, Any] = {"Idempotency_Key": "k", "Gateway_Callback_Url": receiver.url}
        _, first, _ = await post(gateway, **headers)
        await register(gateway, first, receiver.url)
        status, second, _ = await post(gateway, **headers)
        assert (status, second["callback"]) == (202, first["callback"])
        for change in ({"Gateway_Callback_Url": f"{receiver.url}/x"}, {"Gateway_Callback_Events": "failed"}):
            status, body, _ = await post(gateway, **{**headers, **change})
            assert (status, body["error"]["code"]) == (422, "idempotencyKeyReused")
        status, body, _ = await post(gateway, Idempotency_Key="k")
        assert (status, body["error"]["code"]) == (422, "idempotencyKeyReused")
        path = f"/jobs/{first['jobId']}/callbacks/{first['callback']['id']}"
        assert await ask(gateway, "DELETE", path, first["jobKey"]) == (204, None)
        status, third, _ = await post(gateway, **headers)
        assert (status, third["jobId"]) == (202, first["jobId"])
        assert "callback" not in third
        assert upstream.copies() == 1


async def test_a_receivers_own_secret(tmp_path: Path) -> None:
    """It signs, and is shown neither in the 202 nor in a repeat's answer, after a restart either; without it, or with
    another, the repeat is another request.
    """
    async with faking() as upstream, receiving() as receiver:
        headers: dict[str, Any] = {"Idempotency_Key": "k", "Gateway_Callback_Url": f"{receiver.url}/own"}
        own = {**headers, "Gateway_Callback_Secret": SECRET}
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            status, first, _ = await post(gateway, **own)
            assert (status, set(first["callback"])) == (202, {"id", "url", "events"})
        upstream.on_poll = going()
        async with serving(upstream.url, tmp_path, **ALLOWED) as gateway:
            (told,) = await receiver.received(1)
            assert told.signed_with(SECRET)
            status, again, _ = await post(gateway, **own)
            assert (status // 100, again["callback"]) == (2, first["callback"])
            for other in ("whsec_" + "A" * 32, None):
                secret: dict[str, Any] = {} if other is None else {"Gateway_Callback_Secret": other}
                status, body, _ = await post(gateway, **headers, **secret)
                assert (status, body["error"]["code"]) == (422, "idempotencyKeyReused")
            assert upstream.copies() == 1
            assert not any(SECRET in str(asked) for _, _, asked, _ in upstream.asked)


async def test_a_copy_that_is_refused_leaves_no_callback(tmp_path: Path) -> None:
    """No job, so nobody is told anything."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_copy = saying(409)
        status, _, _ = await post(gateway, Gateway_Callback_Url=receiver.url)
        assert status == 409
        await asyncio.sleep(20)
        assert receiver.posts == []


WRONG: list[Any] = [
    None,
    [],
    {},
    {"url": None},
    {"url": 7},
    {"url": ""},
    {"url": "https://127.0.0.1/" + "x" * 2048},
    {"url": "https://127.0.0.1/", "events": []},
    {"url": "https://127.0.0.1/", "events": "completed"},
    {"url": "https://127.0.0.1/", "events": ["completed", "done"]},
    {"url": "https://127.0.0.1/", "events": [["completed"]]},
    {"url": "https://127.0.0.1/", "events": {"completed": True}},
    {"url": "https://127.0.0.1/", "secret": ""},
    {"url": "https://127.0.0.1/", "secret": 7},
    {"url": "https://127.0.0.1/", "secret": SECRET.removeprefix("whsec_")},
    {"url": "https://127.0.0.1/", "secret": "whsec_c2hvcnQ="},
    {"url": "https://127.0.0.1/", "secret": "whsec_" + "A" * 88},
    {"url": "https://127.0.0.1/", "secret": "whsec_no base64 at all, only as long as some"},
]
NOT_ALLOWED: list[Any] = [
    {"url": "127.0.0.1"},
    {"url": "ftp://127.0.0.1/"},
    {"url": "https://me@127.0.0.1/"},
    {"url": "https://127.0.0.2/"},
    {"url": "https://[::1]/"},
    {"url": "https://2130706433/"},
    {"url": "https://0x7f.1/"},
]


@pytest.mark.parametrize("wish", [*WRONG, *NOT_ALLOWED], ids=str)
async def test_a_wish_that_is_refused(wish: Any, tmp_path: Path) -> None:
    """400 in Graph's shape, and no callback."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await gateway.copy(ITEM)
        status, body = await ask(gateway, "POST", f"/jobs/{job['jobId']}/callbacks", job["jobKey"], json=wish)
        code = "callbackUrlNotAllowed" if wish in NOT_ALLOWED else "invalidRequest"
        assert (status, body["error"]["code"]) == (400, code)
        assert set(body["error"]) == {"code", "message", "innerError"}
        assert await shown(gateway, job) == []


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        (b"", {}, 400),
        (b'{"a":"' + b"x" * 70_000 + b'"}', {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
    ],
)
async def test_a_body_that_cannot_be_read(data: bytes, headers: dict[str, str], status: int, tmp_path: Path) -> None:
    """The same limits as for a copy."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await gateway.copy(ITEM)
        url = f"{gateway.url}/jobs/{job['jobId']}/callbacks"
        headers = {**headers, "Authorization": f"Bearer {job['jobKey']}"}
        async with gateway.session.post(url, data=data, headers=headers) as response:
            assert response.status == status


async def test_without_the_setting_only_public_https_is_allowed(tmp_path: Path) -> None:
    """A loopback receiver and plain http are refused, by route and by header."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path) as gateway:
        job = await gateway.copy(ITEM)
        for url in (receiver.url, "https://127.0.0.1/", "http://93.184.215.14/", "https://93.184.215.14:444/"):
            wish = {"url": url}
            status, body = await ask(gateway, "POST", f"/jobs/{job['jobId']}/callbacks", job["jobKey"], json=wish)
            assert (status, body["error"]["code"]) == (400, "callbackUrlNotAllowed"), url
            status, body, _ = await post(gateway, Gateway_Callback_Url=url)
            assert (status, body["error"]["code"]) == (400, "callbackUrlNotAllowed"), url
        assert upstream.copies() == 1
        assert receiver.posts == []


def routes(job_id: str, callback_id: str) -> list[tuple[str, str]]:
    path = f"/jobs/{job_id}/callbacks"
    return [
        ("GET", path),
        ("POST", path),
        ("POST", f"{path}/{callback_id}/retry"),
        ("DELETE", f"{path}/{callback_id}"),
    ]


async def test_who_may_use_them(tmp_path: Path) -> None:
    """The job's key and the operator's; none, a wrong one, the caller's token or another job's key: 401, no effect."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job, other = await gateway.copy(ITEM), await gateway.copy(ITEM)
        url = "https://127.0.0.1/"
        callback = await register(gateway, job, url)
        for key in (None, "", "wrong", other["jobKey"], TOKEN["Authorization"].split()[1], job["jobId"]):
            for method, path in routes(job["jobId"], callback["id"]):
                status, body = await ask(gateway, method, path, key, json={"url": url})
                assert (status, body["error"]["code"]) == (401, "unauthenticated")
        assert [one["id"] for one in await shown(gateway, job)] == [callback["id"]]
        for key, answers in ((job["jobKey"], [200, 201, 202, 204]), (OPERATOR_KEY, [200, 201, 202, 204])):
            callback = await register(gateway, job, url)
            for (method, path), expected in zip(routes(job["jobId"], callback["id"]), answers, strict=True):
                status, _ = await ask(gateway, method, path, key, json={"url": url})
                assert status == expected


async def test_ids_that_nobody_knows(tmp_path: Path) -> None:
    """404, and which of the two is unknown; a callback is one of its own job alone."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job, other = await gateway.copy(ITEM), await gateway.copy(ITEM)
        callback = await register(gateway, job, "https://127.0.0.1/")
        for method, path in routes("nobody", callback["id"]):
            status, body = await ask(gateway, method, path, OPERATOR_KEY, json={"url": "https://127.0.0.1/"})
            assert (status, body["error"]["code"]) == (404, "jobNotFound")
            status, _ = await ask(gateway, method, path, job["jobKey"], json={"url": "https://127.0.0.1/"})
            assert status == 401
        for job_id, callback_id in ((job["jobId"], "nobody"), (other["jobId"], callback["id"])):
            for method, path in routes(job_id, callback_id)[2:]:
                status, body = await ask(gateway, method, path, OPERATOR_KEY)
                assert (status, body["error"]["code"]) == (404, "callbackNotFound")
        assert len(await shown(gateway, job)) == 1


async def full(gateway: Running, upstream: FakeUpstream) -> dict[str, Any]:
    job = await gateway.copy(ITEM)
    for _ in range(CALLBACKS_PER_JOB):
        await register(gateway, job, "https://127.0.0.1/")
    return job


async def test_one_more_than_a_job_may_have(tmp_path: Path) -> None:
    """409, until one is removed; the list is oldest first."""
    async with faking() as upstream, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await full(gateway, upstream)
        path = f"/jobs/{job['jobId']}/callbacks"
        status, body = await ask(gateway, "POST", path, job["jobKey"], json={"url": "https://127.0.0.1/"})
        assert (status, body["error"]["code"]) == (409, "tooManyCallbacks")
        before = [callback["id"] for callback in await shown(gateway, job)]
        assert len(before) == CALLBACKS_PER_JOB
        assert await ask(gateway, "DELETE", f"{path}/{before[0]}", job["jobKey"]) == (204, None)
        status, _ = await ask(gateway, "DELETE", f"{path}/{before[0]}", job["jobKey"])
        assert status == 404
        newest = await register(gateway, job, "https://127.0.0.1/")
        assert [callback["id"] for callback in await shown(gateway, job)] == [*before[1:], newest["id"]]


async def test_registered_late_it_is_still_told(tmp_path: Path) -> None:
    """On a job that has ended it gets what it wants of the whole log; one that wants nothing of it is done."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_poll = going(30, 60)
        job = await gateway.copy(ITEM)
        seen = await tail(gateway.session, job["events"])
        await register(gateway, job, f"{receiver.url}/all", "progress", "completed")
        await register(gateway, job, f"{receiver.url}/end")
        await register(gateway, job, f"{receiver.url}/none", "failed")
        await settled(gateway, job, "delivered", "delivered", "delivered")
        assert [one.message["data"] for one in receiver.at("/all")] == [event.data for event in seen]
        assert [one.message["data"] for one in receiver.at("/end")] == [seen[-1].data]
        assert receiver.at("/none") == []


async def test_retrying_one_that_was_delivered(tmp_path: Path) -> None:
    """It stays so: nobody is told twice."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_poll = going()
        job = await gateway.copy(ITEM)
        callback = await register(gateway, job, receiver.url)
        await settled(gateway, job, "delivered")
        path = f"/jobs/{job['jobId']}/callbacks/{callback['id']}/retry"
        status, body = await ask(gateway, "POST", path, job["jobKey"])
        assert (status, body["state"]) == (202, "delivered")
        await asyncio.sleep(20)
        assert len(receiver.posts) == 1


async def test_a_watch_that_is_stopped_is_told(tmp_path: Path) -> None:
    """DELETE of the job is its end, as every subscriber sees it."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        job = await gateway.copy(ITEM)
        await register(gateway, job, receiver.url)
        assert await ask(gateway, "DELETE", f"/jobs/{job['jobId']}", job["jobKey"]) == (204, None)
        (told,) = await receiver.received(1)
        assert (told.kind, told.message["data"]["error"]["code"]) == ("failed", "watchStopped")
        await settled(gateway, job, "delivered")


async def test_removed_while_an_attempt_hangs(tmp_path: Path) -> None:
    """The attempt is broken off, and there is no other."""
    async with faking() as upstream, receiving() as receiver, serving(upstream.url, tmp_path, **ALLOWED) as gateway:
        upstream.on_poll = going()
        receiver.answer = hanging
        job = await gateway.copy(ITEM)
        callback = await register(gateway, job, receiver.url)
        await receiver.received(1)
        path = f"/jobs/{job['jobId']}/callbacks/{callback['id']}"
        assert await ask(gateway, "DELETE", path, job["jobKey"]) == (204, None)
        await asyncio.sleep(1)
        assert receiver.open == 0
        await asyncio.sleep(600)
        assert len(receiver.posts) == 1
        assert await shown(gateway, job) == []
