"""deploy/proxies/split-*: the whole Graph behind one address, by clients that know nothing of a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from gateway.graph.items import OPERATIONS
from tests.support.harness import COPY_BODY, README, TOKEN
from tests.support.node import NODE
from tests.support.packages import packages
from tests.support.programs import program
from tests.support.split import PROXIES, Split, splitting

SECONDS = 60
TOKENS = {"access_token": "x", "token_type": "Bearer", "refresh_token": "x", "expiry": "2099-01-01T00:00:00Z"}
REPORT = "01MOWKYVREPORT"

Command = tuple[list[str], dict[str, str]]
"""The arguments of a client, and its own environment."""


class Splits:
    """One of each kind for all tests of the module, started when it is first asked for."""

    def __init__(self, folder: Path, parts: AsyncExitStack) -> None:
        self._folder = folder
        self._parts = parts
        self._open: dict[str, Split] = {}

    async def of(self, kind: str) -> Split:
        if kind not in self._open:
            self._open[kind] = await self._parts.enter_async_context(splitting(kind, self._folder))
        return self._open[kind]


@pytest.fixture(scope="module")
async def splits(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Splits]:
    async with AsyncExitStack() as parts:
        yield Splits(tmp_path_factory.mktemp("splits"), parts)


# Clients. Each copies report.docx or a file of its own, follows the copy to its end, and reads the new item; those that
# can also give it another name, which is a PATCH without a move.


def line_of_the_readme(sdk: str) -> str:
    """How it points this SDK here."""
    section = README.read_text().partition("## Point an SDK here")[2].partition("\n## ")[0]
    return next(line for line in section.splitlines() if re.search(rf"(#|//) {sdk}", line)).strip()


def lines_for_msgraph() -> list[str]:
    lines = README.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if "# msgraph-sdk, Python" in line)
    return [line.strip() for line in lines[first : first + 2]]


def rclone(split: Split, name: str) -> Command:
    """Its server-side copy, after which it sets the new file's time: another PATCH that is no move."""
    own = {"TYPE": "onedrive", "DRIVE_ID": "b!personal", "DRIVE_TYPE": "business", "TOKEN": json.dumps(TOKENS)}
    command = [program("rclone", "rclone"), "copyto", "graph:report.docx", f"graph:Documents/{name}.docx"]
    command += ["--ca-cert", str(split.ca), "--retries=1", "--low-level-retries=1", "--verbose"]
    return command, {f"RCLONE_CONFIG_GRAPH_{key}": value for key, value in own.items()}


def python(script: str) -> Callable[[Split, str], Command]:
    return lambda split, name: (
        [sys.executable, "-c", script, split.url, name],
        {"PYTHONPATH": str(packages("python-clients"))},
    )


def javascript(script: str) -> Callable[[Split, str], Command]:
    def command(split: Split, name: str) -> Command:
        script_file = packages("node-clients") / f"{name}.mjs"  # a module finds packages beside its own file
        script_file.write_text(script)
        return [str(NODE), str(script_file), split.url, name], {}

    return command


def m365(split: Split, name: str) -> Command:
    """`m365 file copy`, logged in; it does not wait for the copy's end."""
    home = split.home
    connection = {
        "active": True,
        "name": "x",
        "identityId": "x",
        "appId": "00000000-0000-0000-0000-000000000000",
        "tenant": "common",
        "authType": "secret",
        "cloudType": "Public",
        "accessTokens": {
            "https://graph.microsoft.com": {"expiresOn": "2099-01-01T00:00:00Z", "accessToken": "x"},
        },
    }
    (home / ".cli-m365-connection.json").write_text(json.dumps(connection))
    main = packages("node-clients") / "node_modules" / "@pnp" / "cli-microsoft365" / "dist" / "index.js"
    shared = "/sites/library/Shared Documents"
    command = [str(NODE), str(main), "file", "copy", "--webUrl", "https://contoso.sharepoint.com/sites/library"]
    command += ["--sourceUrl", f"{shared}/report.xlsx", "--targetUrl", f"{shared}/Shared", "--newName", f"{name}.xlsx"]
    return command, {"CLIMICROSOFT365_DISABLETELEMETRY": "1"}


