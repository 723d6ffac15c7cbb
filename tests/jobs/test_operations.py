"""Operations whose status asks for a token: what is asked for it, under which token, and what becomes of the job."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from gateway.core.errors import StoreUnavailable
from gateway.core.job import Event, Job, Target
from gateway.graph import operations
from gateway.graph.operations import COPY, OPERATIONS, Operation
from gateway.jobs.schedule import Bounds, bounds_of
from gateway.jobs.tokens import seconds_left
from gateway.store.sqlite import SQLiteStore
from tests.jobs.test_siblings import ask, started
from tests.support.fake_upstream import FakeUpstream, answering, serving_fake
from tests.support.harness import OPERATOR, TOKEN, Running, serving, tail

pytestmark = pytest.mark.virtual_time

UNDER_TOKEN = [operation for operation in OPERATIONS if operation.asks_for_token]
TEAM = "/v1.0/teams/t1/clone"
PLACE = "/teams('t2')/operations('op')"
WORDS = {"notStarted": 200, "inProgress": 200, "succeeded": 200}


def named(operation: Operation) -> Any:
    return pytest.param(operation, id=operation.action)


def path_of(operation: Operation, version: str = "v1.0") -> str:
    """A path that starts it."""
    path = operation.path
    for part, value in {
        "{item}": "me/drive/items/1",
        "{owner}": "users/a@b",
        "[lists/{id}/]": "",
        "{id}": "x,1",
    }.items():
        path = path.replace(part, value)
    return f"/{version}/{path}"


def jwt(**claims: Any) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "n"}, claims)
    ]
    return ".".join([*parts, "signature"])


class Operations(FakeUpstream):
    """An upstream whose starts answer with `headers`, and whose statuses are `told`, under the tokens in `good`."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[str, str] = {"Location": PLACE}
        self.told: list[dict[str, Any]] = [{"status": "notStarted"}, {"status": "succeeded"}]
        self.good: set[str] = {TOKEN["Authorization"]}
        self.on_copy = self.begin
        self.on_item = self.status

    async def begin(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=202, headers=self.headers)

    async def status(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") not in self.good:
            return web.json_response({"error": {"code": "InvalidAuthenticationToken"}}, status=401)
        return web.json_response(self.told.pop(0) if len(self.told) > 1 else self.told[0])

    def tokens(self) -> list[str | None]:
        """Those under which the status was asked for."""
        return [headers.get("Authorization") for method, _, headers, _ in self.asked if method == "GET"]

    def places(self) -> list[str]:
        return [path for method, path, *_ in self.asked if method == "GET"]


async def hand_in(gateway: Running, job: dict[str, Any], token: object, **more: str) -> int:
    url = f"{gateway.url}/jobs/{job['jobId']}/token"
    headers = {"Authorization": f"Bearer {job['jobKey']}", **more}
    async with gateway.session.put(url, json={"token": token}, headers=headers) as response:
        return response.status


async def listed(gateway: Running) -> list[Any]:
    async with gateway.session.get(f"{gateway.url}/jobs", headers=OPERATOR) as response:
        found: list[Any] = (await response.json())["value"]
        return found


async def stop(gateway: Running, job: dict[str, Any]) -> int:
    headers = {"Authorization": f"Bearer {job['jobKey']}"}
    async with gateway.session.delete(f"{gateway.url}/jobs/{job['jobId']}", headers=headers) as response:
        return response.status


async def until(gateway: Running, job: dict[str, Any], reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job's state, once it has `reached` it."""
    headers: dict[str, str] = {}
    state: dict[str, Any] = {}
    with anyio.fail_after(86_400):
        while not state or not reached(state):
            async with gateway.session.get(f"{gateway.url}/jobs/{job['jobId']}", headers=headers) as response:
                if response.status != 304:
                    state = await response.json()
                    headers = {"If-None-Match": response.headers["ETag"], "Prefer": "wait=60"}
    return state


def asks(state: dict[str, Any]) -> bool:
    return bool(state.get("trouble", {}).get("code") == "tokenRequired")


@pytest.mark.parametrize("operation", [named(one) for one in UNDER_TOKEN])
@pytest.mark.parametrize("version", ["v1.0", "beta"])
async def test_a_202_becomes_a_job(operation: Operation, version: str, tmp_path: Path) -> None:
    """As for a copy, with the path of the status; the status is asked for under the caller's token until it ends."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.headers["Content-Location"] = "/teams('t2')"
        upstream.told[-1] |= {"targetResourceId": "t2", "targetResourceLocation": "/teams('t2')"}
        status, job, headers = await ask(gateway, operation.method, path_of(operation, version), b'{"a":1}')
        assert (status, job["operation"], job["status"]) == (202, operation.name, "notStarted")
        assert (job["operationLocation"], headers["Content-Location"]) == (f"/{version}{PLACE}", "/teams('t2')")
        assert headers["Location"] == f"{gateway.url}/jobs/{job['jobId']}"
        ((method, path, _, body),) = started(upstream)
        assert (method, path, body) == (operation.method, path_of(operation, version), b'{"a":1}')
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert (last["status"], last["resourceId"], last["resource"]) == ("completed", "t2", f"/{version}/teams('t2')")
        assert upstream.places() == [f"/{version}{PLACE}"] * 2
        assert upstream.tokens() == [TOKEN["Authorization"]] * 2
        assert {one[2].get("Prefer") for one in upstream.asked[1:]} == {"include-unknown-enum-members"}


@pytest.mark.parametrize(
    ("headers", "place"),
    [
        ({"Location": "{url}/v1.0/a/operations/1"}, "/v1.0/a/operations/1"),
        ({"Location": "/beta/a/operations/1"}, "/beta/a/operations/1"),
        ({"Location": "teams('x')/operations('y')"}, "/v1.0/teams('x')/operations('y')"),
        ({"Location": "/elsewhere", "Operation-Location": "{url}/v1.0/b"}, "/v1.0/b"),
        ({"Operation-Location": "/elsewhere", "Azure-AsyncOperation": "{url}/v1.0/c?d=%2F"}, "/v1.0/c?d=%2F"),
        ({"Location": "", "Operation-Location": "/v1.0/o"}, "/v1.0/o"),
        ({"Location": "/sites/r/operations/contentTypeCopy,0x0101"}, "/v1.0/sites/r/operations/contentTypeCopy,0x0101"),
        ({"Location": "{url}//evil.example/1"}, "/.//evil.example/1"),
        ({"Location": "{url}?a=b"}, "/?a=b"),
    ],
)
async def test_where_the_status_is(headers: dict[str, str], place: str, tmp_path: Path) -> None:
    """The first of three headers; a path without a version is under the request's own. No path reads as a host."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.headers = {name: value.replace("{url}", upstream.url) for name, value in headers.items()}
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        await tail(gateway.session, job["events"])
        assert (job["operationLocation"], set(upstream.places())) == (place, {place.removeprefix("/.")})


@pytest.mark.parametrize(
    "place",
    [
        "https://contoso.sharepoint.com/_api/v2.0/monitor/1",
        "http://127.0.0.1:9/v1.0/operations/1",
        "//evil.example/v1.0/operations/1",
        "https://graph.microsoft.com/v1.0/operations/1",
        "{url}@evil.example/v1.0/operations/1",
        "ftp://evil.example/1",
    ],
)
async def test_a_status_elsewhere_is_refused(place: str, tmp_path: Path) -> None:
    """Upstream's own origin alone gets the token: nothing else is asked, and there is no job."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.headers = {"Location": place.replace("{url}", upstream.url)}
        status, body, _ = await ask(gateway, "POST", TEAM, b"{}")
        assert status == 502
        assert body["error"]["code"] in ("monitorHostNotAllowed", "invalidUpstreamResponse")
        await anyio.sleep(100)
        assert len(upstream.asked) == 1
        assert await listed(gateway) == []


@pytest.mark.parametrize(
    ("status", "headers", "wanted"),
    [(200, {}, 200), (201, {"Content-Location": "/x"}, 201), (202, {}, 202), (204, {}, 204), (403, {}, 403)],
)
async def test_any_other_answer_comes_back(status: int, headers: dict[str, str], wanted: int, tmp_path: Path) -> None:
    """Done at once, refused, or without a status to watch: there is no job."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_copy = answering(
            lambda: web.Response(status=status, headers=headers, text="" if status == 204 else "b")
        )
        got, body, kept = await ask(gateway, "POST", TEAM, b"{}")
        assert (got, body) == (wanted, b"" if status == 204 else b"b")
        assert kept.get("Content-Location") == headers.get("Content-Location")
        assert await listed(gateway) == []


async def redirects(upstream: Operations, to: str) -> None:
    """Let the first place answer with a redirect."""
    status = upstream.on_item

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == f"/v1.0{PLACE}":
            return web.Response(status=302, headers={"Location": to})
        return await status(request)

    upstream.on_item = answer


async def test_a_redirect_takes_the_token_along_at_home_only(tmp_path: Path) -> None:
    """Another origin, though its host is allowed, gets none."""
    async with serving_fake(Operations()) as upstream, serving_fake(Operations()) as other:
        other.good = {""}
        for origin, tokens in ((upstream.url, [TOKEN["Authorization"]]), (other.url, [None])):
            folder = tmp_path / str(len(tokens[0] or ""))
            folder.mkdir()
            async with serving(upstream.url, folder) as gateway:
                await redirects(upstream, f"{origin}/v1.0/moved")
                _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
                await anyio.sleep(61)
                assert set((other if origin == other.url else upstream).tokens()[1:2]) <= set(tokens)
                upstream.on_item = upstream.status
                assert await stop(gateway, job) == 204
        assert TOKEN["Authorization"] not in other.tokens()
        assert TOKEN["Authorization"] not in str(other.asked)


async def test_a_redirect_that_leads_back(tmp_path: Path) -> None:
    """Once elsewhere, the token is sent no more: another host must not say what it is sent to."""
    async with serving_fake(Operations()) as upstream, serving_fake(Operations()) as other:
        async with serving(upstream.url, tmp_path) as gateway:
            await redirects(upstream, f"{other.url}/v1.0/moved")
            other.on_item = answering(
                lambda: web.Response(status=302, headers={"Location": f"{upstream.url}/v1.0/back"})
            )
            await ask(gateway, "POST", TEAM, b"{}")
            await anyio.sleep(31)
        assert upstream.places() == [f"/v1.0{PLACE}", "/v1.0/back"]
        assert upstream.tokens() == [TOKEN["Authorization"], None]
        assert other.tokens() == [None]


async def test_a_token_that_is_refused(tmp_path: Path) -> None:
    """The job has not failed: its polls rest until a fresh one is handed in, and only that one is used from then on."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.told = [{"status": "inProgress"}]
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        await until(gateway, job, lambda state: state["status"] == "inProgress")
        upstream.good = {"Bearer fresh"}
        state = await until(gateway, job, asks)
        assert (state["status"], "error" in state) == ("inProgress", False)
        before = len(upstream.asked)
        await anyio.sleep(7200)
        assert len(upstream.asked) == before
        assert await hand_in(gateway, job, "stale") == 204
        await anyio.sleep(1)
        assert asks(await until(gateway, job, bool))
        assert upstream.tokens()[before - 1 :] == ["Bearer stale"]
        upstream.told = [{"status": "succeeded"}]
        assert await hand_in(gateway, job, "bearer fresh") == 204
        seen = [event.data for event in await tail(gateway.session, job["events"])]
        assert (seen[-1]["status"], upstream.tokens()[-1]) == ("completed", "Bearer fresh")
        assert [asks(one) for one in seen].count(True) == 1
        assert await hand_in(gateway, job, "fresh") == 409


@pytest.mark.parametrize(("token", "rests_after"), [("opaque", 3600), (None, 120)])
async def test_a_token_that_ends(token: str | None, rests_after: int, tmp_path: Path) -> None:
    """By its `exp`, else after an hour; it is not sent any more."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.told = [{"status": "inProgress"}]
        given = f"Bearer {token or jwt(exp=time.time() + 120, aud='graph')}"
        upstream.good = {given}
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}", Authorization=given)
        await anyio.sleep(rests_after - 5)
        assert not asks(await until(gateway, job, bool))
        await until(gateway, job, asks)
        asked = len(upstream.asked)
        await anyio.sleep(3600)
        assert len(upstream.asked) == asked


