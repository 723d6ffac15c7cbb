"""The flow of Graph's documents, with clients of the field: curl, the official SDK, an SSE client library."""

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
from azure.core.credentials import AccessToken
from httpx_sse import aconnect_sse
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from kiota_http.middleware.options import HeadersInspectionHandlerOption
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.drives.item.items.item.copy.copy_post_request_body import CopyPostRequestBody
from msgraph.generated.models.item_reference import ItemReference

from gateway.simulator import Simulator, running
from tests.support.harness import Process

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