O365 = """
import sys
from O365 import Account, MSGraphProtocol
from O365.utils.token import MemoryTokenBackend
G, name = sys.argv[1:]
{line}
tokens = MemoryTokenBackend()
authority = "https://login.microsoftonline.com/common/oauth2/v2.0/token"
response = {"access_token": "x", "expires_in": 3600, "token_type": "Bearer"}
tokens.add({"client_id": "id", "scope": ["x"], "token_endpoint": authority, "response": response})
drive = Account(("id", "secret"), token_backend=tokens).storage().get_default_drive()
assert "Documents" in [item.name for item in drive.get_root_folder().get_items()]
copying = drive.get_item_by_path("/report.docx").copy(drive.get_item_by_path("/Documents"), name=f"{name}.docx")
list(copying.check_status(delay=0.1))
assert copying.status == "completed"
new = copying.get_item()
assert new.name == f"{name}.docx"
assert new.update(name=f"{name} renamed.docx")
assert new.move(drive.get_item_by_path("/LargeFolder1"))
"""

OFFICE365 = """
import sys
from office365.graph_client import GraphClient

name = sys.argv[2]
client = GraphClient(lambda: {"access_token": "x", "token_type": "Bearer"})
root = client.me.drive.root
assert "Documents" in [item.name for item in root.children.get().execute_query()]
source = root.get_by_path("report.docx").get().execute_query()
target = root.get_by_path("Documents").get().execute_query()
copying = source.copy(name=f"{name}.docx", parent=target).execute_query()
new = copying.wait_for_item(interval=0.1)
assert new.name == f"{name}.docx", new.name
"""

MSGRAPH = """
import sys, time
import anyio
from azure.core.credentials import AccessToken
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from kiota_http.middleware.options import HeadersInspectionHandlerOption
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.drives.item.items.item.copy.copy_post_request_body import CopyPostRequestBody
from msgraph.generated.models.drive_item import DriveItem
from msgraph.generated.models.item_reference import ItemReference

G, name = sys.argv[1:]
HOST, SCOPE = "localhost", "https://graph.microsoft.com/.default"

class Credential:
    async def get_token(self, *scopes, **_):
        assert scopes == (SCOPE,), scopes
        return AccessToken("x", int(time.time()) + 3600)

async def main():
    credential = Credential()
    {line}
    client = GraphServiceClient(request_adapter=adapter)
    drive = await client.me.drive.get()
    items = client.drives.by_drive_id(drive.id).items
    assert len((await items.by_drive_item_id("root").children.get()).value) > 3
    headers = HeadersInspectionHandlerOption(inspect_response_headers=True)
    body = CopyPostRequestBody(parent_reference=ItemReference(id="01MOWKYVDOCUMENTS"), name=f"{name}.docx")
    await items.by_drive_item_id("01MOWKYVREPORT").copy.post(body, RequestConfiguration(options=[headers]))
    (job,) = headers.response_headers.get("location")
    status = "notStarted"
    while status != "completed":
        state = (await adapter._http_client.get(job, headers={"Prefer": "wait=5"})).json()
        status = state["status"]
    renamed = await items.by_drive_item_id(state["resourceId"]).patch(DriveItem(name=f"{name} renamed.docx"))
    assert renamed.name == f"{name} renamed.docx"

anyio.run(main)
"""