@pytest.mark.parametrize(
    ("claims", "seconds"),
    [
        (b'{"exp": 160}', 60),
        (b'{"exp": 160.5, "aud": ["x"]}', 60.5),
        (b'{"exp": 0}', -100),
        (b'{"exp": 1e308}', 1e308),
        (b'{"exp": ' + b"9" * 400 + b"}", 3600),
        (b'{"exp": "160"}', 3600),
        (b'{"exp": true}', 3600),
        (b'{"exp": null}', 3600),
        (b"[1]", 3600),
        (b"{", 3600),
        (b"\xff", 3600),
        (b"[" * 100_000, 3600),
        (b'{"a": ' * 100_000, 3600),
    ],
)
def test_how_long_a_token_lasts(claims: bytes, seconds: float) -> None:
    """By what it says of itself, whatever that is."""
    token = f"head.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.signature"
    assert seconds_left(f"Bearer {token}", 100) == seconds
    assert seconds_left("Bearer a.%é.c", 100) == seconds_left("Basic x", 100) == seconds_left("", 100) == 3600


async def test_a_token_lifts_no_wait(tmp_path: Path) -> None:
    """Upstream is asked no sooner than it said, however often a token is handed in; then under the newest."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.on_item = answering(lambda: web.Response(status=429, headers={"Retry-After": "300"}))
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        await anyio.sleep(60)
        for number in range(10):
            assert await hand_in(gateway, job, f"token-{number}") == 204
            await anyio.sleep(10)
        assert upstream.tokens() == [TOKEN["Authorization"]]
        await anyio.sleep(200)
        assert upstream.tokens() == [TOKEN["Authorization"], "Bearer token-9"]


async def test_a_token_lifts_no_wait_of_another_process(tmp_path: Path) -> None:
    """Upstream is asked no sooner than it said to the one before."""
    async with serving_fake(Operations()) as upstream:
        async with serving(upstream.url, tmp_path) as gateway:
            _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
            upstream.on_item = answering(lambda: web.Response(status=429, headers={"Retry-After": "300"}))
            await anyio.sleep(60)
        async with serving(upstream.url, tmp_path) as gateway:
            assert await hand_in(gateway, job, "another") == 204
            await anyio.sleep(200)
            assert upstream.tokens() == [TOKEN["Authorization"]]
            await anyio.sleep(300)
            assert upstream.tokens() == [TOKEN["Authorization"], "Bearer another"]


async def test_a_token_that_comes_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that waits for the store is kept: what a status says once, another poll may not find again."""
    append = SQLiteStore.append
    is_away = True

    async def held(store: SQLiteStore, job: Job, events: Sequence[Event]) -> bool:
        if job.state.ended and is_away:
            raise StoreUnavailable("away")
        return await append(store, job, events)

    monkeypatch.setattr(SQLiteStore, "append", held)
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.told = [{"status": "succeeded"}, {"status": "failed"}]
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        await anyio.sleep(40)
        assert await hand_in(gateway, job, "another") == 409
        is_away = False
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert (last["status"], upstream.tokens()) == ("completed", [TOKEN["Authorization"]])


