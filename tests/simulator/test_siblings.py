"""The simulator's moves, archives and labels: done at once, or with a monitor, or refused."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.simulator import SCENARIOS
from tests.simulator.test_items import Graph, graph

__all__ = ["graph"]
ASYNC = {"Prefer": "respond-async"}
DRIVE = "/v1.0/me/drive"
LARGE = f"{DRIVE}/items/01MOWKYVLARGEFOLDER1"
REPORT = f"{DRIVE}/items/01MOWKYVREPORT"
DOCUMENTS = {"parentReference": {"id": "01MOWKYVDOCUMENTS"}}


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (LARGE, DOCUMENTS, "root:/Documents/LargeFolder1"),
        (
            f"{DRIVE}/root:/LargeFolder1",
            {"parentReference": {"path": "/drive/root:/Documents"}},
            "root:/Documents/LargeFolder1",
        ),
        (REPORT, DOCUMENTS | {"name": "b.docx"}, "root:/Documents/b.docx"),
        (REPORT, {"parentReference": {"path": "/drive/root:"}}, "root:/report.docx"),
        (REPORT, {"name": "b.docx"}, "root:/b.docx"),
    ],
)
async def test_a_move_within_a_drive_is_done_at_once(graph: Graph, path: str, body: Any, place: str) -> None:
    """200 with the item, whose id stays; it is read at its new place and at no other."""
    before = await graph.item(path)
    status, item, headers = await graph.ask("PATCH", path, body)
    assert (status, item["id"], headers["ETag"]) == (200, before["id"], before["eTag"])
    assert (await graph.item(f"{DRIVE}/{place}"))["id"] == before["id"]
    below = await graph.item(f"{DRIVE}/items/{before['id']}")
    assert below == item
    old = f"{DRIVE}/root:/{before['name']}"
    status, _, _ = await graph.ask("GET", old)
    assert status == (200 if old == f"{DRIVE}/{place}" else 404)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        (f"{DRIVE}/root", DOCUMENTS, {}, 400, "invalidRequest: Cannot move the root folder."),
        (f"{DRIVE}/items/none", DOCUMENTS, {}, 404, "itemNotFound: "),
        (REPORT, {"parentReference": {"id": "none"}}, {}, 404, "itemNotFound: "),
        (REPORT, {"parentReference": {"id": "root"}}, {}, 400, "invalidRequest: A move names its target"),
        (
            REPORT,
            {"parentReference": {"driveId": "b!library"}},
            {},
            400,
            "invalidRequest: An item cannot be moved to an",
        ),
        (
            LARGE,
            {"parentReference": {"id": "01MOWKYVLARGEFOLDER1"}},
            {},
            400,
            "invalidRequest: An item cannot be moved in",
        ),
        (REPORT, {"parentReference": {"id": "01MOWKYVPRIVATE"}}, {}, 403, "accessDenied: "),
        (REPORT, DOCUMENTS, {"If-Match": '"{other},1"'}, 412, "resourceModified: "),
        (REPORT, {"name": "documents"}, {}, 409, "nameAlreadyExists: "),
        (f"{DRIVE}/items/label-encrypted", DOCUMENTS, {}, 423, "fileDoubleKeyEncrypted: "),
        (f"{LARGE}/archive", None, {}, 400, "invalidRequest: A folder requires"),
        (f"{REPORT}/archive", None, ASYNC, 400, "notSupported: "),
        (f"{DRIVE}/items/01MOWKYVPRIVATE/archive", None, ASYNC, 403, "accessDenied: "),
        (f"{DRIVE}/items/none/unarchive", None, ASYNC, 404, "itemNotFound: "),
        (f"{REPORT}/assignSensitivityLabel", {}, {}, 400, "invalidRequest: "),
        (f"{REPORT}/assignSensitivityLabel", None, {}, 400, "invalidRequest: "),
        (f"{DRIVE}/root/assignSensitivityLabel", {"sensitivityLabelId": ""}, {}, 400, "invalidRequest: Cannot label"),
    ],
)
async def test_refusals(graph: Graph, path: str, body: Any, headers: dict[str, str], status: int, error: str) -> None:
    """With Graph's code; nothing runs and nothing is moved."""
    method = "PATCH" if urlsplit(path).path.rpartition("/")[2] not in ACTIONS else "POST"
    answered, value, _ = await graph.ask(method, path, body, **headers)
    assert answered == status
    assert f"{value['error']['code']}: {value['error']['message']}".startswith(error)
    assert not graph.simulator.operations
    assert (await graph.item(f"{DRIVE}/root:/report.docx"))["id"] == "01MOWKYVREPORT"


ACTIONS = {
    "archive": "ItemArchive",
    "unarchive": "ItemUnarchive",
    "assignSensitivityLabel": "AssignSensitivityLabel",
}


async def test_a_file_is_archived_at_once(graph: Graph) -> None:
    """204; and 200 with what goes on without a monitor."""
    status, body, _ = await graph.ask("POST", f"{REPORT}/archive")
    assert (status, body) == (204, b"")
    status, body, _ = await graph.ask("POST", f"{DRIVE}/items/archive-file/microsoft.graph.unarchive")
    assert (status, body["file"]["archiveStatus"]) == (200, "reactivating")
    assert not graph.simulator.operations


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("bound", ["", "microsoft.graph."])
async def test_what_gets_a_monitor(graph: Graph, action: str, bound: str) -> None:
    """Below Graph's own address for archives, with a name that tells for labels; it ends without an id."""
    path = f"{LARGE}/{bound}{action}?seconds=0"
    status, _, headers = await graph.ask("POST", path, {"sensitivityLabelId": "x"}, **ASYNC)
    (operation,) = graph.simulator.operations.values()
    assert (status, operation.copy.kind) == (202, ACTIONS[action])
    parts = urlsplit(headers["Location"])
    if action == "assignSensitivityLabel":
        name = base64.b64decode(parts.path.rpartition("/")[2]).decode()
        assert name == f"AssignSensitivityLabel,{operation.copy.operation}"
        assert parts.query.startswith("tempAuth=eyJ")
    else:
        assert (parts.path, parts.query) == (f"/monitor/{operation.copy.operation}", "")
    status, value, _ = await graph.ask("GET", headers["Location"])
    assert (status, value) == (202, {"percentageComplete": 100.0, "status": "completed"})
    status, _, _ = await graph.ask("GET", headers["Location"], Authorization="Bearer x")
    assert status == 401


@pytest.mark.parametrize("name", ["move", "completed-303", "failed"])
async def test_a_scenario_gives_a_move_a_monitor(graph: Graph, name: str) -> None:
    """Which says ItemMove while it runs; the item is moved unless the move fails."""
    path = f"{REPORT}?simulate={name}&seconds=100"
    status, _, headers = await graph.ask("PATCH", path, DOCUMENTS)
    assert status == 202
    _, value, _ = await graph.ask("GET", headers["Location"])
    assert (value["operation"], value["status"]) == ("ItemMove", "inProgress")
    status, _, _ = await graph.ask("GET", f"{DRIVE}/root:/Documents/report.docx")
    assert status == (200 if SCENARIOS[name].lands else 404)
