"""The simulator's drives: addresses, targets, the rules for names, and refusals that follow from the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from gateway.simulator import Simulator, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


TOKEN = {"Authorization": "Bearer x"}
RENAME = "?@microsoft.graph.conflictBehavior=rename"
REPLACE = "?%40microsoft.graph.conflictBehavior=replace"


class Graph:
    """A caller of a simulator whose copies take no time, unless they are given some."""

    def __init__(self, simulator: Simulator, client: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self._client = client

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        url = URL(path if "://" in path else self.simulator.url + path, encoded=True)
        sent = TOKEN | headers if "/monitor/" not in path else headers
        async with self._client.request(method, url, json=body, headers=sent, allow_redirects=False) as response:
            value = await response.json() if response.content_type == "application/json" else await response.read()
            return response.status, value, response.headers

    async def copy(self, path: str, body: Any = None) -> dict[str, Any]:
        """The verdict of a copy's monitor."""
        status, value, headers = await self.ask("POST", path, body)
        assert status == 202, value
        _, verdict, _ = await self.ask("GET", headers["Location"])
        assert isinstance(verdict, dict)
        return verdict

    async def item(self, path: str) -> dict[str, Any]:
        status, value, _ = await self.ask("GET", path)
        assert status == 200, value
        assert isinstance(value, dict)
        return value


@pytest.fixture
async def graph() -> AsyncIterator[Graph]:
    async with running(Simulator(seconds=0)) as simulator, aiohttp.ClientSession() as client:
        yield Graph(simulator, client)


@pytest.mark.parametrize(
    "form",
    [
        "me/drive/items/{id}",
        "me/drives/b!personal/items/{id}",
        "drives/b%21personal/items/{id}",
        "users/megan@contoso.com/drive/items/{id}",
        "users/megan%40contoso.com/drives/b!personal/items/{id}",
        "me/drive/root:/Documents/%2E%2E%2E%20{id}:",
        "me/drive/items/01MOWKYVDOCUMENTS:/{id}:",
        "drives/b!personal/root:/{id}:",
        "groups/g/drive/items/{id}",
        "sites/contoso.sharepoint.com,1,2/drive/items/{id}",
        "sites/s/drives/b!library/root:/{id}:",
        "groups/g/drives/b!library/items/01LIBRARYSHARED:/a/{id}:",
    ],
)
@pytest.mark.parametrize("version", ["v1.0", "beta"])
@pytest.mark.parametrize("action", ["copy", "microsoft.graph.copy"])
async def test_a_scenario_is_chosen_by_any_form_of_address(graph: Graph, form: str, version: str, action: str) -> None:
    """The last word of an item's address names the scenario, whatever stands before it."""
    form = form.replace("%2E%2E%2E%20", "x/")
    path = f"/{version}/{form.format(id='completed-303')}"
    status, value, headers = await graph.ask("POST", f"{path}/{action}", {})
    assert status == 202, value
    status, value, _ = await graph.ask("GET", headers["Location"])
    assert (status, value["status"]) == (303, "completed")
    assert (await graph.item(path.removesuffix(":")))["name"] == "completed-303"


async def test_the_seeded_tree_is_read_by_id_and_by_path(graph: Graph) -> None:
    """Ids with `!`, `,` and `%`, names with spaces, roots, and either end of a path."""
    documents = await graph.item("/v1.0/me/drive/root:/Documents")
    assert documents == await graph.item("/v1.0/me/drive/root:/documents:")
    assert documents == await graph.item(f"/beta/users/me/drive/items/{documents['id']}")
    assert (await graph.item("/v1.0/me/drive/items/D4648F06C91D9D3D!54927"))["name"] == "Photos"
    assert (await graph.item("/v1.0/me/drive/items/odd,50%25!id"))["name"] == "50% off, really"
    assert (await graph.item("/v1.0/me/drive/root:/50%25%20off%2C%20really"))["id"] == "odd,50%!id"
    root = await graph.item("/v1.0/me/drive/root")
    assert root == await graph.item("/v1.0/me/drive/items/root")
    assert root["root"] == {}
    large = await graph.item("/v1.0/me/drive/root:/LargeFolder1")
    assert large["folder"] == {"childCount": 2}
    report = await graph.item("/v1.0/me/drive/root:/report.docx")
    assert "file" in report
    assert "folder" not in report
    assert (await graph.item("/v1.0/sites/s/drive/root:/Shared"))["parentReference"]["driveId"] == "b!library"