GRAPH_JS = """
import { Client, ResponseType } from "@microsoft/microsoft-graph-client";
const [url, name] = process.argv.slice(2);
const G = url, HOST = "localhost", authProvider = done => done(null, "x");
{line}
const { value } = await client.api("/me/drive/root/children").top(3).get();
if (value.length !== 3) throw new Error("the page is not what was asked for");
const body = { name: `${name}.docx`, parentReference: { id: "01MOWKYVDOCUMENTS" } };
const answer = await client.api("/me/drive/items/01MOWKYVREPORT/copy").responseType(ResponseType.RAW).post(body);
const job = answer.headers.get("Location");
let state;
do { state = await (await fetch(job, { headers: { Prefer: "wait=5" } })).json(); } while (state.status !== "completed");
const renamed = await client.api(`/me/drive/items/${state.resourceId}`).patch({ name: `${name} renamed.docx` });
if (renamed.name !== `${name} renamed.docx`) throw new Error(JSON.stringify(renamed));
"""

PNP_JS = """
import { graphfi, GraphBrowser } from "@pnp/graph";
import "@pnp/graph/users/index.js";
import "@pnp/graph/files/index.js";
import { BearerToken } from "@pnp/queryable";
const [url, name] = process.argv.slice(2);
const graph = graphfi().using(GraphBrowser({ baseUrl: `${url}/v1.0` }), BearerToken("x"));
const drive = graph.me.drive;
const children = await drive.root.children();
if (!children.length) throw new Error("there are no children");
const parentReference = { driveId: "b!personal", id: "01MOWKYVDOCUMENTS" };
const copy = { name: `${name}.docx`, parentReference };
const job = await drive.getItemById("01MOWKYVREPORT").copyItem(copy);
let state;
do { state = await (await fetch(job, { headers: { Prefer: "wait=5" } })).json(); } while (state.status !== "completed");
await drive.getItemById(state.resourceId).update({ name: `${name} renamed.docx` });
await drive.getItemById(state.resourceId).moveItem({ parentReference: { id: "01MOWKYVLARGEFOLDER1" } });
"""

CLIENTS: dict[str, tuple[Callable[[Split, str], Command], int, int]] = {
    "rclone": (rclone, 1, 0),
    "O365": (python(O365.replace("{line}", line_of_the_readme("O365"))), 1, 1),
    "msgraph-sdk": (python(MSGRAPH.replace("{line}", "\n    ".join(lines_for_msgraph()))), 1, 0),
    "Office365-REST-Python-Client": (python(OFFICE365), 0, 0),
    "m365": (m365, 0, 0),
    "microsoft-graph-client": (javascript(GRAPH_JS.replace("{line}", line_of_the_readme("JavaScript"))), 1, 0),
    "@pnp/graph": (javascript(PNP_JS), 1, 1),
}
"""Each client's command, its changes that are no moves, and its moves."""
EVERYWHERE = ("rclone", "microsoft-graph-client")


@pytest.mark.parametrize(
    ("kind", "client"), [(kind, client) for kind in PROXIES for client in (CLIENTS if kind == "nginx" else EVERYWHERE)]
)
async def test_a_client_of_the_whole_graph(splits: Splits, kind: str, client: str) -> None:
    """Its copy is the gateway's, and what it does around it goes to Graph."""
    make, changes, moves = CLIENTS[client]
    name = f"{client.replace('/', '-')} by {kind}"
    split = await splits.of(kind)
    split.make_files()
    before = len(split.upstream.requests)
    command, own = make(split, name)
    environment = {**os.environ, **split.environment(), **own}
    with anyio.fail_after(SECONDS):
        ended = await anyio.run_process(command, env=environment, check=False)
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr[-2000:])
    asked = list(split.upstream.requests)[before:]
    starts = [one for one in asked if one.kind == "copy"]
    assert [(split.is_direct(one), one.status, name in one.body.decode()) for one in starts] == [(False, 202, True)]
    assert [split.is_direct(one) for one in asked if one.kind == "update" and one.status == 200] == [True] * changes
    assert [split.is_direct(one) for one in asked if one.kind == "move" and one.status == 200] == [False] * moves
    reads = [one for one in asked if one.method == "GET" and one.kind in ("item", "around")]
    assert reads
    assert all(split.is_direct(one) and one.authorized for one in reads)
    assert not split.upstream.refused


# Which side a request goes to


