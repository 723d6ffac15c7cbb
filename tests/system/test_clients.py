"""The flow of Graph's documents, with clients of the field: curl, the official SDK, an SSE client library, pollers."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import pytest
from aiohttp import web
from azure.core import AsyncPipelineClient, PipelineClient
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import (
    AsyncRedirectPolicy,
    AsyncRetryPolicy,
    CustomHookPolicy,
    RedirectPolicy,
    RequestIdPolicy,
    RetryPolicy,
)
from azure.core.polling import AsyncLROPoller, LROPoller
from azure.core.polling.async_base_polling import AsyncLROBasePolling
from azure.core.polling.base_polling import LROBasePolling
from azure.core.rest import HttpRequest
from httpx_sse import aconnect_sse
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from kiota_http.middleware.options import HeadersInspectionHandlerOption
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.drives.item.items.item.copy.copy_post_request_body import CopyPostRequestBody
from msgraph.generated.models.item_reference import ItemReference
from msgraph.generated.models.team import Team
from msgraph.generated.teams.item.archive.archive_post_request_body import ArchivePostRequestBody

from gateway.jobs import poller, watch
from gateway.simulator import Simulator, running
from tests.jobs.test_operations import Operations
from tests.support.fake_upstream import FakeUpstream, answering, faking, serving_fake
from tests.support.harness import Process, Running, serving

RESULT = "01MOWKYVJML57KN2ANMBA3JZJS2MBGC7KM"
ITEM = "01MOWKYVLARGEFOLDER1"
BODY = {"parentReference": {"path": "/drive/root:/Documents"}, "name": "Copy of LargeFolder1"}
CURL = shutil.which("curl")


@asynccontextmanager
async def documented(folder: Path) -> AsyncIterator[Process]:
    """The source document's copy in 18 steps, one a poll however long that takes: 27.8 is the fifth."""
    simulator = Simulator(seconds=18, steps=18, clock=lambda: float(len(simulator.polls())))
    async with (
        running(simulator) as upstream,
        Process(upstream.url, folder, poll_min=0.05, poll_max=0.05) as gateway,
    ):
        yield gateway


def check(seen: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """27.8 … 100, completed with the resourceId; the last state."""
    percentages = [state["percentageComplete"] for _, state in seen]
    assert 27.8 in percentages
    assert percentages == sorted(percentages)
    name, last = seen[-1]
    assert (name, last["status"], last["percentageComplete"]) == ("completed", "completed", 100.0)
    assert last["resourceId"] == RESULT
    return last


@pytest.mark.skipif(CURL is None and "CI" not in os.environ, reason="curl is not installed; in CI it must be")
async def test_curl(tmp_path: Path) -> None:
    """POST, `curl -N` on the stream to its end, GET of the result."""
    async with documented(tmp_path) as gateway:

        async def curl(*arguments: str) -> str:
            assert CURL is not None, "curl is not installed"
            command = [CURL, "-sS", "--max-time", "30", *arguments]
            ran = await anyio.run_process(command)
            return ran.stdout.decode()

        token = ("-H", "Authorization: Bearer x", "-H", "Content-Type: application/json")
        url = f"{gateway.url}/v1.0/me/drive/items/{ITEM}/copy"
        head, _, body = (await curl("-i", "-X", "POST", *token, "-d", json.dumps(BODY), url)).partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 202")
        job = json.loads(body)
        assert re.search(rf"(?im)^location: {re.escape(gateway.url)}/jobs/{job['jobId']}\r?$", head)
        stream = await curl("-N", f"{gateway.url}/jobs/{job['jobId']}/events")
        blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in stream.strip().split("\n\n")[1:]]
        last = check([(block["event"], json.loads(block["data"])) for block in blocks])
        item = json.loads(await curl(*token[:2], gateway.url + last["resource"]))
        assert item["name"] == "Copy of LargeFolder1"


class Credential:
    """A token without a login."""

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken("a-token", int(time.time()) + 3600)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


