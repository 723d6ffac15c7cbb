"""What the simulator plays around a copy: drives, sites, people, folders, and changes of items that are no moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import Simulator, running
from tests.simulator.test_items import Graph

REPORT = "/v1.0/me/drive/items/01MOWKYVREPORT"
ROOT = "/v1.0/me/drive/root"


@pytest.fixture
async def graph() -> AsyncIterator[Graph]:
    async with running(Simulator(seconds=0)) as simulator, aiohttp.ClientSession() as client:
        yield Graph(simulator, client)


@pytest.mark.parametrize(
    ("path", "drive"),
    [
        ("me/drive", "b!personal"),
        ("users/megan@contoso.com/drive", "b!personal"),
        ("groups/g/drive", "b!library"),
        ("sites/contoso.sharepoint.com,1,2/drive", "b!library"),
        ("drives/b%21library", "b!library"),
        ("me/drives/b!personal", "b!personal"),
    ],
)
async def test_a_drive(graph: Graph, path: str, drive: str) -> None:
    assert (await graph.item(f"/v1.0/{path}"))["id"] == drive
    if path.endswith("/drive"):
        assert [one["id"] for one in (await graph.item(f"/beta/{path}s"))["value"]] == [drive]


@pytest.mark.parametrize(
    "folder", [ROOT, "/v1.0/drives/b!personal/items/root", "/beta/me/drive/items/01ROOTB!PERSONAL"]
)
async def test_the_children_of_a_folder_by_pages(graph: Graph, folder: str) -> None:
    """Each page names the next one until all were told, once each."""
    whole = (await graph.item(f"{folder}/children"))["value"]
    seen: list[Any] = []
    following: str | None = f"{folder}/children?$top=4"
    while following is not None:
        page = await graph.item(following)
        seen += page["value"]
        following = page.get("@odata.nextLink")
        assert len(page["value"]) == 4 or following is None
    assert seen == whole
    assert {"Documents", "report.docx"} < {child["name"] for child in seen}
    assert (await graph.item(f"{ROOT}:/LargeFolder1:/children"))["value"][0]["name"] == "part 1.bin"
    status, value, _ = await graph.ask("GET", f"{ROOT}:/none:/children")
    assert (status, value["error"]["code"]) == (404, "itemNotFound")


async def test_sites_and_people(graph: Graph) -> None:
    """A site is found by its path, and the id that it tells finds it again."""
    site = await graph.item("/v1.0/sites/contoso.sharepoint.com:/sites/library")
    assert site["webUrl"] == "https://contoso.sharepoint.com/sites/library"
    assert (await graph.item(f"/v1.0/sites/{site['id']}"))["id"] == site["id"]
    assert (await graph.item("/v1.0/sites/root"))["id"].startswith("contoso.sharepoint.com,")
    assert (await graph.item("/v1.0/me"))["userPrincipalName"] == "megan@contoso.com"
    assert (await graph.item("/v1.0/users/a%40b.com"))["userPrincipalName"] == "a@b.com"


async def test_a_new_folder(graph: Graph) -> None:
    made, folder = {"name": "New", "folder": {}}, f"{ROOT}:/Documents:/children"
    status, item, _ = await graph.ask("POST", folder, made)
    assert (status, item["name"], item["folder"]) == (201, "New", {"childCount": 0})
    assert (await graph.item(f"{ROOT}:/Documents/new"))["id"] == item["id"]
    status, value, _ = await graph.ask("POST", folder, made)
    assert (status, value["error"]["code"]) == (409, "nameAlreadyExists")
    status, item, _ = await graph.ask("POST", folder, {**made, "@microsoft.graph.conflictBehavior": "rename"})
    assert (status, item["name"]) == (201, "New 1")
    bodies: tuple[Any, ...] = ({"name": "x"}, {"folder": {}}, [], None)
    for body in bodies:
        status, value, _ = await graph.ask("POST", folder, body)
        assert (status, value["error"]["code"]) == (400, "invalidRequest")


async def test_a_change_that_is_no_move(graph: Graph) -> None:
    """It is done at once, where the item is, and a copy has the times of its source."""
    time = "2026-02-03T04:05:06Z"
    changes = {"name": "other.docx", "description": "d", "fileSystemInfo": {"lastModifiedDateTime": time}}
    status, item, _ = await graph.ask("PATCH", REPORT, changes)
    assert (status, item["name"], item["description"]) == (200, "other.docx", "d")
    assert item["parentReference"]["path"] == "/drives/b!personal/root:"
    copied = await graph.copy(f"{REPORT}/copy", {"parentReference": {"id": "01MOWKYVDOCUMENTS"}})
    new = await graph.item(f"/v1.0/me/drive/items/{copied['resourceId']}")
    assert new["fileSystemInfo"]["lastModifiedDateTime"] == new["lastModifiedDateTime"] == time
    assert [asked.kind for asked in graph.simulator.requests if asked.method == "PATCH"] == ["update"]
    status, value, _ = await graph.ask("PATCH", REPORT, {"name": "Documents"})
    assert (status, value["error"]["code"]) == (409, "nameAlreadyExists")
    status, value, _ = await graph.ask("PATCH", REPORT, {"name": "x"}, **{"If-Match": '"other"'})
    assert (status, value["error"]["code"]) == (412, "resourceModified")
    status, value, _ = await graph.ask("PATCH", REPORT, {"name": 1})
    assert (status, value["error"]["code"]) == (400, "invalidRequest")


@pytest.mark.parametrize(
    "path", ["/v1.0/me", "/v1.0/me/drive", f"{ROOT}/children", "/v1.0/sites/root", "/v1.0/me/none"]
)
async def test_without_a_token_nothing_is_told_or_done(graph: Graph, path: str) -> None:
    async with aiohttp.ClientSession() as client:
        for method in ("GET", "POST"):
            made = {"name": "New", "folder": {}}
            url = URL(graph.simulator.url + path, encoded=True)
            async with client.request(method, url, json=made) as response:
                assert response.status == 401
    assert "New" not in {child["name"] for child in (await graph.item(f"{ROOT}/children"))["value"]}


async def test_what_is_only_read(graph: Graph) -> None:
    for path in ("/v1.0/me", "/v1.0/me/drive", "/v1.0/sites/root", "/v1.0/drives/b!personal"):
        assert (await graph.ask("DELETE", path))[0] == 405
    assert (await graph.ask("GET", "/v1.0/drives/none"))[0] == 404