async def test_a_restart(tmp_path: Path) -> None:
    """The token went with the process: the job asks for one, its deadline goes on, and it goes on under the new one."""
    async with serving_fake(Operations()) as upstream:
        upstream.told = [{"status": "inProgress"}]
        async with serving(upstream.url, tmp_path) as gateway:
            _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
            _, other, _ = await ask(gateway, "POST", TEAM, b"{}")
            await until(gateway, job, lambda state: state["status"] == "inProgress")
        asked = len(upstream.asked)
        async with serving(upstream.url, tmp_path, job_deadline=7200) as gateway:
            for one in (job, other):
                await until(gateway, one, asks)
            assert len(upstream.asked) == asked
            upstream.told = [{"status": "succeeded"}]
            assert await hand_in(gateway, job, TOKEN["Authorization"]) == 204
            last = (await tail(gateway.session, f"{gateway.url}/jobs/{job['jobId']}/events"))[-1].data
            assert (last["status"], last.get("trouble")) == ("completed", None)
            last = await until(gateway, other, lambda state: "error" in state)
            assert (last["error"]["code"], len(upstream.tokens())) == ("deadlineExceeded", asked - 2 + 1)


@pytest.mark.parametrize(
    ("token", "status"),
    [(None, 400), ("", 400), (7, 400), ("a b", 400), ("é", 400), ("x" * 65_537, 413), ({}, 400), ("ended", 400)],
)
async def test_what_is_no_token(token: object, status: int, tmp_path: Path) -> None:
    """A clear error that does not hold it, and no effect."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.told = [{"status": "inProgress"}]
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        assert await hand_in(gateway, job, jwt(exp=time.time() - 1) if token == "ended" else token) == status
        await anyio.sleep(100)
        assert set(upstream.tokens()) == {TOKEN["Authorization"]}


async def test_who_may_hand_one_in_and_for_what(tmp_path: Path) -> None:
    """The holder of the jobKey, for a job that asks for one."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        assert await hand_in(gateway, job, "t", Authorization="Bearer other") == 401
        upstream.on_copy = upstream.accept
        copy = await gateway.copy()
        assert await hand_in(gateway, copy, "t") == 409
        assert await hand_in(gateway, {**job, "jobId": "nobody"}, "t", Authorization="Bearer other") == 401