# Its modules, imported as they are used, warn of what is deprecated among themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(kiota|msgraph|opentelemetry)")
async def test_the_official_sdk(tmp_path: Path) -> None:
    """With only its base URL and its allowed hosts changed: the copy is started, followed and read."""
    async with documented(tmp_path) as gateway:
        provider = AzureIdentityAuthenticationProvider(Credential(), allowed_hosts=["127.0.0.1", "localhost"])
        adapter = GraphRequestAdapter(provider)
        adapter.base_url = f"{gateway.url}/v1.0"
        client = GraphServiceClient(request_adapter=adapter)
        body = CopyPostRequestBody(
            parent_reference=ItemReference(path="/drive/root:/Documents"), name="Copy of LargeFolder1"
        )
        headers = HeadersInspectionHandlerOption(inspect_response_headers=True)
        items = client.drives.by_drive_id("b!personal").items
        await items.by_drive_item_id(ITEM).get()  # its first call imports for a second, in the simulator's own loop
        await items.by_drive_item_id(ITEM).copy.post(body, RequestConfiguration(options=[headers]))
        (location,) = headers.response_headers.get("location")
        assert location.startswith(f"{gateway.url}/jobs/")
        async with httpx.AsyncClient(timeout=30) as plain:
            last = check(await follow(plain, f"{location}/events"))
        item = await items.by_drive_item_id(last["resourceId"]).get()
        await adapter._http_client._transport.transport.aclose()  # the SDK closes only its own wrapper of it
        assert item is not None
        assert item.name == "Copy of LargeFolder1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(kiota|msgraph|opentelemetry)")