@pytest.mark.parametrize(
    ("reference", "parent"),
    [
        (None, "/drives/b!personal/root:"),
        ({"id": "01MOWKYVDOCUMENTS"}, "/drives/b!personal/root:/Documents"),
        ({"driveId": "b!library", "id": "01LIBRARYSHARED"}, "/drives/b!library/root:/Shared"),
        ({"driveId": "b!library", "id": "root"}, "/drives/b!library/root:"),
        ({"driveId": "b!library"}, "/drives/b!library/root:"),
        ({"path": "/drive/root:/Documents"}, "/drives/b!personal/root:/Documents"),
        ({"path": "/drive/root:"}, "/drives/b!personal/root:"),
        ({"path": "/drive/root"}, "/drives/b!personal/root:"),
        ({"path": "/drives/b!library/root:/Shared"}, "/drives/b!library/root:/Shared"),
        ({"path": "/drives/b!library/items/01LIBRARYSHARED"}, "/drives/b!library/root:/Shared"),
        ({"driveId": "b!library", "path": "/drive/root:/Shared"}, "/drives/b!library/root:/Shared"),
        ({"id": "01MOWKYVDOCUMENTS", "path": "/drive/root:/Documents"}, "/drives/b!personal/root:/Documents"),
    ],
)
async def test_where_a_copy_lands(graph: Graph, reference: Any, parent: str) -> None:
    """Each way to name the target, and the source's own folder when none is named."""
    body = {"name": "new", "parentReference": reference}
    verdict = await graph.copy("/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1/copy", body)
    drive = parent.split("/")[2]
    item = await graph.item(f"/v1.0/drives/{drive}/items/{verdict['resourceId']}")
    assert item["parentReference"]["path"] == parent
    assert item["folder"] == {"childCount": 2}
    mine, _, _ = await graph.ask("GET", f"/v1.0/me/drive/items/{verdict['resourceId']}")
    assert mine == (200 if drive == "b!personal" else 404)


LARGE = "/v1.0/me/drive/items/01MOWKYVLARGEFOLDER1/copy"
REPORT = "/v1.0/me/drive/items/01MOWKYVREPORT/copy"


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1.0/me/drive/root/copy", {}, 400, "invalidRequest: Cannot copy the root folder."),
        ("/v1.0/me/drive/items/root/copy", {}, 400, "invalidRequest: Cannot copy the root folder."),
        (REPORT, {"childrenOnly": True}, 400, "invalidRequest: childrenOnly option is not valid for file items."),
        (
            LARGE,
            {"childrenOnly": True, "name": "x"},
            400,
            "invalidRequest: Cannot use name parameter alongside childrenOnly.",
        ),
        ("/v1.0/me/drive/items/none/copy", {}, 404, "itemNotFound: "),
        ("/v1.0/drives/none/items/01MOWKYVREPORT/copy", {}, 404, "itemNotFound: "),
        (LARGE, {"parentReference": {"id": "none"}}, 404, "itemNotFound: "),
        (LARGE, {"parentReference": {"driveId": "none"}}, 404, "itemNotFound: "),
        (LARGE, {"parentReference": {"path": "/drive/root:/none"}}, 404, "itemNotFound: "),
        (LARGE, {"parentReference": {"path": "none"}}, 400, "invalidRequest: "),
        (LARGE, {"parentReference": {"id": "01MOWKYVREPORT"}}, 400, "invalidRequest: "),
        (
            LARGE,
            {"parentReference": {"id": "01MOWKYVLARGEFOLDER1"}},
            400,
            "invalidRequest: An item cannot be copied into itself.",
        ),
        (LARGE, {"parentReference": {"id": "01MOWKYVDOCUMENTS", "path": "/drive/root"}}, 400, "invalidRequest: "),
        (LARGE, {"parentReference": "none"}, 400, "invalidRequest: "),
        (LARGE, {"name": 1}, 400, "invalidRequest: "),
        (LARGE, ["name"], 400, "invalidRequest: "),
        (LARGE + "?@microsoft.graph.conflictBehavior=maybe", {"name": "x"}, 400, "invalidRequest: "),
        (LARGE, {"parentReference": {"id": "01MOWKYVPRIVATE"}}, 403, "accessDenied: "),
        ("/v1.0/me/drive/items/01MOWKYVPRIVATE/copy", {"name": "x"}, 403, "accessDenied: "),
        (LARGE, {"parentReference": {"driveId": "b!full"}}, 507, "quotaLimitReached: "),
        (LARGE, {"name": "largefolder1"}, 409, "nameAlreadyExists: The specified item name already exists."),
    ],
)
async def test_refusals_that_follow_from_the_tree(graph: Graph, path: str, body: Any, status: int, error: str) -> None:
    """Refused on the spot with Graph's code, and nothing runs."""
    answered, value, _ = await graph.ask("POST", path, body)
    assert answered == status
    assert f"{value['error']['code']}: {value['error']['message']}".startswith(error)
    assert not graph.simulator.operations


async def test_broken_json_is_refused(graph: Graph) -> None:
    """A body that is no JSON is 400."""
    async with (
        aiohttp.ClientSession() as client,
        client.post(graph.simulator.url + LARGE, data=b"{", headers=TOKEN) as response,
    ):
        assert response.status == 400