DRIVES = [
    "me/drive",
    "me/drives/b!x,y",
    "drives/b%21x",
    "users/a@b.com/drive",
    "groups/1/drives/2",
    "sites/a,b,c/drive",
]
ITEMS = ["root", "items/01A!9", "items/odd,50%25!id", "root:/a/b%20c%2520d:", "items/01A:/%C3%A4,!:"]
MOVE = {"parentReference": {"id": "01MOWKYVDOCUMENTS"}}
LONG = {"description": "x" * 100_000}
STARTS = [
    ("POST", f"/{version}/{drive}/{item}/{action}", COPY_BODY)
    for drive in DRIVES
    for item in ITEMS
    for name in OPERATIONS
    if name != "move"
    for version, action in (
        ("v1.0", name),
        ("beta", f"microsoft.graph.{name}/"),
        ("v1.0", f"{name}?@microsoft.graph.conflictBehavior=rename&x=%2F%21"),
    )
]
MOVES = [
    ("PATCH", f"/{version}/{drive}/{item}{end}", MOVE)
    for drive in DRIVES
    for item in (*ITEMS, "root:/a.docx")
    for version, end in (("v1.0", ""), ("beta", "/"), ("v1.0", "?x=%2F"))
]
REST: list[tuple[str, str, Any]] = [
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", {"name": "report.docx"}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", {"description": 'a "parentReference" in words'}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}", LONG),
    (
        "PATCH",
        "/v1.0/me/drive/root:/report.docx:",
        {"fileSystemInfo": {"lastModifiedDateTime": "2026-02-03T04:05:06Z"}},
    ),
    ("PATCH", "/v1.0/me/messages/1", {"parentReference": {}}),
    ("PATCH", f"/v1.0/me/drive/items/{REPORT}/listItem/fields", {"Title": "x"}),
    ("GET", f"/v1.0/me/drive/items/{REPORT}", None),
    ("GET", "/v1.0/me/drive/root:/copy", None),
    ("GET", "/beta/me/drive/root/children?$top=1", None),
    ("GET", "/V1.0/me/drive", None),
    ("GET", "/v1.0/drives/b!x%2Fy/root:/a//b%20c!,%C3%A4:/children", None),
    ("GET", "/v1.0/sites/contoso.sharepoint.com:/sites/a:/drive", None),
    ("GET", "/v1.0/$metadata", None),
    ("GET", "/v1.0", None),
    ("PUT", "/v1.0/me/drive/root:/new.txt:/content", {"x": "x" * 300_000}),
    ("DELETE", "/v1.0/me/drive/items/1", None),
    ("POST", "/v1.0/$batch", {"requests": []}),
    ("POST", "/v1.0/me/messages/1/copy", {}),
    ("POST", "/v1.0/me/mailFolders/1/copy", {}),
    ("POST", "/v1.0/teams/1/unarchive", {}),
    ("POST", "/v1.0/me/drive/items/1/createUploadSession", {}),
    ("POST", "/v1.0/me/drive/root:/a/copy", {}),
    ("POST", "/v1.0/me/drive/items/1/Copy", {}),
    ("POST", "/v1.0/me/drive/items/1/copy/copy", {}),
    ("POST", "/v1.0/me/drive/root/children", {"name": "no folder"}),
    ("GET", f"/v1.0/me/drive/items/{REPORT}/copy", None),
]
OWN = [
    "/",
    "/jobs",
    "/jobs/none",
    "/jobs/none/events",
    "/events?job=none",
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
]


