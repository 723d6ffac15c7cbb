"""What clients of the whole Graph ask around a copy: people, sites, drives, and the contents of folders."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote

from gateway.simulator.answers import Answer, GraphError, document
from gateway.simulator.drives import LIBRARY, PERSONAL, Item, address, new_id
from gateway.simulator.rules import not_found

if TYPE_CHECKING:
    from gateway.simulator.drives import Tree
    from gateway.simulator.record import RecordedRequest

SITE = "contoso.sharepoint.com"
_WEB = {
    PERSONAL: "https://contoso-my.sharepoint.com/personal/megan_contoso_com/Documents",
    LIBRARY: f"https://{SITE}/sites/library/Shared%20Documents",
}
_VERSION = r"/(?:v1\.0|beta)"
_PERSON = re.compile(rf"{_VERSION}/(?:me|users/(?P<id>[^/]+))")
_SITE = re.compile(rf"{_VERSION}/sites/(?P<id>[^/:]+)(?::/(?P<path>[^:]+?)/?:?)?")
_DRIVES = re.compile(rf"{_VERSION}/(?:me|users/[^/]+|(?P<shared>(?:groups|sites)/[^/:]+))/(?P<one>drive|drives)")
_DRIVE = re.compile(rf"{_VERSION}/(?:(?:me|users/[^/]+|groups/[^/]+|sites/[^/:]+)/)?drives/(?P<id>[^/:]+)")
_CHILDREN = re.compile(r"(?P<item>.+(?:/root|/items/[^/:]+|:))/children")
_PAGE = 200


def around(tree: Tree, asked: RecordedRequest, origin: str) -> Answer | GraphError | None:
    """Return the answer to a read of what is around items, or to a new folder; None when the path is neither.

    `origin` is Graph's own, for the links to next pages. `$select` and `$expand` are ignored.
    """
    folder = _CHILDREN.fullmatch(asked.path)
    found = address(folder["item"]) if folder else None
    if found is not None and not found.action:
        item = tree.find(found, asked.at)
        if item is None:
            return not_found()
        if asked.method == "POST":
            return _new_folder(tree, item, asked)
        return _read(asked, _page([child.document(asked.at) for child in _seen(item, asked.at)], asked, origin))
    if drives := _DRIVES.fullmatch(asked.path):
        drive = LIBRARY if drives["shared"] else PERSONAL
        return _read(asked, _drive(drive) if drives["one"] == "drive" else {"value": [_drive(drive)]})
    if one := _DRIVE.fullmatch(asked.path):
        drive = unquote(one["id"])
        return not_found() if tree.root(drive) is None else _read(asked, _drive(drive))
    if person := _PERSON.fullmatch(asked.path):
        name = unquote(person["id"] or "megan@contoso.com")
        return _read(asked, {"id": _uuid(name), "displayName": name.partition("@")[0], "userPrincipalName": name})
    if site := _SITE.fullmatch(asked.path):
        return _read(asked, _site(unquote(site["id"]), unquote(site["path"] or "")))
    return None


def _read(asked: RecordedRequest, value: Any) -> Answer | GraphError:
    if asked.method not in ("GET", "HEAD"):
        return GraphError(405, "BadRequest", "The HTTP method is not supported for the request URL.")
    return document(200, value)


def _seen(item: Item, now: float) -> list[Item]:
    return [child for child in item.children.values() if child.appears <= now]


def _page(values: list[dict[str, Any]], asked: RecordedRequest, origin: str) -> dict[str, Any]:
    query = {name: found[-1] for name, found in parse_qs(asked.query).items()}
    top, first = query.get("$top", ""), query.get("$skiptoken", "")
    size = min(int(top), 1000) if top.isdecimal() and int(top) else _PAGE
    start = int(first) if first.isdecimal() else 0
    page: dict[str, Any] = {"value": values[start : start + size]}
    if start + size < len(values):
        page["@odata.nextLink"] = f"{origin}{asked.path}?$top={size}&$skiptoken={start + size}"
    return page


def _new_folder(tree: Tree, parent: Item, asked: RecordedRequest) -> Answer | GraphError:
    try:
        request = json.loads(asked.body or b"{}")
    except ValueError:
        request = None
    if not isinstance(request, dict) or not isinstance(name := request.get("name"), str) or "folder" not in request:
        return GraphError(400, "invalidRequest", "A new folder has a name and an empty folder.")
    if name.lower() in parent.children:
        if request.get("@microsoft.graph.conflictBehavior", "fail") != "rename":
            return GraphError(409, "nameAlreadyExists", "The specified item name already exists.")
        name = tree.free_name(name, parent, file=False)
    made = tree.create(Item(new_id(), name, parent.drive, parent, size=0, appears=asked.at))
    return document(201, made.document(asked.at), {"ETag": made.etag})


def _drive(identity: str) -> dict[str, Any]:
    return {
        "id": identity,
        "driveType": "business" if identity == PERSONAL else "documentLibrary",
        "name": "Documents",
        "webUrl": _WEB.get(identity, f"https://{SITE}/sites/{quote(identity)}/Shared%20Documents"),
        "quota": {"total": 2**40, "used": 2**20, "remaining": 2**40 - 2**20, "deleted": 0, "state": "normal"},
    }


def _site(name: str, path: str) -> dict[str, Any]:
    host, *ids = name.split(",")
    if host == "root" or "." not in host:
        host = SITE
    ids = ids or [_uuid(host), _uuid(f"{host}/{path}")]
    return {
        "id": ",".join([host, *ids]),
        "name": path.rpartition("/")[2] or host,
        "displayName": path.rpartition("/")[2] or host,
        "webUrl": f"https://{host}/{quote(path)}",
    }


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