async def test_taken_names(graph: Graph) -> None:
    """A clash is told at once if the body has a name, else by the monitor; rename counts up; only the query decides."""
    in_body = {"name": "LargeFolder1", "@microsoft.graph.conflictBehavior": "rename"}
    status, value, _ = await graph.ask("POST", LARGE, in_body)
    assert (status, value["error"]["code"]) == (409, "nameAlreadyExists")
    verdict = await graph.copy(LARGE, {})
    assert (verdict["status"], verdict["error"]["code"]) == ("failed", "nameAlreadyExists")
    for number in (1, 2):
        verdict = await graph.copy(LARGE + RENAME, {"name": "LargeFolder1"})
        item = await graph.item(f"/v1.0/me/drive/items/{verdict['resourceId']}")
        assert item["name"] == f"LargeFolder1 {number}"
    verdict = await graph.copy(REPORT + RENAME)
    assert (await graph.item("/v1.0/me/drive/root:/report%201.docx"))["id"] == verdict["resourceId"]


async def test_replace_is_for_files(graph: Graph) -> None:
    """A file takes the place of the one there; a folder fails."""
    first = await graph.copy(REPORT, {"name": "b.docx"})
    second = await graph.copy(REPORT + REPLACE, {"name": "b.docx"})
    assert (await graph.item("/v1.0/me/drive/root:/b.docx"))["id"] == second["resourceId"]
    status, _, _ = await graph.ask("GET", f"/v1.0/me/drive/items/{first['resourceId']}")
    assert status == 404
    status, value, _ = await graph.ask("POST", LARGE + REPLACE, {"name": "Documents"})
    assert (status, value["error"]["code"]) == (409, "nameAlreadyExists")


async def test_children_only(graph: Graph) -> None:
    """The root's or a folder's children are copied; the id told is the target's."""
    body = {"childrenOnly": True, "parentReference": {"driveId": "b!library", "id": "01LIBRARYSHARED"}}
    verdict = await graph.copy(LARGE, body)
    assert verdict["resourceId"] == "01LIBRARYSHARED"
    assert (await graph.item("/v1.0/sites/s/drive/root:/Shared/part%201.bin"))["size"] == 8000
    assert (await graph.copy(LARGE, body))["status"] == "failed"
    assert (await graph.copy(LARGE + RENAME, body))["status"] == "completed"
    assert await graph.item("/v1.0/sites/s/drive/root:/Shared/part%201%201.bin")
    root = {"childrenOnly": True, "parentReference": {"driveId": "b!library", "id": "root"}}
    assert (await graph.copy("/v1.0/me/drive/root/copy", root))["status"] == "completed"
    assert await graph.item("/v1.0/sites/s/drive/root:/LargeFolder1/part%202.bin")


async def test_whoever_names_a_scenario_is_spared_the_rules(graph: Graph) -> None:
    """Neither item nor target need exist, and a taken name gets a number; without a scenario it is 404."""
    for name in ("same", "same 1"):
        body = {"name": "same", "parentReference": {"driveId": "D 2", "id": "folder"}}
        verdict = await graph.copy("/v1.0/drives/D1/items/anything/copy?simulate=copy", body)
        item = await graph.item(f"/v1.0/drives/D%202/items/{verdict['resourceId']}")
        assert (item["name"], item["parentReference"]["id"]) == (name, "folder")
    by_path = {"name": "x", "parentReference": {"path": "/drives/D3/root:/a/b"}}
    await graph.copy("/v1.0/me/drive/items/copy/copy", by_path)
    assert await graph.item("/v1.0/drives/D3/root:/a/b/x")
    status, _, _ = await graph.ask("GET", "/v1.0/drives/D1/items/anything")
    assert status == 404


async def test_conflict_scenarios_keep_the_rules(graph: Graph) -> None:
    """The stand-ins "conflict" and "conflict-file" are under the rules that others are spared."""
    path = "/v1.0/me/drive/items/conflict/copy"
    status, value, _ = await graph.ask("POST", path, {"name": "Documents"})
    assert (status, value["error"]["code"]) == (409, "nameAlreadyExists")
    verdict = await graph.copy(path + RENAME, {"name": "Documents"})
    assert (await graph.item("/v1.0/me/drive/root:/Documents%201"))["id"] == verdict["resourceId"]
    file = "/v1.0/me/drive/items/conflict-file/copy"
    verdict = await graph.copy(file + REPLACE, {"name": "report.docx"})
    assert (await graph.item("/v1.0/me/drive/root:/report.docx"))["id"] == verdict["resourceId"]
    status, _, _ = await graph.ask("POST", file, {"childrenOnly": True})
    assert status == 400