@pytest.mark.parametrize("kind", PROXIES)
async def test_where_each_request_goes(splits: Splits, kind: str) -> None:
    """Starts to the gateway and the rest to Graph, byte for byte, with the caller's token; nothing of it is logged."""
    split = await splits.of(kind)
    trust = aiohttp.TCPConnector(ssl=split.trust())
    async with aiohttp.ClientSession(connector=trust, headers={"Authorization": "Bearer a-token"}) as session:

        async def ask(method: str, target: str, body: Any, number: int) -> tuple[int, str]:
            ids = {"client-request-id": f"{kind}-{number}"}
            url = URL(split.url + target, encoded=True)
            async with session.request(method, url, json=body, headers=ids, allow_redirects=False) as response:
                return response.status, await response.text()

        wanted = {True: REST, False: [*STARTS, *MOVES]}
        for direct, requests in wanted.items():
            for number, (method, target, body) in enumerate(requests):
                await ask(method, target, body, number)
                asked = [
                    one for one in split.upstream.requests if one.headers.get("client-request-id") == f"{kind}-{number}"
                ]
                assert asked, (method, target)
                first = asked[0]
                raw = f"{first.path}?{first.query}" if first.query else first.path
                assert (split.is_direct(first), first.method) == (direct, method), target
                assert raw == (target if direct else target.replace("/?", "?").removesuffix("/")), target
                assert first.headers["authorization"] == "Bearer a-token"
                assert json.loads(first.body or b"null") == body
                split.upstream.forget()
        for number, target in enumerate(OWN):
            status, text = await ask("GET", target, None, number)
            assert status in (200, 401, 404), (target, status)
            assert status == 200 or "innerError" in text, target
        assert (await ask("GET", "/metrics", None, 0))[0] == 404
        assert not split.upstream.requests
    logged = split.logged()
    assert "a-token" not in logged
    assert "/jobs/" not in logged


@pytest.mark.parametrize("kind", PROXIES)
async def test_events_come_as_they_happen_and_a_stream_comes_back(tmp_path: Path, kind: str) -> None:
    """An event is read before the copy goes on; while the gateway is away a stream is told to come back, a copy that it
    may have been done, or that it was not.
    """
    now = [0.0]
    async with (
        splitting(kind, tmp_path, clock=lambda: now[0], seconds=100) as split,
        split.client() as client,
    ):
        started = await client.post(f"/v1.0/me/drive/items/{REPORT}/copy", json=COPY_BODY, headers=TOKEN)
        job = started.headers["Location"]
        assert job.startswith(f"{split.url}/jobs/")
        with anyio.fail_after(SECONDS):
            async with client.stream("GET", f"{job}/events") as stream:
                lines = stream.aiter_lines()
                for percentage in (25.0, 50.0, 75.0, 100.0):
                    now[0] = percentage
                    while True:
                        line = await anext(lines)
                        if line.startswith("data:") and json.loads(line[5:])["percentageComplete"] == percentage:
                            break
            split.gateway.kill()
            streams = ("/events?job=x", f"{job}/events?lastEventId=3")
            as_stream = {"Accept": "text/event-stream"}
            copy = f"/v1.0/me/drive/items/{REPORT}/copy"
            *told, state, start, around = await asyncio.gather(  # some proxies try for seconds
                *(client.get(target) for target in streams),
                client.get(job, headers=as_stream),
                client.get(job),
                client.post(copy, json=COPY_BODY, headers=TOKEN),
                client.get("/v1.0/me/drive", headers=TOKEN),
            )
            for answer in told:
                assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (
                    200,
                    as_stream["Accept"],
                )
                assert answer.text.startswith("retry: 5000\n\n:")
                assert answer.headers["access-control-allow-origin"] == "*"
            for answer in (state, start):
                error = answer.json()["error"]["code"]
                assert (answer.status_code, error) in ((502, "outcomeUnknown"), (503, "serviceNotAvailable"))
            assert (around.status_code, around.json()["id"]) == (200, "b!personal")


@pytest.mark.parametrize("kind", PROXIES)
async def test_graph_must_show_its_certificate(tmp_path: Path, kind: str) -> None:
    """A host with another certificate gets no token."""
    async with splitting(kind, tmp_path, graph_name="elsewhere.example.com") as split, split.client() as client:
        answer = await client.get("/v1.0/me/drive", headers=TOKEN)
        assert answer.status_code in (502, 503)
        assert not split.upstream.requests
        started = await client.post(f"/v1.0/me/drive/items/{REPORT}/copy", json=COPY_BODY, headers=TOKEN)
        assert started.status_code == 202