async def test_the_official_sdk_and_teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team is created, and another archived, each followed to its result, which the stream names."""
    for module in (poller, watch):
        monkeypatch.setattr(module, "bounds_of", lambda _operation, own: own)  # Graph's 30 s between polls
    fake = Operations()
    fake.good = {"Bearer a-token"}
    fake.told[-1] |= {"targetResourceId": "t2", "targetResourceLocation": "/teams('t2')"}
    async with serving_fake(fake) as upstream, serving(upstream.url, tmp_path) as gateway:
        provider = AzureIdentityAuthenticationProvider(Credential(), allowed_hosts=["127.0.0.1", "localhost"])
        adapter = GraphRequestAdapter(provider)
        adapter.base_url = f"{gateway.url}/v1.0"
        client = GraphServiceClient(request_adapter=adapter)

        async def create(options: list[Any]) -> None:
            await client.teams.post(Team(display_name="Team"), RequestConfiguration(options=options))

        async def archive(options: list[Any]) -> None:
            team = client.teams.by_team_id("t1")
            await team.archive.post(ArchivePostRequestBody(), RequestConfiguration(options=options))

        for start in (create, archive):
            headers = HeadersInspectionHandlerOption(inspect_response_headers=True)
            fake.told.insert(0, {"status": "inProgress"})
            await start([headers])
            (location,) = headers.response_headers.get("location")
            assert location.startswith(f"{gateway.url}/jobs/")
            async with httpx.AsyncClient(timeout=30) as plain:
                last = (await follow(plain, f"{location}/events"))[-1]
            assert (last[0], last[1]["resource"]) == ("completed", "/v1.0/teams('t2')")
        await adapter._http_client._transport.transport.aclose()  # the SDK closes only its own wrapper of it
    assert set(fake.tokens()) == {"Bearer a-token"}
    assert {path for method, path, *_ in fake.asked if method == "POST"} == {"/v1.0/teams", "/v1.0/teams/t1/archive"}


async def follow(client: httpx.AsyncClient, url: str, *, drop_every: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """All events, reconnecting with the last id after every so many."""
    seen: list[tuple[str, dict[str, Any]]] = []
    last = ""
    while not seen or seen[-1][0] == "progress":
        async with aconnect_sse(client, "GET", url, headers={"Last-Event-ID": last} if last else {}) as source:
            count = 0
            async for event in source.aiter_sse():
                if not event.data:
                    continue  # the library shows a lone `retry:` as an event, against the specification
                seen.append((event.event, json.loads(event.data)))
                last = event.id
                count += 1
                if count == drop_every:
                    break
    return seen


async def test_httpx_sse(tmp_path: Path) -> None:
    """The stream in a client library, also when it reconnects after every other event: the same events."""
    async with documented(tmp_path) as gateway, httpx.AsyncClient(timeout=30) as client:
        response = await client.post(
            f"{gateway.url}/v1.0/me/drive/items/{ITEM}/copy", json=BODY, headers={"Authorization": "Bearer x"}
        )
        assert response.status_code == 202
        url = response.json()["events"]
        dropped = await follow(client, url, drop_every=2)
        last = check(dropped)
        assert await follow(client, url) == dropped
        item = await client.get(gateway.url + last["resource"], headers={"Authorization": "Bearer x"})
        assert item.json()["id"] == RESULT


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_azures_pollers(kind: str, tmp_path: Path) -> None:
    """From the 202 of a copy to its end, as the clients that are generated for Azure's operations do it."""
    answers: list[int] = []

    def keep(response: Any) -> None:
        answers.append(response.http_response.status_code)

    def content(response: Any) -> Any:
        return response.http_response.json()

    def poll(url: str) -> Any:
        policies = [RequestIdPolicy(), RedirectPolicy(), RetryPolicy(), CustomHookPolicy(raw_response_hook=keep)]
        with PipelineClient[Any, Any](url, policies=policies) as client:
            first = client.send_request(start(url), _return_pipeline_response=True)
            poller = LROPoller(client, first, content, LROBasePolling(timeout=1))
            return poller.result(timeout=30)

    async def poll_async(url: str) -> Any:
        hook = CustomHookPolicy(raw_response_hook=keep)
        policies = [RequestIdPolicy(), AsyncRedirectPolicy(), AsyncRetryPolicy(), hook]
        async with AsyncPipelineClient[Any, Any](url, policies=policies) as client:
            first = await client.send_request(start(url), _return_pipeline_response=True)
            return await AsyncLROPoller(client, first, content, AsyncLROBasePolling(timeout=1))

    def start(url: str) -> HttpRequest:
        token = {"Authorization": "Bearer x"}
        return HttpRequest("POST", f"{url}/v1.0/me/drive/items/{ITEM}/copy", json=BODY, headers=token)

    copying = Simulator(seconds=2, clock=lambda: 10.0 if len(answers) > 1 else 0.0)  # until it was polled once
    async with running(copying) as upstream, Process(upstream.url, tmp_path) as gateway:
        if kind == "sync":
            last = await anyio.to_thread.run_sync(poll, gateway.url)
        else:
            last = await poll_async(gateway.url)
    assert (last["status"], last["resourceId"]) == ("completed", RESULT)
    assert answers[:2] == [202, 202]
    assert answers[-1] == 200


async def test_a_wait_at_another_gateway(database_url: str, tmp_path: Path) -> None:
    """A poller that waits at one gateway hears at once of the end that the other one saw."""
    async with (
        faking() as upstream,
        serving(upstream.url, tmp_path, store_url=database_url) as watching,
        serving(upstream.url, tmp_path, store_url=database_url) as other,
        httpx.AsyncClient(timeout=30) as client,
    ):
        job = await watching.copy()
        url = f"{other.url}/jobs/{job['jobId']}"
        known = (await client.get(url, headers={"Prefer": "wait=20", "If-None-Match": '"1"'})).headers["ETag"]
        assert known == '"2"'
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ended_by, upstream, other)
            last = await client.get(url, headers={"Prefer": "wait=20", "If-None-Match": known})
        assert (last.status_code, last.json()["status"]) == (200, "completed")
        assert last.elapsed.total_seconds() < 5


async def ended_by(upstream: FakeUpstream, gateway: Running) -> None:
    """Let the copy end once a wait is held."""
    while not gateway.gateway.parts.tails.open:  # noqa: ASYNC110 - the gateway has no event for it
        await anyio.sleep(0.01)
    upstream.on_poll = answering(lambda: web.json_response({"status": "completed", "resourceId": RESULT}))
