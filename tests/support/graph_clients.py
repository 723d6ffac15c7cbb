"""Clients of the whole Graph, as the field runs them, pointed at a split.

Each lists a folder, copies a file, follows the copy to its end if it ever does, and reads the new item; some then give
it another name, which is a PATCH without a move, and move it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

from tests.support import node
from tests.support.harness import README
from tests.support.packages import packages
from tests.support.programs import program
from tests.support.split import Split

TOKENS = {"access_token": "x", "token_type": "Bearer", "refresh_token": "x", "expiry": "2099-01-01T00:00:00Z"}

Command = tuple[list[str], dict[str, str]]
"""The arguments of a client, and its own environment."""


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
        program, script_file = node.node(), node.FOLDER / f"{name}.mjs"  # a module finds packages beside its own file
        script_file.write_text(script)
        return [program, str(script_file), split.url, name], {}

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
    main = packages("m365") / "node_modules" / "@pnp" / "cli-microsoft365" / "dist" / "index.js"
    shared = "/sites/library/Shared Documents"
    command = [str(node.NODE), str(main), "file", "copy", "--webUrl", "https://contoso.sharepoint.com/sites/library"]
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