@pytest.mark.parametrize(
    ("action", "bounds"),
    [
        ("copy", (0.5, 20)),
        ("cloneTeam", (30, 30)),
        ("createCommunity", (30, 30)),
        ("createSession", (30, 225)),
        ("copyNotebook", (0.5, 20)),
        ("updateSchema", (0.5, 20)),
    ],
)
def test_how_long_it_waits(action: str, bounds: tuple[float, float]) -> None:
    """Seconds between polls, at least and at most."""
    operation = operations.of(Target(action=action))
    found = bounds_of(operation, Bounds(0.5, 20))
    assert (operation.action, (found.shortest, found.longest)) == (action, bounds)
    assert operations.of(Target()) is COPY


async def test_its_polls_are_that_far_apart(tmp_path: Path) -> None:
    """Also the first, and whatever upstream asks for less."""
    times: list[float] = []
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:

        async def status(_request: web.Request) -> web.StreamResponse:
            times.append(anyio.current_time())
            return web.json_response({"status": "inProgress"}, headers={"Retry-After": "1"})

        upstream.on_item = status
        times.append(anyio.current_time())
        await ask(gateway, "POST", TEAM, b"{}")
        await anyio.sleep(200)
    assert min(after - before for before, after in pairwise(times)) >= 30


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"targetResourceLocation": "/teams('t')"}, "/v1.0/teams('t')"),
        ({"targetResourceLocation": "{url}/beta/sites/a,b/x?y=1"}, "/v1.0/sites/a,b/x"),
        (
            {"targetResourceLocation": "", "resourceLocation": "{url}/v1.0/me/onenote/notebooks/1-2"},
            "/v1.0/me/onenote/notebooks/1-2",
        ),
        ({"resourceLocation": "https://contoso.sharepoint.com/sites/a"}, None),
        ({"resourceLocation": "/" + "x" * 1025}, None),
        ({"resourceLocation": 7}, None),
        ({}, None),
    ],
)
async def test_where_its_result_is(body: dict[str, Any], wanted: str | None, tmp_path: Path) -> None:
    """A path of upstream's, under the version of the request; no other."""
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        located = {
            name: value.replace("{url}", upstream.url) if isinstance(value, str) else value
            for name, value in body.items()
        }
        upstream.told = [{"status": "inProgress", **located}, {"status": "succeeded", **located}]
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}")
        *before, last = [event.data for event in await tail(gateway.session, job["events"])]
        assert (last["status"], last.get("resource")) == ("completed", wanted)
        assert not [state for state in before if "resource" in state]


async def test_what_a_status_holds_besides_is_not_kept(tmp_path: Path) -> None:
    """Nor is the token, anywhere, though upstream repeats it."""
    token = jwt(exp=time.time() + 3600)
    async with serving_fake(Operations()) as upstream, serving(upstream.url, tmp_path) as gateway:
        upstream.good = {f"Bearer {token}"}
        error = {"code": "TeamUnavailable", "message": f"not under '{token}'"}
        upstream.told = [{"status": "failed", "newPassword": "hunter2", "error": error}]
        _, job, _ = await ask(gateway, "POST", TEAM, b"{}", Authorization=f"Bearer {token}")
        last = (await tail(gateway.session, job["events"]))[-1].data
        assert (last["error"]["code"], last["error"]["origin"]) == ("TeamUnavailable", "upstream")
        assert last["error"]["message"] == "not under '\ufffd'"
        assert b"hunter2" not in msgspec.json.encode(last)
    for path in tmp_path.iterdir():  # noqa: ASYNC240 - the gateway has ended
        kept = path.read_bytes()
        assert b"hunter2" not in kept
        assert token.encode() not in kept
